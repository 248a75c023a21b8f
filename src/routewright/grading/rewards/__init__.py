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

from routewright.errors import BadInput
from routewright.registry import find, names
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
    """A reward model from its name on the command line.

    `recorded`, `classifier=NAME-OR-FOLDER`, `judge=EXPERT`, `pairwise=EXPERT`,
    `function=FILE.py:NAME`. Raises BadInput for names that do not exist.
    """
    kind, _, source = spec.partition("=")
    if kind not in names("rewards"):
        raise BadInput(
            f"no reward model is called '{kind}': choose one of {', '.join(names('rewards'))}"
        )
    cls: Any = find("rewards", kind)
    wants = getattr(cls, "source", None)
    if wants and not source:
        raise BadInput(f"reward model '{kind}' needs {wants}: write {kind}={wants.upper()}")
    if source and not wants:
        raise BadInput(f"reward model '{kind}' takes nothing after '=', not '{source}'")
    model: RewardModel = cls(source) if source else cls()
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
