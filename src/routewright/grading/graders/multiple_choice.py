"""An answer is right if it names the right option, by its letter or by its words."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from routewright.answers.assertions import states
from routewright.answers.claims import claims
from routewright.answers.equivalence import key
from routewright.answers.wording import normal
from routewright.data.choices import parse
from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

_UNDECIDED = re.compile(
    r"(?:\bnot|n[\'\u2019]t|\bneither|\bnever)\s+(?:be\s+)?(?:option\s+|choice\s+|answer\s+)?"
    r"[(\[]?[A-Z][)\].,;]*(?:\s|$)(?!.*\b(?:but|it is|it[\'\u2019]s)\b)"
    r"|\b[A-Z][)\].]?\s+(?:or|and/or)\s+(?:option\s+)?[(\[]?[A-Z]\b"
)
_OPTIONS = re.compile(r"(?:^|\s)\(?(?:A|a|1)[).:] ")  # where the options begin
_REJECTED = re.compile(
    r"(?:\b[Oo]ptions? |\b[Cc]hoice |\b[Aa]nswer )?(?<![\w*])[(\[]?[A-Z][)\].]?,? "
    r"(?:is|can be|must be) (?:clearly |therefore |thus )?"
    r"(?:wrong|incorrect|ruled out|eliminated|false|excluded)\b,?"
)
_INLINE = re.compile(r"(?:^|(?<=\s))\(?([A-Za-z]|[1-9])[).:] ")
_LONE = re.compile(  # a lone A or I may be a word
    r"(?<!not )(?<![\w'\u2019])([B-HJ-Z]|[AI](?=\W*$|[).:]))(?![\w'\u2019])"
)


@dataclass(frozen=True)
class MultipleChoice:
    """Reads the letter of an option, or its words if the item has `choices` or its question lists
    them. An answer that settles on no option ("B or C", "not B") is wrong.

    The reference is a letter, the words of an option, or its position, counted from 0.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(
            Query.of("What is 2 + 2?\nA. 3\nB. 4\nC. 5"),
            reference="B",
            facts={"choices": ["3", "4", "5"]},
        ),
        "The answer is (B), because 2 + 2 = 4.",
        "C",
    )

    def grade(self, item: Item, answer: str) -> Grade:
        choices = options_of(item)
        right = right_options(item)
        if not right:
            return ungraded(
                "the reference is none of the options" if item.references else "no reference"
            )
        answer = _REJECTED.sub(" ", _with_letters(answer, item.query.text))
        if _is_undecided(answer):
            return Grade(0.0, "negates an option, or names several")
        for claim in reversed(claims(answer)):
            letter = _letter(claim.text, choices)
            letters = [letter] if letter else _lone_letters(claim.text, choices)
            if len(letters) == 1:
                return Grade(float(letters[0] in right), answer=letters[0])
        letter = _letter(answer, choices)
        if letter is not None:
            return Grade(float(letter in right), answer=letter)
        options = _named(answer, choices)
        if len(options) > 1:  # words of the question are no answer
            asked = set(_named(_OPTIONS.split(item.query.text)[0], choices))
            options = [option for option in options if option not in asked] or options
        parts = claims(answer, item.query.text) if len(options) != 1 else []
        if len(options) > 1:
            stated = [_asserted(part.text, choices) for part in parts]
            options = [o for o in options if any(o in part for part in stated)] or options
            options = stated[-1] if len(options) > 1 and len(stated[-1]) == 1 else options
        if not options:
            options = [o for part in parts[:1] for o in _begun(part.text, choices)]
        if len(options) > 1:
            return ungraded(f"names several options: {', '.join(options)}")
        letter = options[0] if options else None
        return Grade(float(letter in right), "" if letter else "names no option", letter)


def options_of(item: Item) -> list[str]:
    """The words of the options: the item's `choices`, or those that its question lists."""
    listed = item.facts.get("choices") or parse(item.query.text)[1]
    return [str(choice) for choice in listed or _in_one_line(item.query.text)]


