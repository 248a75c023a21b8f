"""Keeps a policy within its budget on whatever traffic comes: λ follows what was really spent.

A frontier promises a mean cost on queries like its training rows. Other subjects, longer prompts or
longer answers cost something else. A pacer compares what each request really cost with its goal,
and moves along the frontier (a primal–dual method, as ParetoBandit, arXiv 2604.00136): the dual
variable is the multiplier of the budget, which stands for a λ. A hard limit comes on top: once the
credit is used up, requests get the cheapest point.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from routewright import files
from routewright.errors import BadInput
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.types import Query

AIM = 0.985  # share of the goal that is aimed at, so that windows of 500 queries keep it
WIDTH = 16.0  # of the range of the credit, in goals: a window overspends by no more than this
LEAST_ROOM = 12.0  # where one ask of the most expensive expert costs most of that
PROPORTIONAL, INTEGRAL = 0.1, 0.02  # gains per goal of credit, and per query
FARTHEST = 3.0  # of the multiplier, as a natural logarithm
UNUSUAL = 1.5  # times the usual cost of an ask: without credit, none is sent that may cost more
SELECTED = 1.06  # asks of the most expensive expert cost so much more than it would on average
MEMORY = 60.0  # asks of the most expensive expert over which its real costs are averaged
UNIT_MEMORY = 200.0  # queries over which goals are averaged
FORGOTTEN = 3600.0  # seconds after which a request that never ended holds no money back
SAVE_SECONDS = 2.0  # between two writes of the state

log = logging.getLogger(__name__)


@dataclass
class State:
    """What a pacer knows; money in US$."""

    credit: float | None = None  # unspent, at most a few goals; None: nothing was asked yet
    unit: float = 0.0  # the mean goal of a query
    bias: float = 0.0  # of the logarithm of the multiplier, learned from the credit
    asked: float = 0.0  # what the most expensive expert cost, lately
    predicted: float = 0.0  # and what was predicted for the same queries
    queries: int = 0
    spent: float = 0.0
    goals: float = 0.0

    @classmethod
    def of(cls, stored: Any) -> State:
        """Raises ValueError or TypeError if that is no state."""
        state = cls(**stored)
        for name, value in asdict(state).items():
            if value is None and name == "credit":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number")
            if not math.isfinite(value) or (value < 0 and name not in ("credit", "bias")):
                raise ValueError(f"{name} is {value}")
        return state


@dataclass
class Pace:
    """One request of a paced policy, from its decision to its end."""

    pacer: Pacer
    point: OperatingPoint  # that decides about it
    goal: float  # US$
    reference: float  # predicted cost of the most expensive expert, US$
    began: float = field(default_factory=time.monotonic)
    ended: bool = False

    def end(self, spent: float, dearest: float | None = None) -> None:
        """Counts what the request cost, and what the most expensive expert took of it, if asked."""
        self.pacer._end(self, spent, dearest)


class Pacer:
    """Steers the requests of one policy. Its methods may be called from any thread.

    `max_cost` is in US$ per query, `max_cost_fraction` a share of what the most expensive expert is
    predicted to cost for the query; exactly one is given.
    """

    def __init__(
        self,
        router: Router,
        *,
        max_cost: float | None = None,
        max_cost_fraction: float | None = None,
    ) -> None:
        assert (max_cost is None) != (max_cost_fraction is None)
        self.router = router
        self.max_cost, self.max_cost_fraction = max_cost, max_cost_fraction
        self.dearest = int(np.nanargmax(router.average_cost))
        self.highest_cost = float(router.average_cost[self.dearest])
        goal = max_cost if max_cost is not None else (max_cost_fraction or 0) * self.highest_cost
        self.goal = goal  # US$ per query like the training rows
        self.points = rising(router.frontier)
        self.state = State(unit=goal)
        self._pending: dict[int, Pace] = {}
        self._lock = Lock()

    @property
    def key(self) -> dict[str, float | None]:
        """What the state depends on: after a change of it, pacing begins anew."""
        return {"max_cost": self.max_cost, "max_cost_fraction": self.max_cost_fraction}

    @property
    def room(self) -> float:
        """The highest credit, in goals."""
        return max(LEAST_ROOM, WIDTH - self.highest_cost / max(self.goal, 1e-300))

    def begin(self, query: Query, *, price: float | None = None) -> Pace:
        """Chooses the point that decides about a query; with a `price` of its own, it is only
        counted."""
        reference = float(self.router.predict([query]).take(0).cost[self.dearest])
        if not reference > 0:
            reference = self.highest_cost
        with self._lock:
            goal = self._goal(reference)
            point = self._point(query, reference)
            if price is not None:
                point = self.router.nearest(price)
            pace = Pace(self, point, goal, reference)
            self._pending[id(pace)] = pace
            return pace

    @property
    def multiplier(self) -> float:
        """The budget that points are chosen by, as a multiple of the goal."""
        with self._lock:
            return self._multiplier(self._credit())

    @property
    def price(self) -> float:
        """The λ that this stands for."""
        target = self.multiplier * self.goal
        return min(self.points, key=lambda point: abs(point.cost - target)).price

    def _goal(self, reference: float) -> float:
        if self.max_cost is not None:
            return self.max_cost
        # What the expert really costs decides about its share. It is asked the queries that take
        # long, so costs a little above the predicted ones are believed to be those.
        assert self.max_cost_fraction is not None
        ratio = self._ratio()
        return self.max_cost_fraction * reference * min(ratio, max(1.0, ratio / SELECTED))

    def _ratio(self) -> float:
        """What the most expensive expert costs lately, relative to the predictions."""
        prior = 20 * self.highest_cost
        return (self.state.asked + prior) / (self.state.predicted + prior)

    def _credit(self) -> float:
        """The credit in goals, less what requests in progress are expected to cost."""
        unit = max(self.state.unit, 1e-300)
        now = time.monotonic()
        for key, pace in list(self._pending.items()):
            if now - pace.began > FORGOTTEN:
                del self._pending[key]
        reserved = sum(
            pace.point.cost / max(self.highest_cost, 1e-300) * pace.reference - AIM * pace.goal
            for pace in self._pending.values()
        )
        credit = self.room / 2 if self.state.credit is None else self.state.credit / unit
        return credit - reserved / unit

    def _multiplier(self, credit: float) -> float:
        error = PROPORTIONAL * (credit - self.room / 2) + self.state.bias
        return float(np.exp(np.clip(error, -FARTHEST, FARTHEST)))

    def _point(self, query: Query, reference: float) -> OperatingPoint:
        credit, unit = self._credit(), max(self.state.unit, 1e-300)
        usual = self.highest_cost / max(self.goal, 1e-300)
        likely = reference * max(1.0, self._ratio()) / unit
        if credit < 0 or credit - likely < -UNUSUAL * max(usual, 2.0):
            return self.points[0]
        target = self._multiplier(credit) * self.goal
        above = next((k for k, p in enumerate(self.points) if p.cost > target), len(self.points))
        if above == 0 or above == len(self.points):
            return self.points[max(above - 1, 0)]
        low, high = self.points[above - 1], self.points[above]
        share = (target - low.cost) / (high.cost - low.cost)
        return high if query.lot < share else low

    def _end(self, pace: Pace, spent: float, dearest: float | None) -> None:
        with self._lock:
            if pace.ended:
                return
            pace.ended = True
            self._pending.pop(id(pace), None)
            state = self.state
            state.unit += (pace.goal - state.unit) / UNIT_MEMORY
            room = self.room * state.unit
            before = room / 2 if state.credit is None else state.credit
            state.credit = min(before + AIM * pace.goal - spent, room)
            error = (state.credit - room / 2) / max(room, 1e-300)
            bias = state.bias + INTEGRAL * math.tanh(error)
            state.bias = min(max(bias, -FARTHEST), FARTHEST)
            if dearest is not None:
                kept = 1 - 1 / MEMORY
                state.asked = kept * (state.asked + dearest)
                state.predicted = kept * (state.predicted + pace.reference)
            state.queries += 1
            state.spent += spent
            state.goals += pace.goal


def rising(frontier: tuple[OperatingPoint, ...]) -> list[OperatingPoint]:
    """The points that are better than every cheaper one, by cost."""
    points: list[OperatingPoint] = []
    for point in sorted(frontier, key=lambda point: (point.cost, -point.quality)):
        if not points or point.quality > points[-1].quality:
            points.append(point)
    return points


class Pacers:
    """The pacers of all policies, and the file that keeps their states over restarts.

    A file that is damaged or cannot be written is reported in the log; pacing goes on without it.
    """

    def __init__(self, path: Path, pacers: Mapping[str, Pacer]) -> None:
        self.path, self.by_policy = path, dict(pacers)
        self._saved = time.monotonic()
        self._lock = Lock()
        if self.by_policy:
            self._load()

    def _load(self) -> None:
        if not self.path.exists():
            return
        try:
            content = files.parse_json(self.path.read_bytes(), f"'{self.path}'")
            for name, pacer in self.by_policy.items():
                if (entry := content.get(name)) and entry["goal"] == pacer.key:
                    pacer.state = State.of(entry["state"])
        except (BadInput, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "the state of pacing in %s is damaged: it begins anew (%s)", self.path, error
            )

    def inherit(self, predecessor: Pacers) -> None:
        """Goes on with the states of policies whose goal has not changed."""
        for name, pacer in self.by_policy.items():
            before = predecessor.by_policy.get(name)
            if before is not None and before.key == pacer.key:
                pacer.state, pacer._lock = before.state, before._lock

    def due(self) -> bool:
        """Whether the state should be written now; true at most once in SAVE_SECONDS."""
        with self._lock:
            if not self.by_policy or time.monotonic() - self._saved < SAVE_SECONDS:
                return False
            self._saved = time.monotonic()
            return True

    def save(self) -> None:
        """Writes the states. May block."""
        if not self.by_policy:
            return
        content: dict[str, Any] = {}
        for name, pacer in self.by_policy.items():
            with pacer._lock:
                content[name] = {"goal": pacer.key, "state": asdict(pacer.state)}
        try:
            files.write(self.path, json.dumps(content, indent=1) + "\n")
        except BadInput as error:
            log.warning("the state of pacing was not kept: %s", error)
