"""Readers for the public formats of routing and evaluation data: one file per format.

`formats/routellm.py` is found as `find("routellm")`, a function from a file to a wide outcome
table (see docs/outcome-tables.md). Token counts, where a format has them, stand in the columns
`in_tokens::m` and `out_tokens::m`, so that prices can be put to them later. Nothing is fetched:
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
    """The reader of a format; raises BadInput naming the formats that exist."""
    if name not in names():
        raise BadInput(f"no format is called '{name}': choose one of {', '.join(names())}")
    reader: Reader = import_module(f"routewright.data.formats.{name}").read
    return reader
