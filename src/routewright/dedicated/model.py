"""A trained model: how much it would rather defer, and what it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from routewright.dedicated.card import CARD, read_card
from routewright.dedicated.gate import GATE
from routewright.dedicated.recipe import TAG, Kind
from routewright.prediction import language_models
from routewright.prediction.predictors.transformer import Transformer
from routewright.types import Array, Message


@dataclass
class Model:
    """A causal model that can write and, if its folder says so, defer; `load` opens one."""

    base: language_models.Base
    card: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def kind(self) -> Kind | None:
        """None for a model that never defers."""
        kind: Kind | None = self.card.get("kind")
        return kind

    @property
    def tag(self) -> str:
        return str(self.card.get("tag", TAG))

    @property
    def offset(self) -> float:
        """What is added to a doubt: above zero, together, the model defers."""
        return float(self.card.get("calibration", {}).get("offset", 0.0))

    def doubts(self, conversations: Sequence[Sequence[Message]], *, batch: int = 16) -> Array:
        """How much the model would rather defer, (n,), in logits; nothing is generated."""
        texts = [language_models.prompt(self.base, messages) for messages in conversations]
        if self.kind == "gate":
            chance = np.clip(self._gate.predict(texts).mean[:, 0], 1e-9, 1 - 1e-9)
            return np.asarray(np.log(1 - chance) - np.log(chance))
        assert self.kind == "tag", "this model never defers"
        return self._leads(texts, batch)

    def _leads(self, texts: Sequence[str], batch: int) -> Array:
        import torch

        collate, number = language_models.collator(self.base), int(self.card["tag_id"])
        ids = language_models.tokens(self.base, texts, int(self.card["recipe"]["max_tokens"]))
        order = np.argsort([len(row) for row in ids], kind="stable")
        found = np.empty(len(ids))
        with torch.inference_mode():
            for i in range(0, len(ids), batch):
                part = order[i : i + batch]
                tensors = collate([{"ids": ids[j]} for j in part])
                inside = {name: t.to(language_models.device()) for name, t in tensors.items()}
                logits = self.base.model(**inside).logits
                ends = inside["attention_mask"].sum(dim=1) - 1
                last = logits[torch.arange(len(part)), ends].float()
                found[part] = lead(last, number).double().cpu().numpy()
        return found

    @cached_property
    def _gate(self) -> Transformer:
        """Reads with the base that answers, unless it was trained in full."""
        from safetensors.numpy import load_file

        options = {**self.card["gate"], "base": str(self.folder), "checkpointing": False}
        gate = Transformer.load(options, load_file(self.folder / GATE))
        return gate if gate.tune == "full" else gate.stand_on(language_models.body(self.base))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, a gate's adapters are off: the base writes as it always did."""
        with self._gate.adapters_off() if self.kind == "gate" else nullcontext():
            yield


def load(name: str, *, precision: str | None = None) -> Model:
    """A folder that `train` wrote, or any causal model by name. Raises BadInput."""
    language_models.require("a local model")
    card = read_card(Path(name)) if (Path(name) / CARD).exists() else {}
    precision = precision or ("bfloat16" if language_models.device() == "cuda" else "float32")
    return Model(
        language_models.open_base(name, precision=precision, writes=True), card, Path(name)
    )


def lead(logits: Any, tag: int) -> Any:
    """How far the tag is ahead of the likeliest other token, (n, vocabulary) ▶ (n,): above zero
    a greedy decoder takes it."""
    return logits[:, tag] - others(logits, tag).amax(dim=1)


def others(logits: Any, tag: int) -> Any:
    import torch

    others = logits.clone()
    others[:, tag] = -torch.inf
    return others
