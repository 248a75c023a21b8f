"""How good is an answer? One file per reward model, found by the file's name.

Rewards are on a scale of their own: higher is better, NaN is unknown. A model that runs in this
process rates pairs of query and answer in batches; one that must ask an expert is a plan, like a
strategy, and whoever runs it pays for its asks.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from routewright import registry
from routewright.types import Answer, Array, Ask, Query

Pair: TypeAlias = tuple[Query, str]  # a query and the text of an answer to it


class Rated(NamedTuple):
    """Rewards of some answers to one query, what finding them cost, and what went wrong."""

    rewards: Array  # (answers,), NaN where unknown
    costs: Array  # (answers,) US$
    unread: int = 0  # verdicts that said nothing that could be read; nothing is guessed from them


Rating: TypeAlias = Generator[tuple[Ask, ...], tuple[Answer, ...], Rated]


class LocalModel(Protocol):
    """Rates answers in this process; a batch is faster than one at a time."""

    def rate(self, pairs: Sequence[Pair]) -> Array: ...


class AskingModel(Protocol):
    """Rates answers by asking somebody: yields asks, is sent answers."""

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating: ...


RewardModel: TypeAlias = LocalModel | AskingModel


@cache
def build(spec: str) -> RewardModel:
    """A reward model from its name on the command line; the same one for the same name, so that
    what it loads is loaded once. See `registry.build`.

    `recorded`, `classifier=NAME-OR-FOLDER`, `judge=EXPERT`, `pairwise=EXPERT`,
    `function=FILE.py:NAME`.
    """
    model: RewardModel = registry.build("rewards", spec)
    return model


def asks(model: RewardModel) -> bool:
    """Whether it asks experts, and so needs a network and costs money."""
    return hasattr(model, "plan")


def consider(model: Any, query: Query, answers: Sequence[Answer]) -> Rating:
    """The rewards of one query's answers, as a plan, whichever kind of model it is."""
    if asks(model):
        rated: Rated = yield from model.plan(query, answers)
        return rated
    rewards = model.rate([(query, answer.text) for answer in answers])
    return Rated(np.asarray(rewards, dtype=np.float64), np.zeros(len(answers)))
