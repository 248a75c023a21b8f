"""Brings texts to one form of Unicode, in time linear in their length."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

LONGEST_RUN = 30  # combining characters in a row; no language needs more


def nfkc(text: str) -> str:
    """The text in Unicode's form NFKC. Of a run of combining characters only the first 30 count,
    because their order takes quadratic time (UAX 15, section 13, "Stream-Safe Text Format").

    >>> nfkc("x² ½"), len(nfkc("e" + 1000 * "\\N{COMBINING ACUTE ACCENT}"))
    ('x2 1⁄2', 30)
    """
    if text.isascii():
        return text
    characters, run = [], 0
    for character in text:
        run = run + 1 if character > "\u02ff" and _is_mark(character) else 0
        if run <= LONGEST_RUN:
            characters.append(character)
    return unicodedata.normalize("NFKC", "".join(characters))


@lru_cache(maxsize=1 << 12)
def _is_mark(character: str) -> bool:
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0
