"""Mistakes in the shape of the file: wrong types, unknown keys, values out of range.

Pydantic finds them; here they get words for the person who wrote the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from routewright.config.document import Document, Loc, Problem

KeysAt: TypeAlias = Callable[[Loc], Mapping[str, str]]  # key ▶ what it means

LONG = 10  # choices; with a good guess at hand, more of them only distract
EMPTY = ("must not be empty", "fill it in, or leave the key out")
LIST = ("must be a list", "write [one, two], or one `- entry` a line")
MAPPING = ("must be a mapping", "write `key: value` lines below it")
NUMBER = ("must be a number", "write it without a unit, or leave the key out")
WHOLE = ("must be a whole number", "write it without point or unit, or leave the key out")
KINDS = {
    "string_type": ("must be text", "put it in quotes"),
    "path_type": ("must be a path", "put it in quotes"),
    **dict.fromkeys(("string_too_short", "too_short"), EMPTY),
    "finite_number": ("must be a finite number", "leave the key out if there is no limit"),
    "number_type": NUMBER,
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), WHOLE),
    **dict.fromkeys(("list_type", "tuple_type", "frozen_set_type", "set_type"), LIST),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), MAPPING),
}
NOUNS = {
    "capabilities": "capability",
    "data_classes": "data class",
    "default_data_class": "data class",
}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def choose(word: object, known: Iterable[str]) -> str:
    """The way out of a misspelt name; a good guess is not buried under a long list.

    >>> choose("cascad", ["cascade", "fixed"])
    "did you mean 'cascade'? There are: cascade, fixed"
    """
    known = list(known)
    close = get_close_matches(str(word), known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if close and len(known) > LONG:
        return hint.strip()
    return f"{hint}There are: {', '.join(known) or 'none'}"


def mistake(error: ErrorDetails, meaning: str = "") -> tuple[str, str]:
    """One of pydantic's errors in our words: what is wrong and how to mend it."""
    advice = f"change the value: {meaning}" if meaning else "change the value"
    if error["type"] in KINDS:
        return KINDS[error["type"]]
    context = error.get("ctx", {})
    for bound, words in BOUNDS.items():
        if bound in context:
            return f"must be {words} {context[bound]:g}", advice
    return error["msg"].replace("Input should be", "must be"), advice


def mistakes(document: Document, error: ValidationError, keys: KeysAt) -> Iterator[Problem]:
    """Everything pydantic objects to; `keys` gives the keys that the file knows at a place."""
    for detail in error.errors(include_input=False, include_url=False):
        loc = tuple(step for step in detail["loc"] if step != "[key]")
        if loc == ("version",):  # has a rule of its own, with better advice
            continue
        if detail["type"] == "extra_forbidden":
            yield document.problem(loc, "is no key here", choose(loc[-1], keys(loc)), key=True)
        elif detail["type"] == "literal_error":
            known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
            what = f"is no known {NOUNS.get(str(loc[2 if len(loc) > 2 else 1]), 'value')}"
            yield document.problem(loc, what, choose(document.get(*loc), known))
        elif detail["type"] == "missing":
            mend = f"add `{loc[-1]}:` {keys(loc)[str(loc[-1])]}"
            yield document.problem(loc, "is missing", mend)
        else:
            yield document.problem(loc, *mistake(detail, keys(loc).get(str(loc[-1]), "")))
