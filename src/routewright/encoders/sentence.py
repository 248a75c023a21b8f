"""Sentence embeddings by a small transformer, through ONNX Runtime where a model.onnx exists.

Extras: `sentence` for ONNX Runtime, `torch` for everything that sentence-transformers loads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from routewright.errors import BadInput
from routewright.types import Array, Query

ONNX_FILES = ("onnx/model.onnx", "model.onnx")
MAX_TOKENS = 256

Embed = Callable[[str], Array]  # a text ▶ its vector


@dataclass
class Sentence:
    """Mean-pooled embeddings, rows of unit length.

    `source` is a local folder or a sentence-transformers name. A folder that holds model.onnx
    and tokenizer.json needs no torch. A router refers to the model, and does not copy it.
    """

    source: str = ""
    width: int = 0
    _embed: Embed | None = field(default=None, repr=False, compare=False)

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"sentence": slice(0, self.width)}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        self.width = len(self._loaded()("width"))
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        embed = self._loaded()
        # One text at a time: padding would make a vector depend on its neighbours.
        table = np.array([embed(query.text) for query in queries], dtype=np.float64)
        table = table.reshape(len(queries), -1 if len(queries) else self.width)
        length = np.linalg.norm(table, axis=1, keepdims=True)
        return np.asarray(table / np.maximum(length, 1e-9))

    def options(self) -> dict[str, Any]:
        return {"source": self.source, "width": self.width}

    def arrays(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        return cls(**options)

    def _loaded(self) -> Embed:
        if self._embed is None:
            self._embed = _open(self.source)
        return self._embed


def _open(source: str) -> Embed:
    if not source:
        raise BadInput("encoder 'sentence' needs a model: sentence=FOLDER or sentence=NAME")
    for name in ONNX_FILES:
        if (model := Path(source) / name).exists():
            return _onnx(Path(source), model)
    return _sentence_transformers(source)


def _onnx(folder: Path, model: Path) -> Embed:
    try:
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BadInput("encoder 'sentence' needs: pip install 'routewright[sentence]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        options = SessionOptions()
        options.intra_op_num_threads = 1
        session = InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise bare exceptions of their own
        raise BadInput(f"'{folder}' is not a whole ONNX model: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(_max_tokens(folder))
    wanted = {node.name for node in session.get_inputs()}

    def embed(text: str) -> Array:
        tokens = tokenizer.encode(text)
        feed = {
            "input_ids": tokens.ids or [0],
            "attention_mask": tokens.attention_mask or [1],
            "token_type_ids": tokens.type_ids or [0],
        }
        batch = {k: np.array([v], np.int64) for k, v in feed.items() if k in wanted}
        states = session.run(None, batch)[0][0]  # (tokens, width)
        return np.asarray(states.mean(axis=0), np.float64)

    return embed


def _max_tokens(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    if not path.exists():
        return MAX_TOKENS
    return int(json.loads(path.read_text(encoding="utf-8")).get("max_seq_length") or MAX_TOKENS)


def _sentence_transformers(source: str) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise BadInput(
            f"'{source}' holds no model.onnx: pip install 'routewright[torch]' to load it with"
            " sentence-transformers"
        ) from error
    try:
        model = SentenceTransformer(source, device="cpu")
    except Exception as error:  # the library raises whatever its downloader raises
        raise BadInput(f"no sentence model could be loaded from '{source}': {error}") from error

    def embed(text: str) -> Array:
        return np.asarray(model.encode(text, show_progress_bar=False), np.float64)

    return embed
