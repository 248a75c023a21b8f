"""A trained dedicated model: its doubts about queries, and the base that writes its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from routewright import files
from routewright.dedicated.card import CARD, read_card
from routewright.dedicated.gate import GATE
from routewright.dedicated.recipe import TAG, Kind
from routewright.prediction import language_models
from routewright.prediction.predictors.transformer import Transformer
from routewright.prediction.stored import reading
from routewright.types import Array, Message


@dataclass
class Model:
    """A causal model that answers and, if its folder has a card, defers; `load` opens one."""

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
        """The calibration in logits: the model defers if a doubt plus `offset` is above zero."""
        return float(self.card.get("calibration", {}).get("offset", 0.0))

    def doubts(self, conversations: Sequence[Sequence[Message]], *, batch: int = 16) -> Array:
        """The doubt (n,) of the model about each conversation, in logits; it generates no text.

        It is the tag's lead over every other first token, or the log-odds of failure by the gate.
        """
        texts = [language_models.prompt(self.base, messages) for messages in conversations]
        if self.kind == "gate":
            quality = np.clip(self._gate.predict(texts).mean[:, 0], 1e-9, 1 - 1e-9)
            return np.asarray(np.log(1 - quality) - np.log(quality))
        assert self.kind == "tag", "this model never defers"
        return self._tag_leads(texts, batch)

    def _tag_leads(self, texts: Sequence[str], batch: int) -> Array:
        """The `lead` of the tag as the first token after each text, (n,)."""
        import torch

        collate, tag_id = language_models.collator(self.base), int(self.card["tag_id"])
        ids = language_models.tokens(self.base, texts, int(self.card["recipe"]["max_tokens"]))
        order = np.argsort([len(row) for row in ids], kind="stable")
        leads = np.empty(len(ids))
        with torch.inference_mode():
            for i in range(0, len(ids), batch):
                part = order[i : i + batch]
                tensors = collate([{"ids": ids[j]} for j in part])
                inputs = {name: t.to(language_models.device()) for name, t in tensors.items()}
                logits = self.base.model(**inputs).logits
                ends = inputs["attention_mask"].sum(dim=1) - 1
                last = logits[torch.arange(len(part)), ends].float()
                leads[part] = lead(last, tag_id).double().cpu().numpy()
        return leads

    @cached_property
    def _gate(self) -> Transformer:
        """The gate on the base that answers; on a base of its own if it was trained in full."""
        arrays = files.read_arrays(self.folder / GATE)
        with reading(f"the gate in '{self.folder}'"):
            options = {**self.card["gate"], "base": str(self.folder), "checkpointing": False}
            gate = Transformer.load(options, arrays)
        return gate if gate.tune == "full" else gate.attach(language_models.body(self.base))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Switches a gate's adapters off inside the context, so that the base writes unchanged."""
        with self._gate.adapters_off() if self.kind == "gate" else nullcontext():
            yield


def load(name: str, *, precision: str | None = None) -> Model:
    """Opens a folder that `train` wrote, or any causal model by its Hugging Face name or folder.

    `precision` defaults to bfloat16 on a GPU and float32 on a CPU. Raises BadInput if the model
    cannot be loaded.
    """
    language_models.require("a local model")
    card = read_card(Path(name)) if (Path(name) / CARD).exists() else {}
    precision = precision or ("bfloat16" if language_models.device() == "cuda" else "float32")
    return Model(
        language_models.open_base(name, precision=precision, causal_head=True), card, Path(name)
    )


def lead(logits: Any, tag: int) -> Any:
    """The tag's logit minus the highest other logit, (n, vocabulary) ▶ (n,).

    A greedy decoder writes the tag if it is above zero.
    """
    return logits[:, tag] - others(logits, tag).amax(dim=1)


def others(logits: Any, tag: int) -> Any:
    """A copy of the logits in which the tag is impossible."""
    import torch

    masked = logits.clone()
    masked[:, tag] = -torch.inf
    return masked
