"""Static token embeddings (model2vec), which are fast and need no transformer. Extra: `static`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routewright.errors import BadInput, needs
from routewright.prediction.encoders._embedding import Embed, Embedding
from routewright.types import Array


@dataclass
class Static(Embedding):
    """Mean token embeddings of a model2vec model, of unit length.

    `source` is a local folder or a Hugging Face name. A router refers to the model and does not
    copy it.
    """

    @staticmethod
    def open(source: str) -> Embed:
        with needs("encoder 'static'"):
            from model2vec import StaticModel
        try:
            model = StaticModel.from_pretrained(source)
        except Exception as error:  # the library passes on all errors of its downloader
            reason = str(error).partition("\n")[0]
            raise BadInput(
                f"no model2vec model could be loaded from '{source}': {reason}"
            ) from error

        def embed(text: str) -> Array:
            return np.asarray(model.encode(text), np.float64)

        return embed
