"""Sentence embeddings by a small transformer, with ONNX Runtime if there is a model.onnx.

Extras: `sentence` for ONNX Runtime, `torch` for all models of sentence-transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from routewright import files
from routewright.errors import BadInput, needs
from routewright.prediction.encoders._embedding import Embed, Embedding
from routewright.types import Array

ONNX_FILES = ("onnx/model.onnx", "model.onnx")
MAX_TOKENS = 256


@dataclass
class Sentence(Embedding):
    """Mean-pooled embeddings of unit length.

    `source` is a local folder, an ONNX file in one, or a sentence-transformers name. A folder with
    model.onnx and tokenizer.json needs no torch. A router refers to the model and does not copy it.
    """

    @staticmethod
    def open(source: str) -> Embed:
        if source.endswith(".onnx"):
            return _onnx(_tokenizer_near(Path(source)), Path(source))
        for name in ONNX_FILES:
            if (model := Path(source) / name).exists():
                return _onnx(Path(source), model)
        return _sentence_transformers(source)


def _tokenizer_near(model: Path) -> Path:
    """The folder of the tokenizer: that of the ONNX file, or its parent, which has `onnx/`."""
    above = model.parent.parent
    return above if (above / "tokenizer.json").exists() else model.parent


def _onnx(folder: Path, model: Path) -> Embed:
    with needs("encoder 'sentence'"):
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        options = SessionOptions()
        options.intra_op_num_threads = 1
        session = InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise plain exceptions
        raise BadInput(f"'{folder}' is not a complete ONNX model: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(_max_tokens(folder))
    inputs = {node.name for node in session.get_inputs()}

    def embed(text: str) -> Array:
        tokens = tokenizer.encode(text)
        feed = {
            "input_ids": tokens.ids or [0],
            "attention_mask": tokens.attention_mask or [1],
            "token_type_ids": tokens.type_ids or [0],
        }
        batch = {k: np.array([v], np.int64) for k, v in feed.items() if k in inputs}
        states = session.run(None, batch)[0][0]  # (tokens, width)
        return np.asarray(states.mean(axis=0), np.float64)

    return embed


def _max_tokens(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    if not path.exists():
        return MAX_TOKENS
    try:
        settings = files.read_json(path)
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read: {error.strerror}") from error
    most = settings.get("max_seq_length") if isinstance(settings, dict) else None
    return most if isinstance(most, int) and most > 0 else MAX_TOKENS


def _sentence_transformers(source: str) -> Embed:
    with needs(f"encoder 'sentence' without a model.onnx in '{source}'"):
        from sentence_transformers import SentenceTransformer
    try:
        model = SentenceTransformer(source, device="cpu")
    except Exception as error:  # the library passes on all errors of its downloader
        raise BadInput(f"no sentence model could be loaded from '{source}': {error}") from error

    def embed(text: str) -> Array:
        return np.asarray(model.encode(text, show_progress_bar=False), np.float64)

    return embed
