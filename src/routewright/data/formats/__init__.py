"""Reads public formats of routing and evaluation data: one file per format.

`find("routellm")` returns `read` of `formats/routellm.py`, a function from a file to a wide outcome
table (see docs/outcome-tables.md). If a format has token counts, they become the columns
`in_tokens::m` and `out_tokens::m`, from which prices can give costs later. Nothing is downloaded:
the files are the user's own copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeAlias

import polars as pl

from routewright.errors import BadInput


@dataclass(frozen=True)
class Options:
    """What the user said about a file. `OPTIONS` in a format's file names those that it uses."""

    drop_duplicates: bool = False  # keep the first of two rows for one query and expert
    metric: str | None = None  # of the scores in a file, the one to take
    columns: Mapping[str, str] = field(default_factory=dict)  # our columns ▶ those of the file
    scale: tuple[float, float] | None = None  # the worst and the best score
    records: str | None = None  # where in a JSON document the rows are


Reader: TypeAlias = Callable[[Path, Options], pl.DataFrame]
DEFAULTS = Options()
FLAGS = {"columns": "--column", "records": "--rows"}  # of the command line, if not the name


def names() -> tuple[str, ...]:
    """The formats, in alphabetical order.

    >>> names()  # doctest: +ELLIPSIS
    ('alpaca_eval', 'embedllm', 'generic', 'inspect_ai', 'llmrouter', 'lm_eval', 'mt_bench', ...
    """
    files = (module.name for module in iter_modules(__path__))
    return tuple(sorted(name for name in files if not name.startswith("_")))


def find(name: str, options: Options = DEFAULTS) -> Callable[[Path], pl.DataFrame]:
    """The reader of a format. Raises BadInput, with the names that exist, for an unknown name, and
    for an option that this format does not use."""
    if name not in names():
        raise BadInput(
            f"no format is called '{name}': choose one of {', '.join(names())}; `generic` reads"
            " other files, with --column, and `csv` rewrites those of spreadsheets"
        )
    module = import_module(f"routewright.data.formats.{name}")
    used = getattr(module, "OPTIONS", ())
    for option in (one.name for one in fields(options)):
        if option not in used and getattr(options, option) != getattr(DEFAULTS, option):
            flag = FLAGS.get(option, f"--{option.replace('_', '-')}")
            uses = ", ".join(FLAGS.get(one, f"--{one.replace('_', '-')}") for one in used)
            advice = f"it uses {uses}" if uses else "leave it out"
            raise BadInput(f"{flag} has no meaning for '{name}': {advice}")
    return partial(module.read, options=options)
