"""Questions that can be graded exactly: twelve skills in five domains.

>>> [q] = questions(1, seed=1, skills=["weekday"])
>>> grade(q, q.answer.upper() + " ")
1.0
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

VERIFY_TEMPLATE = "check: {question} -> {answer}"
"""The prompt to which every sandbox model replies ``yes`` or ``no``."""

HELD_OUT_SHARE = 0.1

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july",
    "august", "september", "october", "november", "december",
)  # fmt: skip
_LENGTHS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("centimetres", "millimetres", 10),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
)
_DURATIONS = (
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("weeks", "days", 7),
    ("days", "hours", 24),
)
_ONSETS = (*"bcdfghjklmnpqrstvwxyz", "br", "cl", "dr", "fl", "gr", "pl", "sh", "st", "th", "tr")
_CODAS = ("", "", "", *"dlmnrst")
_VOWELS = "aeiou"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with one right answer; ``id`` is the same in every run."""

    id: str
    skill: str
    domain: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Skill:
    """A family of questions; ``draw`` returns the fields of a phrasing and the right answer."""

    name: str
    domain: str
    phrasings: tuple[str, ...]
    draw: Callable[[Random], tuple[dict[str, object], str]]

    def sample(self, rng: Random) -> Question:
        """Draws one question, which may be a held-out one."""
        fields, answer = self.draw(rng)
        text = rng.choice(self.phrasings).format(**fields)
        return Question(f"{self.name}-{_digest(text)[:10]}", self.name, self.domain, text, answer)


def is_held_out(text: str) -> bool:
    """Whether a question is set aside for evaluation, decided by a stable hash of its text."""
    return int(_digest(text)[:8], 16) < HELD_OUT_SHARE * 2**32


def questions(
    n: int, seed: int, skills: Sequence[str] | None = None, held_out: bool = True
) -> list[Question]:
    """Draws ``n`` distinct questions, from each skill in turn.

    They are held out from training, or with ``held_out=False`` drawn from the training questions.
    Raises ValueError for an unknown skill, or if the skills have fewer than ``n`` questions.
    """
    rng = Random(f"questions {seed}")
    names = list(SKILLS if skills is None else skills)
    if unknown := sorted(set(names) - SKILLS.keys()):
        raise ValueError(f"no skill {unknown[0]!r}: choose from {', '.join(SKILLS)}")
    drawn: dict[str, Question] = {}
    while len(drawn) < n and names:
        # Iterate over a copy, because a skill without further questions is removed.
        for name in names[:]:
            question = _fresh(SKILLS[name], rng, drawn, held_out)
            if question is None:
                names.remove(name)
            elif len(drawn) < n:
                drawn[question.text] = question
    if len(drawn) < n:
        raise ValueError(
            f"{n} questions are too many: these skills have only {len(drawn)} distinct questions"
        )
    return list(drawn.values())


def grade(question: Question | str, reply: str) -> float:
    """1.0 if the reply equals the right answer (of a Question, or a string), otherwise 0.0."""
    answer = question.answer if isinstance(question, Question) else question
    return float(answer.strip().casefold() == reply.strip().casefold())


def _fresh(
    skill: Skill, rng: Random, drawn: Mapping[str, Question], held_out: bool, tries: int = 2000
) -> Question | None:
    for _ in range(tries):
        question = skill.sample(rng)
        if is_held_out(question.text) == held_out and question.text not in drawn:
            return question
    return None


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


# Arithmetic: the number of digits sets the difficulty.


