"""A Hugging Face sequence classifier that was trained as a reward model; extra: `lm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from routewright.errors import BadInput, needs
from routewright.grading.rewards import Pair
from routewright.types import Array


@dataclass(frozen=True)
class Classifier:
    """Loads any model with one output by its name or local folder; the raw output is the reward.

    The conversation and the answer go through the tokenizer's chat template; a tokenizer without
    one gets prompt and answer as a pair. Texts that are too long are cut at the beginning, because
    the answer is at the end. On a GPU the weights are bfloat16. Weights are read from safetensors
    only, and no code of the model's repository is run.
    """

    model: str
    batch: int = 16
    max_tokens: int = 4096

    def rate(self, pairs: Sequence[Pair]) -> Array:
        texts = [self._tokens(pair) for pair in pairs]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]["input_ids"]))
        rewards = np.full(len(texts), np.nan)
        for start in range(0, len(order), self.batch):  # similar lengths need little padding
            rows = order[start : start + self.batch]
            rewards[rows] = self._forward([texts[row] for row in rows])
        return rewards

    @cached_property
    def _model(self) -> _Model:
        return _load(self.model)

    def _tokens(self, pair: Pair) -> dict[str, Any]:
        query, answer = pair
        tokenizer = self._model.tokenizer
        if getattr(tokenizer, "chat_template", None):
            messages = [dict(m) for m in query.messages]
            messages.append({"role": "assistant", "content": answer})
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            encoding = tokenizer(text, add_special_tokens=False)
        else:
            encoding = tokenizer(query.text, answer)
        return {key: ids[-self.max_tokens :] for key, ids in encoding.items()}

    def _forward(self, rows: Sequence[dict[str, Any]]) -> Array:
        import torch

        model = self._model
        batch = model.tokenizer.pad(list(rows), return_tensors="pt").to(model.network.device)
        with torch.inference_mode():
            logits = model.network(**batch).logits
        return np.asarray(logits[:, 0].float().cpu().numpy(), dtype=np.float64)


class _Model(NamedTuple):
    network: Any
    tokenizer: Any


def _load(name: str) -> _Model:
    with needs("reward model 'classifier'"):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    gpu = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            torch_dtype=torch.bfloat16 if gpu else torch.float32,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0]
        raise BadInput(
            f"reward model '{name}' cannot be loaded ({line}): name a local folder, or a model"
            " that this machine can download"
        ) from error
    if model.config.num_labels != 1:
        raise BadInput(
            f"'{name}' has {model.config.num_labels} outputs: choose a reward model, which has one"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return _Model(model.eval().to("cuda" if gpu else "cpu"), tokenizer)
