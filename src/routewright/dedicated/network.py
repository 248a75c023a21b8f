"""The network that learns to open with a tag: a base with adapters, and the tag's own row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits as decision

from routewright.dedicated.model import others
from routewright.dedicated.recipe import WITHIN, Recipe
from routewright.prediction import language_models

NEVER = -1e9

cross_entropy = partial(functional.cross_entropy, reduction="none")


def build(base: language_models.Base, tag: int | None, rows: Sequence[Any], recipe: Recipe) -> Any:
    """The network on the device where it is trained; without a `tag` it learns to answer only."""
    adapted = language_models.adapt(
        base, recipe.tune, rank=recipe.rank, checkpointing=recipe.checkpointing
    )
    network = (
        Network(adapted)
        if tag is None
        else Deferring(adapted, base, tag, _defer_weight(rows, recipe))
    )
    return network.to(language_models.device())


class Network(language_models.module()):  # type: ignore[misc]
    """Learns to answer: the loss of a row is the cross-entropy of its answer, the mean over its
    tokens."""

    def __init__(self, adapted: Any) -> None:
        super().__init__()
        self.base = adapted

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any,
        labels: Any,
        start: Any,
        weight: Any,
        failure: Any,
        own: Any,
    ) -> dict[str, Any]:
        read = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits, wanted = self.base(**read).logits, labels[:, 1:] >= 0
        said, target = logits[:, :-1][wanted].float(), labels[:, 1:][wanted]  # (k, vocabulary)
        terms = self._answer(read, wanted, said, target, start, own)
        length = torch.where(own, 1, wanted.sum(dim=1).clamp(min=1))
        each = (weight / length)[:, None].expand(wanted.shape)[wanted]
        opening = logits[torch.arange(len(logits)), start]
        loss = (terms * each).sum() + self._decision(opening, failure)
        return {"loss": loss / len(labels)}

    def _answer(
        self, read: Mapping[str, Any], wanted: Any, said: Any, target: Any, start: Any, own: Any
    ) -> Any:
        """The loss of every token that is to be written, (k,)."""
        return cross_entropy(said, target)

    def _decision(self, opening: Any, failure: Any) -> Any:
        """The loss of deferring or not, all rows together."""
        return 0.0


class TagRow(nn.Module):
    """The tag's row of the output layer, trained by itself."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.tag = nn.Parameter(weight.detach().float().clone())


class Deferring(Network):
    """Learns to defer as well.

    To the loss comes the cross-entropy of the tag against anything else at the prompt's end, and
    the answer is weighed given that it answers: the base's own answer against what it would say
    without adapters, so that learning to defer changes little else. Within an answer the tag is a
    mistake that is made to look likely: a server that biases it everywhere must not write it there.
    """

    def __init__(self, adapted: Any, base: language_models.Base, tag: int, heavier: float) -> None:
        super().__init__(adapted)
        self.number, self.heavier = tag, heavier
        output, embeddings = base.model.get_output_embeddings(), base.model.get_input_embeddings()
        self.head = TagRow(output.weight[tag])
        output.register_forward_hook(self._with_tag)
        if output.weight is embeddings.weight:  # tied
            embeddings.register_forward_hook(self._embedded)

    def _with_tag(self, module: Any, args: Any, logits: Any) -> Any:
        own = (args[0].to(self.head.tag.dtype) @ self.head.tag)[..., None].to(logits.dtype)
        before, after = logits[..., : self.number], logits[..., self.number + 1 :]
        return torch.cat([before, own, after], dim=-1)

    def _embedded(self, module: Any, args: Any, states: Any) -> Any:
        row = self.head.tag.to(states.dtype)
        return torch.where((args[0] == self.number)[..., None], row, states)

    def _answer(
        self, read: Mapping[str, Any], wanted: Any, said: Any, target: Any, start: Any, own: Any
    ) -> Any:
        place = torch.arange(wanted.shape[1], device=wanted.device)
        first = (place == start[:, None])[wanted]
        said[:, self.number] += torch.where(first, NEVER, WITHIN)
        terms = cross_entropy(said, target)
        if not hasattr(self.base, "disable_adapter"):
            return terms
        kept = own[:, None].expand(wanted.shape)[wanted]
        return torch.where(kept, cross_entropy(said, self._before(read, wanted)), terms)

    def _before(self, read: Mapping[str, Any], wanted: Any) -> Any:
        """The chances of tokens as the base saw them, (k, vocabulary)."""
        with torch.no_grad(), self.base.disable_adapter():
            logits = self.base(**read).logits[:, :-1][wanted].float()
        logits[:, self.number] = NEVER
        return logits.softmax(dim=1)

    def _decision(self, opening: Any, failure: Any) -> Any:
        known = ~failure.isnan()
        if not known.any():
            return 0.0
        fails = failure[known]
        terms = decision(log_odds(opening[known].float(), self.number), fails, reduction="none")
        return (terms * (self.heavier * fails + 1 - fails)).sum()


def log_odds(logits: Any, tag: int) -> Any:
    """Of the tag against every other token, (n, vocabulary) ▶ (n,)."""
    return logits[:, tag] - others(logits, tag).logsumexp(dim=1)


def _defer_weight(rows: Sequence[Any], recipe: Recipe) -> float:
    if recipe.defer_weight is not None:
        return recipe.defer_weight
    failure = np.array([row["failure"] for row in rows])
    fails = float(np.nansum(failure))
    return float(np.nansum(1 - failure)) / fails if fails else 1.0
