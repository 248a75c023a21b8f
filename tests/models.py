"""Tiny encoder models, built here from nothing, in the formats of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

# Options with which a tiny base learns the topics of `checks.training_data` in two seconds.
QUICK = {"head_rate": 0.02, "learning_rate": 5e-3, "epochs": 4, "rank": 2, "width": 4}
WORDS = ["[UNK]", *"what is the of a function list word question 1 2 3 4 5 + ?".split()]


def _tokenizer(folder: Path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'sentence'")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def tiny_static_model(folder: Path) -> Path:
    model2vec = pytest.importorskip("model2vec", reason="needs the extra 'static'")
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    model2vec.StaticModel(vectors, _tokenizer(folder)).save_pretrained(folder)
    return folder


def tiny_sentence_model(folder: Path) -> Path:
    """An ONNX graph with the inputs and the output of an exported sentence transformer."""
    onnx = pytest.importorskip("onnx", reason="needs onnx, which `make test` installs")
    pytest.importorskip("onnxruntime", reason="needs the extra 'sentence'")
    _tokenizer(folder)
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "tiny",
        [helper.make_tensor_value_info("input_ids", kinds.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("last_hidden_state", kinds.FLOAT, ["batch", "tokens", 8])],
        [onnx.numpy_helper.from_array(vectors, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder


def tiny_base(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """A Hugging Face model with random weights: `bert`, an encoder, or `llama`, a causal one."""
    torch = pytest.importorskip("torch", reason="needs the extra 'lm'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'lm'")
    torch.set_num_threads(1)  # on matrices this small threads wait longer than they work
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(folder), unk_token="[UNK]", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    shape = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bert":
            off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            model = transformers.BertModel(transformers.BertConfig(**shape, **off))
        else:
            model = transformers.LlamaModel(transformers.LlamaConfig(**shape))
    model.save_pretrained(folder)
    return folder