def _in_one_line(question: str) -> list[str]:
    """The options of a question that lists them in one line: "Which? A) Rust B) HTTP"."""
    marks = list(_INLINE.finditer(question))
    start = max((i for i, mark in enumerate(marks) if mark[1] in ("A", "a", "1")), default=-1)
    if start < 0:
        return []
    first = marks[start][1]
    names = (
        [str(n) for n in range(1, 27)] if first == "1" else [chr(ord(first) + n) for n in range(26)]
    )
    run = [mark for mark, name in zip(marks[start:], names, strict=False) if mark[1] == name]
    ends = [*(mark.start() for mark in run[1:]), len(question)]
    options = [question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=False)]
    return options if len(options) > 1 else []


def _with_letters(answer: str, question: str) -> str:
    """The answer with capital letters for the marks of options that are small letters or numbers,
    as in "(b)" and "2)"."""
    if _SMALL.search(question):
        answer = re.sub(r"\(([a-j])\)|\b([a-j])\)", lambda m: f"({(m[1] or m[2]).upper()})", answer)
    if _DIGIT.search(question):
        answer = re.sub(
            r"^(\W{0,4})([1-9])(?=[).:]|\s*$)|(?<=option )([1-9])\b|(?<=answer is )([1-9])(?=\W*$)",
            lambda m: f"{m[1] or ''}{string.ascii_uppercase[int(m[2] or m[3] or m[4]) - 1]}",
            answer,
        )
    return answer


_SMALL = re.compile(r"(?:^|(?<=\s))\(?a[).:] ")
_DIGIT = re.compile(r"(?:^|(?<=\s))\(?1[).:] ")


def right_options(item: Item) -> set[str]:
    """The letters of the options that the reference names; empty if it names none."""
    choices = options_of(item)
    references = item.reference if isinstance(item.reference, list | tuple) else [item.reference]
    if not item.facts.get("choices"):
        references = [
            _with_letters(r, item.query.text) if isinstance(r, str) else r for r in references
        ]
    letters = [_reference(reference, choices) for reference in references]
    return {letter for letter in letters if letter is not None}


def _is_undecided(answer: str) -> bool:
    """Whether the part that states the result negates its letter, or joins two by "or"."""
    return any(_UNDECIDED.search(claim.text) for claim in claims(answer)[-1:])


def _lone_letters(part: str, choices: Sequence[str]) -> list[str]:
    """The letters of options that stand alone in a part of an answer, without those after "not"."""
    letters = {str(match[1]) for match in _LONE.finditer(part)}
    return sorted(letters & set(string.ascii_uppercase[: len(choices)]))


def _asserted(part: str, choices: Sequence[str]) -> list[str]:
    return [_nth(i) for i, choice in enumerate(choices) if choice and states(part, choice)]


def _begun(part: str, choices: Sequence[str]) -> list[str]:
    """The letter of the only option that has all words of a short part: "Einstein" of "Albert
    Einstein"."""
    words = set(normal(part).split())
    has_all = [words <= set(normal(choice).split()) for choice in choices]
    short = 0 < len(words) <= 4 and has_all.count(True) == 1
    return [_nth(has_all.index(True))] if short else []


def _reference(right: object, choices: Sequence[str]) -> str | None:
    """The letter of the option that a reference names; None if it names none."""
    if isinstance(right, int) and not isinstance(right, bool):
        return string.ascii_uppercase[right] if 0 <= right < min(len(choices), 26) else None
    if not isinstance(right, str):
        return None
    names = [choice.strip().casefold() for choice in choices]
    if right.strip().casefold() in names:
        return _nth(names.index(right.strip().casefold()))
    return _letter(right, choices)


def _letter(text: str, choices: Sequence[str]) -> str | None:
    letter = key("letter", text)
    if letter is None or (choices and str(letter) not in string.ascii_uppercase[: len(choices)]):
        return None
    return str(letter)


def _named(text: str, choices: Sequence[str]) -> list[str]:
    """The letters of the options whose words are in the text, without those that are part of
    another one."""
    answer = f" {key('text', text) or ''} "
    words = [f" {key('text', choice) or ''} " for choice in choices]
    matches = [i for i, option in enumerate(words) if option.strip() and option in answer]
    return [_nth(i) for i in matches if not any(words[i] in words[j] and i != j for j in matches)]


def _nth(place: int) -> str:
    return string.ascii_uppercase[place] if place < 26 else str(place)
