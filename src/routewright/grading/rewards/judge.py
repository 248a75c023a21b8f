"""An expert rates one answer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routewright.data.queries import Item
from routewright.grading.graders.judge import judge_prompt, parse_rating
from routewright.grading.rewards import Rated, Rating
from routewright.types import Answer, Ask, Query


@dataclass(frozen=True)
class Judge:
    """The reward is the judge's rating from 1 to 10, as 0..1.

    The prompt is that of the grader `judge`. A reply without a readable rating counts as unread.
    """

    expert: str

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating:
        item = Item(query)
        replies = yield tuple(
            Ask(self.expert, "judge", of=answer, prompt=judge_prompt(item, answer.text))
            for answer in answers
        )
        rewards = np.array(
            [parse_rating(r.text).score if r.status == "ok" else np.nan for r in replies]
        )
        unread = sum(
            reply.status == "ok" and np.isnan(reward)
            for reply, reward in zip(replies, rewards, strict=True)
        )
        return Rated(rewards, np.array([reply.cost for reply in replies]), int(unread))
