"""The options that a multiple-choice question lists: written and read."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 400  # characters of an option that are looked at
_MARK = re.compile(r"^[^\S\n]*+\(?([A-Z])[.):](?:[^\S\n]|$)", re.MULTILINE)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def marks(text: str) -> list[re.Match[str]]:
    """The letters before the options of a question, each at the start of a line: those of its
    last list that runs from A to at least B. Empty where there is none; linear in the length.

    >>> [mark[1] for mark in marks("(A) seven\\n(B) green\\nWhy?\\nA: think first")]
    ['A', 'B']
    """
    listed: list[re.Match[str]] = []
    run: list[re.Match[str]] = []
    for mark in _MARK.finditer(text):
        if mark[1] == "A":
            run = [mark]
        elif run and ord(mark[1]) == ord("A") + len(run):
            run.append(mark)
            listed = run
    return listed


def parse(text: str) -> tuple[str, list[str]]:
    """The question and its options; none if it lists fewer than two.

    >>> parse("Which is a colour?\\nA. seven\\nB. green")
    ('Which is a colour?\\n', ['seven', 'green'])
    """
    listed = marks(text)
    if not listed:
        return text, []
    ends = [*(mark.start() for mark in listed[1:]), len(text)]
    options = [text[mark.end() : end].strip() for mark, end in zip(listed, ends, strict=True)]
    return text[: listed[0].start()], [option[:LONGEST] for option in options]


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
