"""Features of a text that cost nothing: length, options, numbers, code, negation, script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log, log1p, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright.data.choices import marks
from routewright.prediction.stored import Arrays, whole
from routewright.types import Array, Query

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SENTENCE = re.compile(r"[.!?](?:\s|$)")
SYMBOL = re.compile(r"[=^\\$+<>*/]")
CODE = re.compile(r"\bdef \w|return |assert |import |```|;\n|\{\n|</\w+>")
NEGATIONS = ("not", "except", "false", "incorrect", "least")
NEGATION = re.compile(rf"\b(?:{'|'.join(NEGATIONS)})\b", re.IGNORECASE)
LISTINGS = ("statement", "i and ii", "ii only")
STATEMENTS = re.compile(rf"\b(?:{'|'.join(LISTINGS)})\b")
ALL_OR_NONE = re.compile(r"(?:all|none) of the above")
ASCII = [chr(code) for code in range(128)]
KINDS = np.array([[c.isdigit(), c.isupper(), c.isalnum() or c.isspace()] for c in ASCII], np.int64)
NAMES = (
    *("characters", "stem", "choices", "options", "has_options"),
    *("numbers", "numbers_in_choices", "digits", "upper", "punctuation", "not_ascii"),
    *("sentences", "lines", "word_length", "distinct_words", "questions"),
    *("ends_with_question", "ends_with_colon", "blank", "negation", "loud_negation"),
    *("symbols", "code", "all_or_none", "statements", "uneven_choices"),
)
LEAST_DEVIATION = 1e-9
CLIP = 4.0  # standard deviations
VERSION = 3  # 1: every line that looks like an option counted as one; 2: none in lower case did
_LINE = re.compile(r"^[^\S\n]*+\(?[A-Z][.):]\s", re.MULTILINE)


@dataclass
class Surface:
    """Twenty-six counts, shares and flags, on log scales where they count; standardised."""

    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(NAMES)))
    deviation: NDArray[np.float64] = field(default_factory=lambda: np.ones(len(NAMES)))
    version: int = field(default=VERSION, repr=False)  # a router keeps the features of its fit

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"surface": slice(0, len(NAMES))}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        raw = np.array([features(query.excerpt, self.version) for query in queries])
        self.mean = raw.mean(axis=0)
        self.deviation = raw.std(axis=0) + LEAST_DEVIATION
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        rows = [features(query.excerpt, self.version) for query in queries]
        raw = np.array(rows).reshape(-1, len(NAMES))
        return np.asarray(((raw - self.mean) / self.deviation).clip(-CLIP, CLIP))

    def options(self) -> dict[str, Any]:
        return {"version": self.version}

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        part = Arrays("encoder 'surface'", arrays)
        mean = part.take("mean", len(NAMES))
        deviation = part.take("deviation", len(NAMES), least=LEAST_DEVIATION)
        version = whole(options.get("version", 1), "the version of encoder 'surface'", 1, VERSION)
        return cls(mean, deviation, version)


def features(text: str, version: int = VERSION) -> list[float]:
    """The raw values, in the order of NAMES. The stem is what precedes the listed options."""
    beginnings = "A" if version == 2 else "Aa"
    listed = marks(text, beginnings) if version > 1 else list(_LINE.finditer(text))
    options = len(listed)
    first = _after_text(text, listed[0].start()) if listed else len(text)
    stem, choices = text[:first], text[first:]
    words, lower = text.split(), text.lower()
    length, count = max(len(text), 1), max(len(words), 1)
    digits, upper, plain = _kinds(text)
    letters = len(text) - text.count(" ")
    # Searches that ignore case are slow: they run where a word of theirs is in the text.
    negations = NEGATION.findall(stem) if _any(lower, NEGATIONS) else []
    listing = lower[: len(stem)] if _any(lower, LISTINGS) else ""
    widths = [len(line) for line in choices.split("\n") if line.strip()]
    end = stem.rstrip()
    return [
        log(length),
        log1p(len(stem)),
        log1p(len(choices)),
        options,
        options > 0,
        log1p(len(NUMBER.findall(text))) if digits else 0.0,
        log1p(len(NUMBER.findall(choices))) if digits and choices else 0.0,
        digits / length,
        upper / length,
        1 - plain / length,
        log1p(0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))),
        log1p(len(SENTENCE.findall(stem))),
        log1p(text.count("\n")),
        letters / count,
        len(set(lower.split())) / count,
        log1p(text.count("?")),
        end.endswith("?"),
        end.endswith(":"),
        "___" in text,
        bool(negations),
        any(word.isupper() for word in negations),
        log1p(len(SYMBOL.findall(text))),
        CODE.search(text) is not None,
        " of the above" in lower and ALL_OR_NONE.search(choices.lower()) is not None,
        STATEMENTS.search(listing) is not None,
        log1p(_deviation(widths)) if len(widths) > 1 else 0.0,
    ]


def _after_text(text: str, line: int) -> int:
    """Where the blank lines before a line begin; the line itself if there are none."""
    end = len(text[:line].rstrip())
    return text.find("\n", end) + 1 if end else 0


def _any(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _kinds(text: str) -> tuple[int, int, int]:
    """How many characters are digits, capitals, and letters, digits or white space."""
    if not text.isascii():
        plain = sum(map(str.isalnum, text)) + sum(map(str.isspace, text))
        return sum(map(str.isdigit, text)), sum(map(str.isupper, text)), plain
    often = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=128)
    digits, upper, plain = (often @ KINDS).tolist()
    return digits, upper, plain


def _deviation(numbers: list[int]) -> float:
    mean = sum(numbers) / len(numbers)
    return sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))
