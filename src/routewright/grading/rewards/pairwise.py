"""An expert compares answers two by two, each pair in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from routewright.data.queries import Item
from routewright.grading.graders.pairwise import preferred, words
from routewright.grading.rewards import Rated, Rating
from routewright.types import Answer, Ask, Query


@dataclass(frozen=True)
class Pairwise:
    """The reward is the mean over an answer's comparisons: 1 won, ½ tied, 0 lost.

    The prompt is that of the grader `pairwise`. Judges favour the place that an answer stands in,
    so each pair is shown in both orders and the two verdicts are averaged: one that turns with the
    order is a tie. A comparison counts only if both verdicts could be read; an answer without one
    is unknown. The K (K − 1) asks of K answers are shared between the two answers of each pair.
    """

    expert: str

    def plan(self, query: Query, answers: Sequence[Answer]) -> Rating:
        pairs = list(combinations(range(len(answers)), 2))
        orders = [order for i, j in pairs for order in ((i, j), (j, i))]
        replies: tuple[Answer, ...] = ()
        if orders:
            replies = yield tuple(self._ask(query, answers[a], answers[b]) for a, b in orders)
        verdicts = [preferred(r.text) if r.status == "ok" else None for r in replies]
        unread = sum(
            reply.status == "ok" and verdict is None
            for reply, verdict in zip(replies, verdicts, strict=True)
        )
        points: list[list[float]] = [[] for _ in answers]
        costs = np.zeros(len(answers))
        for (i, j), k in zip(pairs, range(0, len(orders), 2), strict=True):
            costs[[i, j]] += (replies[k].cost + replies[k + 1].cost) / 2
            forth, back = verdicts[k], verdicts[k + 1]
            if forth is not None and back is not None:
                won = (forth + 1 - back) / 2
                points[i].append(won)
                points[j].append(1 - won)
        rewards = np.array([np.mean(mine) if mine else np.nan for mine in points])
        return Rated(rewards, costs, unread)

    def _ask(self, query: Query, first: Answer, second: Answer) -> Ask:
        read = words(Item(query), first.text, second.text)
        return Ask(self.expert, "judge", of=first, prompt=read)
