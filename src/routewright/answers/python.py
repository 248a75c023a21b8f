"""Parses Python that somebody else wrote."""

from __future__ import annotations

import ast
import warnings
from threading import Lock

FILTERS = Lock()  # warning filters belong to the whole process


def syntax_tree(code: str) -> ast.Module:
    """The syntax tree of foreign code, without Python's warnings about its style: "\\d" in a string
    warns since Python 3.12, and the reader of a log cannot fix it.

    Raises what `ast.parse` raises: SyntaxError, ValueError, RecursionError or MemoryError.
    """
    with FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)
