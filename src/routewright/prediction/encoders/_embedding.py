"""The common part of encoders that use a pretrained embedding model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from routewright.errors import BadInput
from routewright.prediction.stored import WIDEST, whole
from routewright.types import Array, Query

Embed = Callable[[str], Array]  # a text ▶ its vector


@dataclass
class Embedding:
    """Vectors of unit length from the model at `source`, which is loaded at its first use."""

    source: str
    width: int = field(default=0, repr=False)
    _embed: Embed | None = field(default=None, repr=False, compare=False)

    @staticmethod
    @abstractmethod
    def open(source: str) -> Embed:
        """Loads the model. Raises BadInput if it cannot be loaded."""

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {type(self).__name__.lower(): slice(0, self.width)}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        self.width = len(self._loaded()("width"))
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        embed = self._loaded()
        # One text at a time, because padding would make a vector depend on its neighbours.
        vectors = [np.asarray(embed(query.excerpt)) for query in queries]
        if wrong := [vector.size for vector in vectors if vector.size != self.width]:
            raise BadInput(
                f"the model at '{self.source}' gives vectors of {wrong[0]} numbers, and the router"
                f" was fitted on {self.width}: use the same model, or fit again"
            )
        table = np.array(vectors, dtype=np.float64).reshape(len(queries), self.width)
        length = np.linalg.norm(table, axis=1, keepdims=True)
        return np.asarray(table / np.maximum(length, 1e-9))

    def options(self) -> dict[str, Any]:
        return {"source": self.source, "width": self.width}

    def arrays(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        width = whole(options["width"], "the width of the encoder", 0, WIDEST)
        return cls(options["source"], width)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the loaded model out of copies for other processes, which load it themselves."""
        return {**self.__dict__, "_embed": None}

    def _loaded(self) -> Embed:
        if self._embed is None:
            if self.source.startswith((".", "/")) and not Path(self.source).exists():
                raise BadInput(f"the encoder's model is not at '{self.source}': check the path")
            self._embed = self.open(self.source)
        return self._embed
