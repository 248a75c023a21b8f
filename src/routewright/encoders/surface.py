"""Features of a text that cost nothing: length, options, numbers, code, negation, script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright.types import Array, Query

OPTION = re.compile(r"^\s*\(?[A-Z][.):]\s", re.MULTILINE)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SENTENCE = re.compile(r"[.!?](?:\s|$)")
SYMBOL = re.compile(r"[=^\\$+<>*/]")
CODE = re.compile(r"\bdef \w|return |assert |import |```|;\n|\{\n|</\w+>")
NEGATION = re.compile(r"\b(?:not|except|false|incorrect|least)\b", re.IGNORECASE)
STATEMENTS = re.compile(r"\b(?:statement|i and ii|ii only)\b", re.IGNORECASE)
ALL_OR_NONE = re.compile(r"(?:all|none) of the above", re.IGNORECASE)
NAMES = (
    *("characters", "stem", "choices", "options", "has_options"),
    *("numbers", "numbers_in_choices", "digits", "upper", "punctuation", "not_ascii"),
    *("sentences", "lines", "word_length", "distinct_words", "questions"),
    *("ends_with_question", "ends_with_colon", "blank", "negation", "loud_negation"),
    *("symbols", "code", "all_or_none", "statements", "uneven_choices"),
)
CLIP = 4.0  # standard deviations


@dataclass
class Surface:
    """Twenty-six counts, shares and flags, on log scales where they count; standardised."""

    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(NAMES)))
    deviation: NDArray[np.float64] = field(default_factory=lambda: np.ones(len(NAMES)))

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"surface": slice(0, len(NAMES))}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        raw = np.array([features(query.text) for query in queries])
        self.mean = raw.mean(axis=0)
        self.deviation = raw.std(axis=0) + 1e-9
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        raw = np.array([features(query.text) for query in queries]).reshape(-1, len(NAMES))
        return np.clip((raw - self.mean) / self.deviation, -CLIP, CLIP)

    def options(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(arrays["mean"], arrays["deviation"])


def features(text: str) -> list[float]:
    """The raw values, in the order of NAMES. The stem is what precedes the first option."""
    first = OPTION.search(text)
    stem, choices = (text[: first.start()], text[first.start() :]) if first else (text, "")
    options = len(OPTION.findall(choices))
    words = text.split()
    length, count = max(len(text), 1), max(len(words), 1)
    letters = len(text) - text.count(" ")
    plain = sum(map(str.isalnum, text)) + sum(map(str.isspace, text))
    negations = NEGATION.findall(stem)
    widths = [len(line) for line in choices.split("\n") if line.strip()]
    end = stem.rstrip()
    return [
        np.log(length),
        np.log1p(len(stem)),
        np.log1p(len(choices)),
        options,
        options > 0,
        np.log1p(len(NUMBER.findall(text))),
        np.log1p(len(NUMBER.findall(choices))),
        sum(map(str.isdigit, text)) / length,
        sum(map(str.isupper, text)) / length,
        1 - plain / length,
        np.log1p(len(text) - len(text.encode("ascii", "ignore"))),
        np.log1p(len(SENTENCE.findall(stem))),
        np.log1p(text.count("\n")),
        letters / count,
        len(set(text.lower().split())) / count,
        np.log1p(text.count("?")),
        end.endswith("?"),
        end.endswith(":"),
        "___" in text,
        bool(negations),
        any(word.isupper() for word in negations),
        np.log1p(len(SYMBOL.findall(text))),
        CODE.search(text) is not None,
        ALL_OR_NONE.search(choices) is not None,
        STATEMENTS.search(stem) is not None,
        np.log1p(float(np.std(widths))) if len(widths) > 1 else 0.0,
    ]