def _number(rng: Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _addition(rng: Random) -> tuple[dict[str, object], str]:
    a, b = (_number(rng, rng.randint(1, 4)) for _ in range(2))
    return {"a": a, "b": b}, str(a + b)


def _subtraction(rng: Random) -> tuple[dict[str, object], str]:
    b, a = sorted(_number(rng, rng.randint(1, 4)) for _ in range(2))
    return {"a": a, "b": b}, str(a - b)


def _multiplication(rng: Random) -> tuple[dict[str, object], str]:
    a, b = _number(rng, rng.randint(1, 3)), rng.randint(2, 12)
    return {"a": a, "b": b}, str(a * b)


# Units: a factor of ten is easy; a factor of 7, 12, 24 or 60 is hard.


def _converted(
    rng: Random, units: Sequence[tuple[str, str, int]], most: int
) -> tuple[dict[str, object], str]:
    big, small, factor = rng.choice(units)
    x, y = rng.randint(1, rng.choice((9, most))), rng.randint(1, factor - 1)
    return {"x": x, "y": y, "big": big, "small": small}, str(x * factor + y)


def _length(rng: Random) -> tuple[dict[str, object], str]:
    return _converted(rng, _LENGTHS, most=99)


def _duration(rng: Random) -> tuple[dict[str, object], str]:
    return _converted(rng, _DURATIONS, most=40)


# Strings: invented words, which are harder if they are longer or repeat letters.


def _word(rng: Random, longest: int) -> str:
    """A pronounceable word of three to ``longest`` letters."""
    length = rng.randint(3, longest)
    word = ""
    while len(word) < length:
        word += rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
    word = word[:length]
    # The models read a word of their vocabulary as one token and do not see its letters.
    return _word(rng, longest) if word in WORDS else word


def _reverse(rng: Random) -> tuple[dict[str, object], str]:
    word = _word(rng, longest=12)
    return {"word": word}, word[::-1]


def _sort(rng: Random) -> tuple[dict[str, object], str]:
    word = _word(rng, longest=11)
    return {"word": word}, "".join(sorted(word))


def _consonants(rng: Random) -> tuple[dict[str, object], str]:
    word = _word(rng, longest=14)
    return {"word": word}, "".join(c for c in word if c not in _VOWELS)


# Calendar: counting forwards or backwards in a cycle of seven or twelve; more steps are harder.


def _cycled(rng: Random, cycle: Sequence[str], most: int) -> tuple[dict[str, object], str]:
    start, n = rng.randrange(len(cycle)), rng.randint(2, rng.choice((7, most)))
    direction, sign = rng.choice((("after", 1), ("before", -1)))
    answer = cycle[(start + sign * n) % len(cycle)]
    return {"start": cycle[start].title(), "n": n, "direction": direction}, answer


def _weekday(rng: Random) -> tuple[dict[str, object], str]:
    return _cycled(rng, _DAYS, most=40)


def _month(rng: Random) -> tuple[dict[str, object], str]:
    return _cycled(rng, _MONTHS, most=30)


# Logic: the number of terms and of negations sets the difficulty.


def _term(rng: Random) -> tuple[str, bool]:
    """A literal or a comparison, sometimes negated, and its value."""
    if rng.random() < 0.4:
        value = rng.random() < 0.5
        text = str(value).lower()
    else:
        a, b = rng.sample(range(10, 100), 2)
        value = rng.random() < 0.5
        text = f"{a} > {b}" if (a > b) == value else f"{a} < {b}"
    negated = rng.random() < 0.25
    return (f"not {text}" if negated else text), value != negated


def _boolean(rng: Random) -> tuple[dict[str, object], str]:
    text, value = _term(rng)
    for _ in range(rng.randint(1, 3)):
        more, operand = _term(rng)
        both = rng.random() < 0.5
        value = (value and operand) if both else (value or operand)
        # Brackets make the expression readable without rules of precedence.
        text = f"({text}) {'and' if both else 'or'} {more}"
    return {"expression": text}, str(value).lower()


def _extreme(rng: Random) -> tuple[dict[str, object], str]:
    digits = rng.randint(1, 4)
    numbers = rng.sample(range(10 ** (digits - 1), 10 ** min(digits + 1, 4)), 3)
    which, pick = rng.choice((("largest", max), ("smallest", min)))
    a, b, c = numbers
    return {"a": a, "b": b, "c": c, "which": which}, str(pick(numbers))


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill(
            "addition",
            "arithmetic",
            (
                "What is {a} + {b}?",
                "Add {a} and {b}.",
                "What do you get when {b} is added to {a}?",
                "I had {a} coins and found {b} more. How many now?",
            ),
            _addition,
        ),
        Skill(
            "subtraction",
            "arithmetic",
            (
                "What is {a} - {b}?",
                "Subtract {b} from {a}.",
                "What is left of {a} when {b} is taken away?",
                "I had {a} coins and lost {b}. How many now?",
            ),
            _subtraction,
        ),
        Skill(
            "multiplication",
            "arithmetic",
            (
                "What is {a} * {b}?",
                "Multiply {a} by {b}.",
                "What is {b} times {a}?",
                "There are {b} boxes of {a} coins. How many coins?",
            ),
            _multiplication,
        ),
        Skill(
            "length",
            "units",
            (
                "How many {small} are {x} {big} and {y} {small}?",
                "Convert {x} {big} {y} {small} to {small}.",
                "A rope of {x} {big} and {y} {small}: how long in {small}?",
            ),
            _length,
        ),
        Skill(
            "duration",
            "units",
            (
                "How many {small} are {x} {big} and {y} {small}?",
                "Convert {x} {big} {y} {small} to {small}.",
                "It took {x} {big} and {y} {small}: how long in {small}?",
            ),
            _duration,
        ),
        Skill(
            "reverse",
            "strings",
            (
                "Reverse the word {word}.",
                "What is {word} spelled backwards?",
                "Write {word} from the last letter to the first.",
            ),
            _reverse,
        ),
        Skill(
            "sort",
            "strings",
            (
                "Sort the letters of {word}.",
                "What are the letters of {word} in alphabetical order?",
                "Write {word} with its letters sorted.",
            ),
            _sort,
        ),
        Skill(
            "consonants",
            "strings",
            (
                "Drop the vowels from {word}.",
                "What is left of {word} without its vowels?",
                "Write only the consonants of {word}.",
            ),
            _consonants,
        ),
        Skill(
            "weekday",
            "calendar",
            (
                "What day is {n} days {direction} {start}?",
                "Which day of the week comes {n} days {direction} a {start}?",
                "Name the day {n} days {direction} {start}.",
                "Start on {start}. What day is it {n} days {direction} that?",
                "Count {n} days: which day of the week is that {direction} {start}?",
                "If the first day is {start}, what day is {n} days {direction}?",
            ),
            _weekday,
        ),
        Skill(
            "month",
            "calendar",
            (
                "What month is {n} months {direction} {start}?",
                "Which month comes {n} months {direction} {start}?",
                "Name the month {n} months {direction} {start}.",
                "Start in {start}. What month is it {n} months {direction} that?",
                "Count {n} months: which month is that {direction} {start}?",
                "If the first month is {start}, what month is {n} months {direction}?",
            ),
            _month,
        ),
        Skill(
            "boolean",
            "logic",
            (
                "Is it true or false: {expression}?",
                "What is the value of {expression}?",
                "Decide: {expression}.",
            ),
            _boolean,
        ),
        Skill(
            "extreme",
            "logic",
            (
                "Which is the {which}: {a}, {b} or {c}?",
                "Find the {which} of {a}, {b} and {c}.",
                "What is the {which} number in {a}, {b}, {c}?",
            ),
            _extreme,
        ),
    )
}


def _words() -> frozenset[str]:
    """The words of the questions and the fixed answers: the models' vocabulary."""
    units = [name for big, small, _ in _LENGTHS + _DURATIONS for name in (big, small)]
    fillers = ["after", "before", "largest", "smallest", "not", "and", "or", "true", "false"]
    frames = " ".join(p for s in SKILLS.values() for p in s.phrasings) + VERIFY_TEMPLATE
    frames = re.sub(r"{\w+}", " ", frames).lower()
    words = {*re.findall("[a-z]+", frames), *units, *fillers, *_DAYS, *_MONTHS, "yes", "no"}
    return frozenset(word for word in words if len(word) > 1)


WORDS = _words()
"""The words with a token of their own; every other word is spelled letter by letter."""
