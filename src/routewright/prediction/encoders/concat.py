"""Joins the vectors of several encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from routewright.prediction.encoders import Encoder
from routewright.prediction.stored import load, under
from routewright.registry import name_of
from routewright.types import Array, Query


@dataclass
class Concat:
    """The vectors of the encoders in `parts`, one after another; blocks keep their names."""

    parts: Sequence[Encoder] = ()

    @property
    def blocks(self) -> Mapping[str, slice]:
        blocks: dict[str, slice] = {}
        start = 0
        for part in self.parts:
            for name, block in part.blocks.items():
                blocks[name] = slice(start + block.start, start + block.stop)
            start = max((block.stop for block in blocks.values()), default=0)
        return blocks

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        for part in self.parts:
            part.fit(queries, seed=seed)
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        if not self.parts:
            return np.zeros((len(queries), 0))
        return np.hstack([part.encode(queries) for part in self.parts])

    def options(self) -> dict[str, Any]:
        return {
            "parts": [
                {"name": name_of("encoders", part), "options": part.options()}
                for part in self.parts
            ]
        }

    def arrays(self) -> dict[str, Any]:
        return {
            f"{i}.{name}": array
            for i, part in enumerate(self.parts)
            for name, array in part.arrays().items()
        }

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(
            [
                load("encoders", part, under(arrays, f"{i}."))
                for i, part in enumerate(options["parts"])
            ]
        )
