"""The options that a multiple-choice question lists: written and read."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 400  # characters of an option that are looked at
_OPTION = re.compile(r"^[^\S\n]*\(?([A-Z])[.):][^\S\n]", re.MULTILINE)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def parse(text: str) -> tuple[str, list[str]]:
    """The question and its options, those of the last list that begins with A; none if there
    are fewer than two.

    >>> parse("Which is a colour?\\nA. seven\\nB. green")
    ('Which is a colour?\\n', ['seven', 'green'])
    """
    run: list[re.Match[str]] = []
    for mark in _OPTION.finditer(text):
        if mark[1] == "A":
            run = [mark]
        elif run and ord(mark[1]) == ord("A") + len(run):
            run.append(mark)
    if len(run) < 2:
        return text, []
    ends = [*(mark.start() for mark in run[1:]), len(text)]
    options = [text[m.end() : end].strip() for m, end in zip(run, ends, strict=True)]
    return text[: run[0].start()], [option[:LONGEST] for option in options]


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
