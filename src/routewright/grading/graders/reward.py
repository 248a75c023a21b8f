"""A reward model compares the answers, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Ask, Grade, ungraded
from routewright.registry import find

MODELS = ("classifier", "function")  # of rewards/: those that ask no expert


@dataclass(frozen=True)
class Reward:
    """Rates the answers with `reward=classifier=NAME-OR-FOLDER` or `reward=function=FILE.py:NAME`.

    Rewards have no scale of their own, so the score is how likely an answer is better than another
    one to the same query: the mean of σ(its reward − the other's), as in Bradley and Terry's
    model. An answer that nothing can be compared with stays ungraded. `routewright reward` writes
    the rewards themselves into a table.
    """

    model: str

    by_name_only: ClassVar[bool] = True
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        kind, _, source = self.model.partition("=")
        if kind not in MODELS or not source:
            known = " or ".join(f"reward={name}=…" for name in MODELS)
            raise BadInput(f"no reward model '{self.model}' grades in this process: write {known}")

    async def judge(self, item: Item, answers: Mapping[str, str], ask: Ask) -> Mapping[str, Grade]:
        pairs = [(item.query, text) for text in answers.values()]
        async with self._turn:  # a model that is loaded twice, or used by two at once, is slower
            rewards = await asyncio.to_thread(lambda: self._model.rate(pairs))
        return {name: _grade(k, rewards) for k, name in enumerate(answers)}

    @cached_property
    def _model(self) -> Any:
        kind, _, source = self.model.partition("=")
        return find("rewards", kind)(source)


def _grade(place: int, rewards: np.ndarray[Any, np.dtype[np.float64]]) -> Grade:
    others = np.delete(rewards, place)
    others = others[np.isfinite(others)]
    if not np.isfinite(rewards[place]):
        return ungraded("the reward model could not tell")
    if not others.size:
        return ungraded("no other answer to compare with")
    return Grade(float(np.mean(1 / (1 + np.exp(others - rewards[place])))))
