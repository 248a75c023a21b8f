"""Tasks of evaluation tools as query sets: one file per tool, found by the file's name.

`tasks/inspect_ai.py` is asked for as `inspect_ai=MODULE:TASK` where a query set's file would
stand. The tool's own library loads the task; it is an extra. Nothing is fetched by us, but a task
may fetch its data from a hub: with that off, those whose data lie here still load.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from routewright.data import queries as query_sets
from routewright.data.queries import Item
from routewright.errors import BadInput


def names() -> tuple[str, ...]:
    """
    >>> names()
    ('inspect_ai', 'lm_eval')
    """
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def read(queries: str, *, split: str = "train") -> list[Item]:
    """The items of a file (`queries.jsonl`), or of a tool's task (`lm_eval=arc_easy`)."""
    tool, _, task = queries.partition("=")
    if not task or tool not in names():
        return query_sets.read(Path(queries), split=split)
    found: list[Item] = import_module(f"routewright.data.tasks.{tool}").read(task, split)
    if not found:
        raise BadInput(f"'{queries}' has no queries")
    return found
