"""The λ at which the turns of conversations keep a budget that is a share of the dearest expert's
cost.

The λ of a frontier point belongs to single queries and to strategies that may try a cheap expert
first. In a conversation, the same messages are most of what each expert costs, and one expert
answers a turn: the point's λ may ask for the dearest expert nearly always or nearly never. So the
λ is the one at which the policy's latest turns would have cost their share.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np

from routewright.policies import STEEPEST, Mixture
from routewright.types import Array

MOST_TURNS = 200  # that are remembered
LEAST_TURNS = 20  # before which the point's own λ holds
OFTEN = 10  # turns after which λ is computed again
TINY = 1e-9  # the smallest λ that bisection considers


class TurnCost(NamedTuple):
    """What the next turn of a conversation costs with each expert."""

    cost: Array  # US$ as the choice counts them, (e,)
    usd: Array  # US$ that would be paid, (e,)
    dearest: float  # US$ of the dearest expert, had it answered all along


@dataclass
class TurnPrice:
    """The latest turns of a policy, for threads that answer side by side."""

    _turns: deque[tuple[Array, TurnCost]] = field(default_factory=lambda: deque(maxlen=MOST_TURNS))
    _prices: dict[float, Mixture] = field(default_factory=dict)  # share of the cost ▶ λ
    _new: int = 0  # turns since they were computed
    _lock: Lock = field(default_factory=Lock, repr=False)

    def price(self, quality: Array, cost: TurnCost, share: float, lot: float) -> float | None:
        """Notes a turn, of predicted quality (e,), and returns its λ in quality per US$.

        `share` is what may be spent of the dearest expert's cost. `lot` in [0, 1) draws between the
        two sides of a step. None while too few turns are known.
        """
        with self._lock:
            self._turns.append((quality, cost))
            self._new += 1
            if len(self._turns) < LEAST_TURNS:
                return None
            if self._new >= OFTEN:
                self._prices, self._new = {}, 0
            if share not in self._prices:
                self._prices[share] = _kept(self._turns, share)
            mixture = self._prices[share]
        return mixture.lower_price if lot < mixture.share else mixture.price


def _kept(turns: deque[tuple[Array, TurnCost]], share: float) -> Mixture:
    """The λ at which these turns cost a share of what the dearest expert costs, by bisection."""
    quality = np.stack([turn[0] for turn in turns])
    cost = np.stack([turn[1].cost for turn in turns])
    usd = np.nan_to_num(np.stack([turn[1].usd for turn in turns]))
    goal, rows = share * sum(turn[1].dearest for turn in turns), np.arange(len(turns))

    def spent(price: float) -> float:
        value = np.nan_to_num(quality - price * cost, nan=-np.inf)
        return float(usd[rows, value.argmax(axis=1)].sum())

    if spent(0.0) <= goal * (1 + TINY):
        return Mixture(0.0, 0.0, 0.0)
    low, high = TINY, STEEPEST
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if spent(middle) > goal else (low, middle)
    over, under = spent(low), spent(high)
    between = (goal - under) / (over - under) if over > under else 0.0
    return Mixture(high, low, min(1.0, max(0.0, between)))
