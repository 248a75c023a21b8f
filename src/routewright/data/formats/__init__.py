"""Reads public formats of routing and evaluation data: one file per format.

`find("routellm")` returns `read` of `formats/routellm.py`, a function from a file to a wide outcome
table (see docs/outcome-tables.md). If a format has token counts, they become the columns
`in_tokens::m` and `out_tokens::m`, from which prices can give costs later. Nothing is downloaded:
the files are the user's own copies.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TypeAlias

import polars as pl

from routewright.errors import BadInput

Reader: TypeAlias = Callable[[Path], pl.DataFrame]


def names() -> tuple[str, ...]:
    """The formats, in alphabetical order.

    >>> names()
    ('embedllm', 'inspect_ai', 'llmrouter', 'lm_eval', 'routellm', 'routerarena', 'routerbench')
    """
    files = (module.name for module in iter_modules(__path__))
    return tuple(sorted(name for name in files if not name.startswith("_")))


def find(name: str) -> Reader:
    """The reader of a format. Raises BadInput, with the names that exist, for an unknown name."""
    if name not in names():
        raise BadInput(f"no format is called '{name}': choose one of {', '.join(names())}")
    reader: Reader = import_module(f"routewright.data.formats.{name}").read
    return reader
