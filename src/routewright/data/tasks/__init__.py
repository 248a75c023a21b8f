"""Reads tasks of evaluation tools as query sets: one file per tool, named after it.

`inspect_ai=MODULE:TASK` in place of a query set's file is read by `tasks/inspect_ai.py`. The tool's
own library, an extra, loads the task. Routewright downloads nothing, but a task may download its
data from a hub. Without network access, tasks whose data is on this machine still load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from routewright.data import queries as query_sets
from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.types import DataClass


def names() -> tuple[str, ...]:
    """The tools whose tasks can be read.

    >>> names()
    ('inspect_ai', 'lm_eval')
    """
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def read(
    queries: str,
    *,
    split: str = "train",
    data_class: DataClass = "public",
    drop_duplicates: bool = False,
) -> list[Item]:
    """The items of a file (`queries.jsonl`), or of a tool's task (`lm_eval=arc_easy`).

    `split` and `data_class` are those of queries that state none; those of a task state none.
    `drop_duplicates` as in `queries.read`.

    Raises BadInput if a task has no queries, and the errors of `queries.read`.
    """
    tool, task = _tool(queries)
    if tool is None:
        return query_sets.read(
            Path(queries), split=split, data_class=data_class, drop_duplicates=drop_duplicates
        )
    items: list[Item] = import_module(f"routewright.data.tasks.{tool}").read(task, split)
    if not items:
        raise BadInput(f"'{queries}' has no queries: name another task")
    places = [(f"'{queries}' query {number}", item) for number, item in enumerate(items, start=1)]
    items = query_sets.distinct(places, f"'{queries}'", drop_duplicates)
    return [replace(one, query=replace(one.query, data_class=data_class)) for one in items]


def stream(queries: str, *, drop_duplicates: bool = False) -> Iterator[Item]:
    """The items that `read` gives, one at a time; those of a file are read one at a time, too."""
    if _tool(queries)[0] is None:
        return query_sets.stream(Path(queries), drop_duplicates=drop_duplicates)
    return iter(read(queries, drop_duplicates=drop_duplicates))


def _tool(queries: str) -> tuple[str | None, str]:
    """The tool and its task, or None for a file."""
    tool, _, task = queries.partition("=")
    return (tool, task) if task and tool in names() else (None, queries)
