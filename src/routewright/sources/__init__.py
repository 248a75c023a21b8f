"""Tasks of evaluation tools as query sets: one file per tool, found by the file's name.

`sources/inspect_ai.py` is asked for as `inspect_ai=MODULE:TASK` where a query set's file would
stand. The tool's own library loads the task; it is an extra. Nothing is fetched by us, but a task
may fetch its data from a hub: with that off, those whose data lie here still load.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from routewright import items
from routewright.errors import BadInput
from routewright.items import Item

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        return items.read(Path(queries), split=split)
    found: list[Item] = import_module(f"routewright.sources.{tool}").read(task, split)
    if not found:
        raise BadInput(f"'{queries}' has no queries")
    return found


def with_options(question: str, choices: Sequence[str]) -> str:
    """
    >>> print(with_options("2 + 2?", ["3", "4"]))
    2 + 2?
    A. 3
    B. 4
    Answer with the letter of the right option.
    """
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *options, "Answer with the letter of the right option."])
