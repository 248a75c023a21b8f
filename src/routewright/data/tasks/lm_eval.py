"""Tasks of lm-evaluation-harness: `lm_eval=TASK`, or `lm_eval=TASK@FOLDER` with its YAML file."""

from __future__ import annotations

from typing import Any

from routewright.data.choices import with_options
from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.types import Query


def read(task: str, split: str) -> list[Item]:
    """The documents of the task's test split, else of its validation split, without examples.

    The harness scores options by their likelihood; here they are written below the question and
    the answer names one. Groups of tasks are read task by task.
    """
    name, _, folder = task.partition("@")
    loaded = _task(name, folder or None)
    docs = loaded.test_docs() if loaded.has_test_docs() else loaded.validation_docs()
    return [_item(loaded, doc, f"{name}/{number}", name, split) for number, doc in enumerate(docs)]


def _task(name: str, folder: str | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager, get_task_dict
    except ImportError as error:
        raise BadInput(
            "lm_eval=… needs lm-evaluation-harness: pip install 'routewright[harness]'"
        ) from error
    try:
        found = get_task_dict([name], TaskManager(include_path=folder))
    except Exception as error:  # the harness and its data set library raise all sorts
        raise BadInput(f"lm_eval={name} cannot be loaded: {error}") from error
    if name not in found or isinstance(found[name], dict):
        raise BadInput(f"lm_eval={name} is a group: name one of its tasks")
    return found[name]


def _item(task: Any, doc: Any, id: str, name: str, split: str) -> Item:
    prompt, target = str(task.doc_to_text(doc)), task.doc_to_target(doc)
    if task.OUTPUT_TYPE != "multiple_choice":
        return Item(Query.of(prompt, id=id, domain=name), reference=target, split=split)
    choices = [str(choice) for choice in task.doc_to_choice(doc)]
    return Item(
        Query.of(with_options(prompt, choices), id=id, domain=name),
        reference=target,
        split=split,
        grader="multiple_choice",
        facts={"choices": choices},
    )
