"""The network that learns to write a tag first: a base with adapters, and the tag's own row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits

from routewright.dedicated.model import others
from routewright.dedicated.recipe import WITHIN, Recipe
from routewright.prediction import language_models

NEVER = -1e9  # a logit that makes a token impossible

cross_entropy = partial(functional.cross_entropy, reduction="none")


def build(base: language_models.Base, tag: int | None, rows: Sequence[Any], recipe: Recipe) -> Any:
    """Builds the network on its device; without a `tag` it learns to answer only."""
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
    """Learns to answer: the loss of a row is the mean cross-entropy over its answer's tokens.

    `labels` (n, length) hold the tokens to learn and -100 elsewhere; `start` (n,) is the position
    of the last token of the prompt; `own` (n,) marks rows whose answer is the base's own.
    """

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
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits, mask = self.base(**inputs).logits, labels[:, 1:] >= 0
        predicted, target = logits[:, :-1][mask].float(), labels[:, 1:][mask]  # (k, vocabulary)
        terms = self._answer(inputs, mask, predicted, target, start, own)
        length = torch.where(own, 1, mask.sum(dim=1).clamp(min=1))
        token_weight = (weight / length)[:, None].expand(mask.shape)[mask]
        first = logits[torch.arange(len(logits)), start]
        loss = (terms * token_weight).sum() + self._decision(first, failure)
        return {"loss": loss / len(labels)}

    def _answer(
        self,
        inputs: Mapping[str, Any],
        mask: Any,
        predicted: Any,
        target: Any,
        start: Any,
        own: Any,
    ) -> Any:
        """The loss of each of the k tokens to learn, (k,)."""
        return cross_entropy(predicted, target)

    def _decision(self, first: Any, failure: Any) -> Any:
        """The summed loss of the decisions, from the logits (n, vocabulary) of the first token."""
        return 0.0


class TagRow(nn.Module):
    """The tag's row of the output layer as a parameter of its own."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.tag = nn.Parameter(weight.detach().float().clone())


class Deferring(Network):
    """Also learns to defer.

    The loss has one more term: the cross-entropy of the tag against all other tokens at the end of
    the prompt. The answer's term is conditional on answering; the target of the base's own answer
    is the base's distribution without adapters, so that learning to defer changes little else.
    Inside an answer, the tag's logit is raised by `WITHIN` during training, so that the network
    learns not to write the tag there even if a server adds a bias to it at every position.
    """

    def __init__(
        self, adapted: Any, base: language_models.Base, tag: int, failure_weight: float
    ) -> None:
        super().__init__(adapted)
        self.tag_id, self.failure_weight = tag, failure_weight
        output, embeddings = base.model.get_output_embeddings(), base.model.get_input_embeddings()
        self.head = TagRow(output.weight[tag])
        output.register_forward_hook(self._replace_tag_logit)
        if output.weight is embeddings.weight:  # tied
            embeddings.register_forward_hook(self._replace_tag_embedding)

    def _replace_tag_logit(self, module: Any, args: Any, logits: Any) -> Any:
        tag = (args[0].to(self.head.tag.dtype) @ self.head.tag)[..., None].to(logits.dtype)
        before, after = logits[..., : self.tag_id], logits[..., self.tag_id + 1 :]
        return torch.cat([before, tag, after], dim=-1)

    def _replace_tag_embedding(self, module: Any, args: Any, states: Any) -> Any:
        row = self.head.tag.to(states.dtype)
        return torch.where((args[0] == self.tag_id)[..., None], row, states)

    def _answer(
        self,
        inputs: Mapping[str, Any],
        mask: Any,
        predicted: Any,
        target: Any,
        start: Any,
        own: Any,
    ) -> Any:
        position = torch.arange(mask.shape[1], device=mask.device)
        first = (position == start[:, None])[mask]
        predicted[:, self.tag_id] += torch.where(first, NEVER, WITHIN)
        terms = cross_entropy(predicted, target)
        if not hasattr(self.base, "disable_adapter"):
            return terms
        own_tokens = own[:, None].expand(mask.shape)[mask]
        targets = self._base_distribution(inputs, mask)
        return torch.where(own_tokens, cross_entropy(predicted, targets), terms)

    def _base_distribution(self, inputs: Mapping[str, Any], mask: Any) -> Any:
        """The token probabilities (k, vocabulary) of the base without adapters."""
        with torch.no_grad(), self.base.disable_adapter():
            logits = self.base(**inputs).logits[:, :-1][mask].float()
        logits[:, self.tag_id] = NEVER
        return logits.softmax(dim=1)

    def _decision(self, first: Any, failure: Any) -> Any:
        labelled = ~failure.isnan()
        if not labelled.any():
            return 0.0
        target = failure[labelled]
        odds = log_odds(first[labelled].float(), self.tag_id)
        terms = binary_cross_entropy_with_logits(odds, target, reduction="none")
        return (terms * (self.failure_weight * target + 1 - target)).sum()


def log_odds(logits: Any, tag: int) -> Any:
    """The log-odds of the tag against all other tokens, (n, vocabulary) ▶ (n,)."""
    return logits[:, tag] - others(logits, tag).logsumexp(dim=1)


def _defer_weight(rows: Sequence[Any], recipe: Recipe) -> float:
    if recipe.defer_weight is not None:
        return recipe.defer_weight
    failure = np.array([row["failure"] for row in rows])
    failures = float(np.nansum(failure))
    return float(np.nansum(1 - failure)) / failures if failures else 1.0
