"""Mistakes in the shape of the file: wrong types, unknown keys, values out of range.

Pydantic finds them; here they get words for the person who wrote the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from pydantic import ValidationError

from routewright.config.document import Document, Loc, Problem
from routewright.registry import choose, mistake

KeysAt: TypeAlias = Callable[[Loc], Mapping[str, str]]  # key ▶ what it means

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
    """Everything pydantic objects to; `keys` gives the keys that the file knows at a place."""
    for detail in error.errors(include_input=False, include_url=False):
        loc = tuple(step for step in detail["loc"] if step != "[key]")
        if loc == ("version",):  # has a rule of its own, with better advice
            continue
        if detail["type"] == "extra_forbidden":
            what, mend = "is no key here", choose(loc[-1], keys(loc))
            if loc[2:] == ("launch", "cloud"):
                what, mend = REMOVED_CLOUD
            yield document.problem(loc, what, mend, key=True)
        elif detail["type"] == "literal_error":
            known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
            what = f"is no known {NOUNS.get(str(loc[2 if len(loc) > 2 else 1]), 'value')}"
            yield document.problem(loc, what, choose(document.get(*loc), known))
        elif detail["type"] == "missing":
            mend = f"add `{loc[-1]}:` {keys(loc)[str(loc[-1])]}"
            yield document.problem(loc, "is missing", mend)
        else:
            yield document.problem(loc, *mistake(detail, keys(loc).get(str(loc[-1]), "")))
