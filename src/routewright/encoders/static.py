"""Static token embeddings (model2vec): fast, no transformer at run time. Extra: `static`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.errors import BadInput
from routewright.types import Array, Query


@dataclass
class Static:
    """Mean token embeddings of a model2vec model, rows of unit length.

    `source` is a local folder or a hub name. A router refers to it, and does not copy it.
    """

    source: str = ""
    width: int = 0
    _model: Any = field(default=None, repr=False, compare=False)

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"static": slice(0, self.width)}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        self.width = self.encode(queries[:1]).shape[1]
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        model = self._loaded()
        # One text at a time: a query alone must give what it gives within a batch.
        rows = [np.asarray(model.encode(query.text), np.float64) for query in queries]
        table = np.array(rows).reshape(len(queries), self.width or model.dim)
        length = np.linalg.norm(table, axis=1, keepdims=True)
        return np.asarray(table / np.maximum(length, 1e-9))

    def options(self) -> dict[str, Any]:
        return {"source": self.source, "width": self.width}

    def arrays(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(**options)

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = _open(self.source)
        return self._model


def _open(source: str) -> Any:
    if not source:
        raise BadInput("encoder 'static' needs a model: static=FOLDER or static=NAME")
    try:
        from model2vec import StaticModel
    except ImportError as error:
        raise BadInput("encoder 'static' needs: pip install 'routewright[static]'") from error
    try:
        return StaticModel.from_pretrained(source)
    except Exception as error:  # the library raises whatever its downloader raises
        raise BadInput(f"no model2vec model could be loaded from '{source}': {error}") from error
