"""Reads tasks of Inspect: `inspect_ai=MODULE:TASK` names a function that returns a task."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from routewright.data.choices import with_options
from routewright.data.queries import Item
from routewright.errors import BadInput, needs
from routewright.types import Query


def read(task: str, split: str) -> list[Item]:
    """The samples of the task's dataset; its solvers and scorers are not used.

    The module may be in the current folder. Raises BadInput if the task cannot be loaded.
    """
    return [_item(sample, number, task, split) for number, sample in enumerate(_task(task).dataset)]


def _task(task: str) -> Any:
    with needs(f"inspect_ai={task}"):
        import inspect_ai  # noqa: F401
    module, _, name = task.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        return getattr(import_module(module), name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise BadInput(f"inspect_ai={task}: {error}; write MODULE:TASK") from error


def _item(sample: Any, number: int, task: str, split: str) -> Item:
    name = task.partition(":")[2]
    choices = list(sample.choices or ())
    messages = _messages(sample.input)
    if choices:
        *rest, last = messages
        messages = [*rest, {**last, "content": with_options(last["content"], choices)}]
    id = f"{name}/{number if sample.id is None else sample.id}"
    return Item(
        Query(tuple(messages), id=id, domain=name),
        reference=sample.target or None,
        split=split,
        grader="multiple_choice" if choices else None,
        facts={**(sample.metadata or {}), **({"choices": choices} if choices else {})},
    )


def _messages(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    return [{"role": message.role, "content": message.text} for message in content]
