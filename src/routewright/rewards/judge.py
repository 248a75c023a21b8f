"""An expert reads one answer at a time and grades it by a rubric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from routewright import prompts
from routewright.rewards import Rated, Rating
from routewright.types import Answer, Ask, Query


@dataclass(frozen=True)
class Judge:
    """Grades from 1 to 10. A reply without exactly one readable grade counts as unread."""

    source: ClassVar[str] = "expert"

    expert: str
    rubric: str = prompts.RUBRIC

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating:
        replies = yield tuple(
            Ask(self.expert, "judge", of=answer, prompt=prompts.judge(query, answer, self.rubric))
            for answer in answers
        )
        grades = [prompts.grade(reply.text) if reply.arrived else None for reply in replies]
        unread = sum(r.arrived and g is None for r, g in zip(replies, grades, strict=True))
        rewards = np.array([np.nan if grade is None else grade for grade in grades])
        return Rated(rewards, np.array([reply.cost for reply in replies]), unread)
