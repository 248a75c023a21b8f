"""Reads and writes the options of a multiple-choice question."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 400  # characters of an option that are kept
_MARK = re.compile(r"^[^\S\n]*+\(?([A-Z])[.):](?:[^\S\n]|$)", re.MULTILINE)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def marks(text: str) -> list[re.Match[str]]:
    """The letters that mark the options of a question, each at the start of a line.

    If the text has several lists of options, the last one that runs from A to at least B counts;
    the result is empty if there is none. Takes time linear in the length of the text.

    >>> [mark[1] for mark in marks("(A) seven\\n(B) green\\nWhy?\\nA: think first")]
    ['A', 'B']
    """
    options: list[re.Match[str]] = []
    run: list[re.Match[str]] = []
    for mark in _MARK.finditer(text):
        if mark[1] == "A":
            run = [mark]
        elif run and ord(mark[1]) == ord("A") + len(run):
            run.append(mark)
            options = run
    return options


def parse(text: str) -> tuple[str, list[str]]:
    """The question without its options, and the options; none if it has fewer than two.

    >>> parse("Which is a colour?\\nA. seven\\nB. green")
    ('Which is a colour?\\n', ['seven', 'green'])
    """
    letters = marks(text)
    if not letters:
        return text, []
    ends = [*(mark.start() for mark in letters[1:]), len(text)]
    options = [text[mark.end() : end].strip() for mark, end in zip(letters, ends, strict=True)]
    return text[: letters[0].start()], [option[:LONGEST] for option in options]


def with_options(question: str, choices: Sequence[str]) -> str:
    """The question followed by its lettered options and a request for the letter.

    >>> print(with_options("2 + 2?", ["3", "4"]))
    2 + 2?
    A. 3
    B. 4
    Answer with the letter of the right option.
    """
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *options, "Answer with the letter of the right option."])
