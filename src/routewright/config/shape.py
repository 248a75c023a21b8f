"""Reports wrong types, unknown keys and values out of range in the file.

Pydantic finds these mistakes; this module writes the messages for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from pydantic import ValidationError

from routewright.config.document import Document, Loc, Problem
from routewright.registry import choose, mistake

KeysAt: TypeAlias = Callable[[Loc], Mapping[str, str]]  # key ▶ description

REMOVED_CLOUD = (
    "was removed: Routewright starts servers on this machine only",
    "start it with SkyPilot's own `sky launch`, put the address that `sky status --endpoint` prints"
    " into `base_url:`, and remove `launch:`",
)
NOUNS = {
    "capabilities": "capability",
    "data_classes": "data class",
    "default_data_class": "data class",
}


def mistakes(document: Document, error: ValidationError, keys: KeysAt) -> Iterator[Problem]:
    """The problems behind a validation error; `keys` gives the valid keys at a place."""
    for detail in error.errors(include_input=False, include_url=False):
        loc = tuple(step for step in detail["loc"] if step != "[key]")
        if loc == ("version",):  # has a rule with a better message
            continue
        if detail["type"] == "extra_forbidden":
            problem, fix = "is not a key here", choose(loc[-1], keys(loc))
            if loc[2:] == ("launch", "cloud"):
                problem, fix = REMOVED_CLOUD
            yield document.problem(loc, problem, fix, key=True)
        elif detail["type"] == "literal_error":
            choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
            problem = f"is not a {NOUNS.get(str(loc[2 if len(loc) > 2 else 1]), 'valid value')}"
            yield document.problem(loc, problem, choose(document.get(*loc), choices))
        elif detail["type"] == "missing":
            fix = f"add `{loc[-1]}:` {keys(loc)[str(loc[-1])]}"
            yield document.problem(loc, "is missing", fix)
        else:
            yield document.problem(loc, *mistake(detail, keys(loc).get(str(loc[-1]), "")))
