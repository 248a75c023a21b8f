"""Reads tasks of lm-evaluation-harness: `lm_eval=TASK`, or `lm_eval=TASK@FOLDER` with its YAML."""

from __future__ import annotations

from typing import Any

from routewright.data.choices import with_options
from routewright.data.queries import Item
from routewright.errors import BadInput, needs
from routewright.types import Query


def read(task: str, split: str) -> list[Item]:
    """The documents of the task's test split, else of its validation split, without examples.

    The harness scores options by their likelihood. In these queries the options are listed below
    the question, and the answer names one. Raises BadInput if the task cannot be loaded or is a
    group of tasks.
    """
    name, _, folder = task.partition("@")
    source = _task(name, folder or None)
    docs = source.test_docs() if source.has_test_docs() else source.validation_docs()
    return [_item(source, doc, f"{name}/{number}", name, split) for number, doc in enumerate(docs)]


def _task(name: str, folder: str | None) -> Any:
    with needs(f"lm_eval={name}"):
        from lm_eval.tasks import TaskManager, get_task_dict
    try:
        tasks = get_task_dict([name], TaskManager(include_path=folder))
    except Exception as error:  # the harness and its data set library can raise anything
        raise BadInput(f"lm_eval={name} cannot be loaded: {error}") from error
    if name not in tasks or isinstance(tasks[name], dict):
        raise BadInput(f"lm_eval={name} is a group: name one of its tasks")
    return tasks[name]


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
