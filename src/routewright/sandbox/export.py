"""Write a sandbox model as a Hugging Face folder.

``python -m routewright.sandbox.export lexis FOLDER``. The same network as a GPT-NeoX, to the last
weight, so that what trains and serves billions of parameters can be tried on a third of a million.
Needs the extra ``lm``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routewright.sandbox.model import ANSWER, END, MODELS, PAD, SPECIAL, UNKNOWN, WEIGHTS, TinyLM

# Digits are read from the last one; a chat template is where a tokenizer can be told so.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(out='', run='') -%}"
    "{%- for c in (messages | selectattr('role', 'equalto', 'user') | list | last)['content'] -%}"
    "{%- if c in '0123456789' -%}{%- set ns.run = c + ns.run -%}"
    "{%- else -%}{%- set ns.out = ns.out + ns.run + c -%}{%- set ns.run = '' -%}{%- endif -%}"
    "{%- endfor -%}{{- ns.out + ns.run -}}"
    "{%- if add_generation_prompt -%}<answer>{%- endif -%}"
)


def export(name: str, folder: Path) -> Path:
    """Config, weights and tokenizer of the named model of ``MODELS``; gives the folder.

    The text of an answer is what ``TinyLM`` says, but for numbers: the tokenizer cannot turn
    their digits round again on the way out.
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
        for parameter, own in _renamed(model, _stored(name), shape.heads):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(own)))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _tokenizer(vocabulary, shape.words, shape.context).save_pretrained(folder)
    return folder


def _stored(name: str) -> dict[str, Any]:
    from safetensors.numpy import load_file

    stored = load_file(WEIGHTS / f"{name}.safetensors")
    return {key: array.astype(np.float32) for key, array in stored.items()}


def _renamed(model: Any, stored: dict[str, Any], heads: int) -> list[tuple[Any, Any]]:
    """Every parameter of the network with its weights; norms have a gain of one, no bias."""
    own = {"query_key_value": "qkv", "dense": "out", "dense_h_to_4h": "up", "dense_4h_to_h": "down"}
    ends = {"gpt_neox.embed_in.weight": stored["embed"], "lm_head.weight": stored["head"].T}
    pairs = []
    for name, parameter in model.named_parameters():
        *path, part, kind = name.split(".")
        if name in ends:
            matrix = ends[name]
        elif part in own and kind == "weight":
            matrix = stored[f"layers.{path[2]}.{own[part]}"]
            matrix = _by_head(matrix, heads) if part == "query_key_value" else matrix.T
        else:
            gain = float(kind == "weight")  # norms that do nothing more, and no biases
            matrix = np.full(tuple(parameter.shape), gain, np.float32)
        pairs.append((parameter, matrix))
    return pairs


def _by_head(qkv: Any, heads: int) -> Any:
    """(dim, 3 · heads · size), all queries first ▶ (heads · 3 · size, dim), head by head."""
    dim = len(qkv)
    return qkv.T.reshape(3, heads, -1, dim).swapaxes(0, 1).reshape(-1, dim)


def _tokenizer(vocabulary: Sequence[str], words: Sequence[str], context: int) -> Any:
    """A Hugging Face tokenizer that reads what ``Tokenizer`` reads, digits turned round before."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    known = Regex(f" ?(?<![a-z])(?:{longest_first})(?![a-z])|.")
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
            pre_tokenizers.Split(known, "isolated"),
            pre_tokenizers.Split(Regex("^ (?=[a-z])"), "removed"),  # goes without saying
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
