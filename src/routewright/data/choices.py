"""Reads and writes the options of a multiple-choice question."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 400  # characters of an option that are kept
_MARK = re.compile(r"^[^\S\n]*+\(?([A-Za-z])[.):](?:[^\S\n]|$)", re.MULTILINE)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def marks(text: str, first: str = "Aa") -> list[re.Match[str]]:
    """The letters that mark the options of a question, each at the start of a line, in either case.

    If the text has several lists of options, the last one that runs from A to at least B, or from a
    to b, counts; the result is empty if there is none. `first` are the letters that may begin a
    list. Takes time linear in the length of the text.

    >>> [mark[1] for mark in marks("(A) seven\\n(B) green\\nWhy?\\nA: think first")]
    ['A', 'B']
    >>> [mark[1] for mark in marks("which is a colour?\\na. seven\\nb. green")]
    ['a', 'b']
    """
    options: list[re.Match[str]] = []
    runs: dict[str, list[re.Match[str]]] = {letter: [] for letter in first}
    for mark in _MARK.finditer(text):
        letter = mark[1]
        start = "a" if letter.islower() else "A"
        if letter in runs:
            runs[letter] = [mark]
        elif (run := runs.get(start)) and ord(letter) == ord(start) + len(run):
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
