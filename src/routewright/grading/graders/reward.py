"""A reward model that runs in this process compares the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading import rewards
from routewright.grading.graders import Ask, Grade, ungraded


@dataclass(frozen=True)
class Reward:
    """Rates the answers with `reward=classifier=NAME-OR-FOLDER` or `reward=function=FILE.py:NAME`.

    Rewards have no fixed scale. The score is therefore the probability that an answer is better
    than another one to the same query: the mean of σ(its reward − the other's), as in the
    Bradley–Terry model. An answer without another one to compare stays ungraded.
    `routewright reward` writes the rewards themselves into a table.
    """

    model: str

    by_name_only: ClassVar[bool] = True
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if rewards.asks(self._model):
            raise BadInput(
                f"reward model '{self.model}' asks experts, and a grader cannot: write"
                " reward=classifier=NAME-OR-FOLDER or reward=function=FILE.py:NAME"
            )

    async def judge(self, item: Item, answers: Mapping[str, str], ask: Ask) -> Mapping[str, Grade]:
        pairs = [(item.query, text) for text in answers.values()]
        async with self._lock:  # so that the model is loaded once and runs one batch at a time
            earned = await asyncio.to_thread(lambda: self._model.rate(pairs))
        return {name: _grade(k, earned) for k, name in enumerate(answers)}

    @property
    def _model(self) -> Any:
        return rewards.build(self.model)


def _grade(place: int, earned: np.ndarray[Any, np.dtype[np.float64]]) -> Grade:
    others = np.delete(earned, place)
    others = others[np.isfinite(others)]
    if not np.isfinite(earned[place]):
        return ungraded("the reward model gave no reward")
    if not others.size:
        return ungraded("no other answer to compare with")
    return Grade(float(np.mean(1 / (1 + np.exp(others - earned[place])))))
