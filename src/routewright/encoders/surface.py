"""Features of a text that cost nothing: length, options, digits, code, questions, script."""

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
SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
CODE = re.compile(r"```|\bdef \w+\(|\breturn\b|[{};]\s*$|==|=>|</\w+>", re.MULTILINE)
FORMULA = re.compile(r"[=^\\$]|\b(?:sin|cos|log|lim|int)\b")
NAMES = (
    "characters",
    "words",
    "word_length",
    "numbers",
    "digits",
    "options",
    "sentences",
    "questions",
    "code",
    "formula",
    "upper",
    "not_ascii",
    "lines",
)


@dataclass
class Surface:
    """Thirteen counts and shares, on log scales where they are counts, standardised."""

    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(NAMES)))
    deviation: NDArray[np.float64] = field(default_factory=lambda: np.ones(len(NAMES)))

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"surface": slice(0, len(NAMES))}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        raw = np.array([features(query.text) for query in queries])
        self.mean = raw.mean(axis=0)
        self.deviation = np.maximum(raw.std(axis=0), 1e-3)
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        raw = np.array([features(query.text) for query in queries]).reshape(-1, len(NAMES))
        return np.clip((raw - self.mean) / self.deviation, -5, 5)

    def options(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(arrays["mean"], arrays["deviation"])


def features(text: str) -> list[float]:
    """The raw values, in the order of NAMES."""
    length = max(len(text), 1)
    words = text.split()
    return [
        np.log1p(len(text)),
        np.log1p(len(words)),
        sum(map(len, words)) / max(len(words), 1),
        np.log1p(len(NUMBER.findall(text))),
        sum(map(str.isdigit, text)) / length,
        np.log1p(len(OPTION.findall(text))),
        np.log1p(len(SENTENCE.findall(text))),
        np.log1p(text.count("?")),
        np.log1p(len(CODE.findall(text))),
        np.log1p(len(FORMULA.findall(text))),
        sum(map(str.isupper, text)) / length,
        1 - len(text.encode("ascii", "ignore")) / length,
        np.log1p(text.count("\n")),
    ]
