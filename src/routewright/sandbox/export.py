"""Write a sandbox model as a Hugging Face folder.

``python -m routewright.sandbox.export lexis FOLDER`` writes the same network as a GPT-NeoX with
exactly the same weights. The commands that train and serve models with billions of parameters can
then be tried on one with a third of a million. Needs the extra ``lm``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routewright.sandbox.model import ANSWER, END, MODELS, PAD, SPECIAL, UNKNOWN, WEIGHTS, TinyLM

# The model reads every number from its last digit; of a tokenizer, the chat template can do that.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(out='', run='') -%}"
    "{%- for c in (messages | selectattr('role', 'equalto', 'user') | list | last)['content'] -%}"
    "{%- if c in '0123456789' -%}{%- set ns.run = c + ns.run -%}"
    "{%- else -%}{%- set ns.out = ns.out + ns.run + c -%}{%- set ns.run = '' -%}{%- endif -%}"
    "{%- endfor -%}{{- ns.out + ns.run -}}"
    "{%- if add_generation_prompt -%}<answer>{%- endif -%}"
)


def export(name: str, folder: Path) -> Path:
    """Writes config, weights and tokenizer of the named model of ``MODELS``; returns the folder.

    The exported model writes the same answers as ``TinyLM``, except that the digits of numbers
    stay reversed, because a Hugging Face tokenizer cannot reverse them when it decodes.
    """
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    lm = TinyLM.load(name)
    shape, vocabulary = lm.config, lm.tokenizer.tokens
    config = GPTNeoXConfig(
        vocab_size=len(vocabulary),
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.dim,
        hidden_act="gelu_new",
        max_position_embeddings=shape.context,
        layer_norm_eps=1e-6,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1000.0,
            "partial_rotary_factor": 1.0,
        },
        use_parallel_residual=False,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for parameter, matrix in _pairs(model, _weights(name), shape.heads):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _tokenizer(vocabulary, shape.words, shape.context).save_pretrained(folder)
    return folder


def _weights(name: str) -> dict[str, Any]:
    from safetensors.numpy import load_file

    arrays = load_file(WEIGHTS / f"{name}.safetensors")
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def _pairs(model: Any, weights: dict[str, Any], heads: int) -> list[tuple[Any, Any]]:
    """Each parameter of the GPT-NeoX with its value."""
    names = {
        "query_key_value": "qkv",
        "dense": "out",
        "dense_h_to_4h": "up",
        "dense_4h_to_h": "down",
    }
    ends = {"gpt_neox.embed_in.weight": weights["embed"], "lm_head.weight": weights["head"].T}
    pairs = []
    for name, parameter in model.named_parameters():
        *path, part, kind = name.split(".")
        if name in ends:
            matrix = ends[name]
        elif part in names and kind == "weight":
            matrix = weights[f"layers.{path[2]}.{names[part]}"]
            matrix = _by_head(matrix, heads) if part == "query_key_value" else matrix.T
        else:
            gain = float(kind == "weight")  # TinyLM has no gains and no biases: ones and zeros
            matrix = np.full(tuple(parameter.shape), gain, np.float32)
        pairs.append((parameter, matrix))
    return pairs


def _by_head(qkv: Any, heads: int) -> Any:
    """Matrix (dim, 3 · heads · size), all queries first ▶ (heads · 3 · size, dim), head by head."""
    dim = len(qkv)
    return qkv.T.reshape(3, heads, -1, dim).swapaxes(0, 1).reshape(-1, dim)


def _tokenizer(vocabulary: Sequence[str], words: Sequence[str], context: int) -> Any:
    """A Hugging Face tokenizer with the tokens of ``Tokenizer``, for text with reversed numbers."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    pattern = Regex(f" ?(?<![a-z])(?:{longest_first})(?![a-z])|.")
    ids = {token: i for i, token in enumerate(vocabulary)}
    fast = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[UNKNOWN]))
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.Split(Regex("^ (?=[a-z])"), "removed"),  # a word implies it
        ]
    )
    fast.decoder = decoders.Fuse()
    kind: Any = PreTrainedTokenizerFast
    return kind(
        tokenizer_object=fast,
        unk_token=SPECIAL[UNKNOWN],
        pad_token=SPECIAL[PAD],
        eos_token=SPECIAL[END],
        additional_special_tokens=[SPECIAL[ANSWER]],
        model_max_length=context,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m routewright.sandbox.export",
        description="Write a sandbox model as a Hugging Face folder.",
    )
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    from transformers.utils import logging

    quiet: Any = logging
    quiet.disable_progress_bar()
    print(export(options.name, options.folder))


if __name__ == "__main__":
    main()
