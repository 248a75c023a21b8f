"""Keeps a policy within its budget on whatever traffic comes: λ follows what was really spent.

A frontier promises a mean cost on queries like its training rows. Other subjects, longer prompts or
longer answers cost something else. A pacer compares what each request really cost with its goal,
and moves along the frontier (a primal–dual method, as ParetoBandit, arXiv 2604.00136): the dual
variable is the multiplier of the budget, which stands for a λ. A hard limit comes on top: once the
credit is used up, requests get the cheapest point.

Replicas of a gateway keep a budget together. Each collects what its requests did as a `Change` and
exchanges it, every second, for the `State` that all of them share. In between it goes on with what
it knows.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from routewright import files
from routewright.errors import BadInput, RoutewrightError
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.types import Prediction, Query

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
SAVE_SECONDS = 2.0  # between two writes of the state to the file
IDLE_SECONDS = 10.0  # between two exchanges without a request
CORRECTED = 1 / PROPORTIONAL  # queries in which one process corrects an error of the credit

log = logging.getLogger(__name__)
Entry = dict[str, Any]  # a state as the store keeps it
Update = Callable[[str, Callable[[Entry | None], Entry]], Entry]
"""Replaces the entry of that name (None: there is none) by what the function makes of it, and
returns that, in one transaction."""


@dataclass(frozen=True)
class State:
    """What a pacer knows; money in US$."""

    credit: float = 0.0  # unspent, at most a few goals
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
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number")
            if not math.isfinite(value) or (value < 0 and name not in ("credit", "bias")):
                raise ValueError(f"{name} is {value}")
        return state


@dataclass(frozen=True)
class Change:
    """What requests did to a state, whatever that was before.

    So the changes of several processes apply to one state, one after the other, as if one process
    had counted all their requests in that order.
    """

    queries: int = 0
    spent: float = 0.0
    goals: float = 0.0
    credit: float = 0.0  # goals less what was spent
    highest: float = math.inf  # the credit afterwards is no higher
    unit_kept: float = 1.0  # the share that is left of the unit before
    unit: float = 0.0
    bias: float = 0.0
    kept: float = 1.0  # the share that is left of `asked` and `predicted` before
    asked: float = 0.0
    predicted: float = 0.0

    def then(self, other: Change) -> Change:
        """Both, this one first."""
        return Change(
            queries=self.queries + other.queries,
            spent=self.spent + other.spent,
            goals=self.goals + other.goals,
            credit=self.credit + other.credit,
            highest=min(self.highest + other.credit, other.highest),
            unit_kept=self.unit_kept * other.unit_kept,
            unit=self.unit * other.unit_kept + other.unit,
            bias=self.bias + other.bias,
            kept=self.kept * other.kept,
            asked=self.asked * other.kept + other.asked,
            predicted=self.predicted * other.kept + other.predicted,
        )


def merge(state: State, change: Change) -> State:
    """The state after a change."""
    return State(
        credit=min(state.credit + change.credit, change.highest),
        unit=state.unit * change.unit_kept + change.unit,
        bias=min(max(state.bias + change.bias, -FARTHEST), FARTHEST),
        asked=state.asked * change.kept + change.asked,
        predicted=state.predicted * change.kept + change.predicted,
        queries=state.queries + change.queries,
        spent=state.spent + change.spent,
        goals=state.goals + change.goals,
    )


@dataclass
class Account:
    """What a pacer has counted; after a reload, its successor goes on with it."""

    state: State  # that it decides by
    shared: State  # of all processes, at the last exchange
    change: Change = field(default_factory=Change)  # by this process, since then
    exchanged: float = -math.inf  # when that was, in monotonic seconds; -inf: never
    own_queries: float = 0.0  # per exchange, lately
    all_queries: float = 0.0  # of all processes
    lock: Lock = field(default_factory=Lock)
    turn: Lock = field(default_factory=Lock)  # one exchange at a time

    @property
    def share(self) -> float:
        """The share of an error of the credit that this process corrects.

        If each of several processes corrected all of it before it learns about the others, they
        would overshoot. One that sees few queries between two exchanges cannot.
        """
        return (self.own_queries + CORRECTED) / (self.all_queries + CORRECTED)


@dataclass
class Pace:
    """One request of a paced policy, from its decision to its end."""

    pacer: Pacer
    point: OperatingPoint  # that decides about it
    goal: float  # US$
    reference: float  # predicted cost of the most expensive expert, US$
    prediction: Prediction  # for the query, as a batch of one
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
        self.fresh = State(credit=self.room / 2 * goal, unit=goal)  # before the first request
        self.account = Account(self.fresh, self.fresh)
        self._pending: dict[int, Pace] = {}

    @property
    def state(self) -> State:
        """What it decides by: all that it knows of other processes, and its own requests."""
        return self.account.state

    @state.setter
    def state(self, state: State) -> None:
        self.account.state = self.account.shared = state

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
        prediction = self.router.predict([query])
        reference = float(prediction.take(0).cost[self.dearest])
        if not reference > 0:
            reference = self.highest_cost
        with self.account.lock:
            goal = self._goal(reference)
            point = self._point(query, reference)
            if price is not None:
                point = self.router.nearest(price)
            pace = Pace(self, point, goal, reference, prediction)
            self._pending[id(pace)] = pace
            return pace

    @property
    def multiplier(self) -> float:
        """The budget that points are chosen by, as a multiple of the goal."""
        with self.account.lock:
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
        return (self.state.credit - reserved) / unit

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
        # The first digits of the lot decide in a mix inside the point. The last ones do not depend
        # on them.
        return high if query.lot * 2**26 % 1 < share else low

    def _end(self, pace: Pace, spent: float, dearest: float | None) -> None:
        with self.account.lock:
            if pace.ended:
                return
            pace.ended = True
            self._pending.pop(id(pace), None)
            change = self._change(pace, spent, dearest)
            self.account.state = merge(self.state, change)
            self.account.change = self.account.change.then(change)

    def _change(self, pace: Pace, spent: float, dearest: float | None) -> Change:
        change = Change(
            queries=1,
            spent=spent,
            goals=pace.goal,
            credit=AIM * pace.goal - spent,
            unit_kept=1 - 1 / UNIT_MEMORY,
            unit=pace.goal / UNIT_MEMORY,
        )
        if dearest is not None:
            kept = 1 - 1 / MEMORY
            change = replace(
                change, kept=kept, asked=kept * dearest, predicted=kept * pace.reference
            )
        after = merge(self.state, change)
        room = self.room * after.unit
        error = (min(after.credit, room) - room / 2) / max(room, 1e-300)
        # The credits of several processes vary apart from each other: their sum needs more room,
        # and what they learn from it at the same time adds up.
        share = self.account.share
        highest = room / 2 * (1 + share**-0.5)
        return replace(change, highest=highest, bias=share * INTEGRAL * math.tanh(error))

    def restored(self, stored: Any) -> State:
        """Raises AttributeError, TypeError or ValueError if that is no state."""
        # Before the first request, earlier versions wrote no credit.
        values = {name: value for name, value in stored.items() if value is not None}
        return State.of({**asdict(self.fresh), **values})

    def exchange(self, name: str, update: Update) -> None:
        """Adds what happened here since the last exchange to the entry `name` that all processes
        share, and goes on with theirs. May block; if `update` raises, the next exchange adds it.
        """
        account = self.account
        with account.turn:
            with account.lock:
                change, account.change = account.change, Change()
            try:
                state = self.restored(update(name, partial(self._merged, name, change)))
            except BaseException:
                with account.lock:
                    account.change = change.then(account.change)
                raise
            with account.lock:
                self._go_on_with(state, change.queries)

    def _merged(self, name: str, change: Change, stored: Entry | None) -> Entry:
        state = self.account.shared
        if stored is not None:
            try:
                state = self.restored(stored)
            except (AttributeError, TypeError, ValueError) as error:
                log.warning(
                    "the state of pacing '%s' in the store is damaged: it goes on with that of this"
                    " process (%s)",
                    name,
                    error,
                )
        return asdict(merge(state, change))

    def _go_on_with(self, shared: State, queries: int) -> None:
        """`queries` of this process are among those of the shared state."""
        account = self.account
        total = max(queries, shared.queries - account.shared.queries)
        if account.exchanged == -math.inf:  # what was before does not tell who is there now
            total = queries
        if total:
            account.own_queries = (account.own_queries + queries) / 2
            account.all_queries = (account.all_queries + total) / 2
        account.exchanged = time.monotonic()
        account.shared = shared
        middle = self.room / 2 * shared.unit
        credit = middle + account.share * (shared.credit - middle)
        account.state = merge(replace(shared, credit=credit), account.change)


def rising(frontier: tuple[OperatingPoint, ...]) -> list[OperatingPoint]:
    """The points that are better than every cheaper one, by cost."""
    points: list[OperatingPoint] = []
    for point in sorted(frontier, key=lambda point: (point.cost, -point.quality)):
        if not points or point.quality > points[-1].quality:
            points.append(point)
    return points


class Pacers:
    """The pacers of all policies, and what keeps their states over restarts: a file or, with
    `update`, a store that several processes share.

    A state that is damaged or cannot be written is reported in the log; pacing goes on without it.
    With a store the file is read for the states that the store lacks, and not written.
    """

    update: Update | None = None

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
                    pacer.state = pacer.restored(entry["state"])
        except (BadInput, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "the state of pacing in %s is damaged: it begins anew (%s)", self.path, error
            )

    def inherit(self, predecessor: Pacers) -> None:
        """Goes on with the states of policies whose goal has not changed."""
        for name, pacer in self.by_policy.items():
            before = predecessor.by_policy.get(name)
            if before is not None and before.key == pacer.key:
                pacer.account = before.account

    def exchange(self) -> None:
        """Exchanges states with the other processes; for a thread that calls it every second.

        May block. Raises what `update` raises; nothing is lost then.
        """
        assert self.update is not None, "give `update` first"
        for name, pacer in self.by_policy.items():
            idle = time.monotonic() - pacer.account.exchanged
            if pacer.account.change.queries or idle >= IDLE_SECONDS:
                pacer.exchange(_entry(name, pacer), self.update)

    def due(self) -> bool:
        """Whether the file should be written now; true at most once in SAVE_SECONDS."""
        with self._lock:
            recent = time.monotonic() - self._saved < SAVE_SECONDS
            if self.update is not None or not self.by_policy or recent:
                return False
            self._saved = time.monotonic()
            return True

    def save(self) -> None:
        """Writes the states to the file, or exchanges them. May block."""
        if not self.by_policy:
            return
        try:
            if self.update is not None:
                return self.exchange()
            content = {
                name: {"goal": pacer.key, "state": asdict(pacer.state)}
                for name, pacer in self.by_policy.items()
            }
            files.write(self.path, json.dumps(content, indent=1) + "\n")
        except RoutewrightError as error:
            log.warning("the state of pacing was not kept: %s", error)


def _entry(policy: str, pacer: Pacer) -> str:
    """The name of a pacer's entry. It has the goal, so that replicas with another config, as while
    one after the other gets a new one, pace on their own."""
    goals = (f"{goal}={value}" for goal, value in pacer.key.items() if value is not None)
    return " ".join(("pacing", policy, *goals))
