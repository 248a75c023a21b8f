"""The rewards that an outcome table holds already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routewright.grading.rewards import Rated, Rating
from routewright.types import Answer, Ask, Query


@dataclass(frozen=True)
class Recorded:
    """What the table says: `reward::m`, at `reward_cost::m`; the score where it has no rewards.

    Only a replay knows it; nothing is recorded of an answer that has just been given.
    """

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating:
        known = yield tuple(Ask(answer.expert, "judge", of=answer) for answer in answers)
        rewards = [np.nan if one.reward is None else one.reward for one in known]
        return Rated(np.array(rewards), np.array([one.cost for one in known]))
