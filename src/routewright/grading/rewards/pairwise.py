"""An expert compares the answers in pairs, each pair in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from routewright.data.queries import Item
from routewright.grading.graders.pairwise import pairwise_prompt, parse_preference
from routewright.grading.rewards import Rated, Rating
from routewright.types import Answer, Ask, Query


@dataclass(frozen=True)
class Pairwise:
    """The reward is the mean over an answer's comparisons: 1 for a win, ½ for a tie, 0 for a loss.

    The prompt is that of the grader `pairwise`. Judges favour one of the two positions, so each
    pair is shown in both orders and the two verdicts are averaged: verdicts that depend on the
    order give a tie. A comparison counts only if both verdicts can be read; without any, the
    reward is unknown. K answers take K (K − 1) asks; the two answers of a pair share their cost.
    """

    expert: str

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating:
        pairs = list(combinations(range(len(answers)), 2))
        orders = [order for i, j in pairs for order in ((i, j), (j, i))]
        replies: tuple[Answer, ...] = ()
        if orders:
            replies = yield tuple(self._ask(query, answers[a], answers[b]) for a, b in orders)
        verdicts = [parse_preference(r.text) if r.status == "ok" else None for r in replies]
        unread = sum(
            reply.status == "ok" and verdict is None
            for reply, verdict in zip(replies, verdicts, strict=True)
        )
        shares: list[list[float]] = [[] for _ in answers]
        costs = np.zeros(len(answers))
        for (i, j), k in zip(pairs, range(0, len(orders), 2), strict=True):
            costs[[i, j]] += (replies[k].cost + replies[k + 1].cost) / 2
            forward, backward = verdicts[k], verdicts[k + 1]
            if forward is not None and backward is not None:
                share = (forward + 1 - backward) / 2
                shares[i].append(share)
                shares[j].append(1 - share)
        rewards = np.array([np.mean(row) if row else np.nan for row in shares])
        return Rated(rewards, costs, unread)

    def _ask(self, query: Query, first: Answer, second: Answer) -> Ask:
        prompt = pairwise_prompt(Item(query), first.text, second.text)
        return Ask(self.expert, "judge", of=first, prompt=prompt)
