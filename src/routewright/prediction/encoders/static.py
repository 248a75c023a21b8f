"""Static token embeddings (model2vec): fast, no transformer at run time. Extra: `static`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routewright.errors import BadInput
from routewright.prediction.encoders._embedding import Embed, Embedding
from routewright.types import Array


@dataclass
class Static(Embedding):
    """Mean token embeddings of a model2vec model, rows of unit length.

    `source` is a local folder or a hub name. A router refers to it, and does not copy it.
    """

    @staticmethod
    def open(source: str) -> Embed:
        try:
            from model2vec import StaticModel
        except ImportError as error:
            raise BadInput("encoder 'static' needs: pip install 'routewright[static]'") from error
        try:
            model = StaticModel.from_pretrained(source)
        except Exception as error:  # the library raises whatever its downloader raises
            reason = str(error).partition("\n")[0]
            raise BadInput(
                f"no model2vec model could be loaded from '{source}': {reason}"
            ) from error

        def embed(text: str) -> Array:
            return np.asarray(model.encode(text), np.float64)

        return embed
