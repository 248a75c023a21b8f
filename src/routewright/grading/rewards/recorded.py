"""An outcome table already holds the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routewright.grading.rewards import Rated, Rating
from routewright.types import Answer, Ask, Query


@dataclass(frozen=True)
class Recorded:
    """Takes `reward::m` at the cost `reward_cost::m`; the score if the table has no rewards.

    This works only in a replay, because a new answer has no recorded reward.
    """

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating:
        records = yield tuple(Ask(answer.expert, "judge", of=answer) for answer in answers)
        rewards = [np.nan if record.reward is None else record.reward for record in records]
        return Rated(np.array(rewards), np.array([record.cost for record in records]))
