"""Runs an interview on a Ray cluster, with one journal and one budget for all workers.

The queries are split into parts. A worker interviews the experts about one part as a local run
would, but reserves and settles every ask at the shared ledger, an actor that holds the journal.
No ask is therefore paid twice, and if a worker dies, the worker that takes over its part finds the
paid answers in the journal. The journal has the format of the local engine, so either engine can
continue a run of the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from routewright.data.journal import Journal
from routewright.data.queries import Item
from routewright.errors import RoutewrightError
from routewright.experts.dry_run import Recall
from routewright.experts.ledger import Account, Ledger, recall
from routewright.grading.graders import Graders
from routewright.interview.interview import Cell, Interview
from routewright.parallel import cluster, spread
from routewright.types import Answer, Expert

PART = 32  # queries per part
MAX_CALLS = 10_000  # concurrent calls to the shared ledger
CLOSE_SECONDS = 60.0  # that the shared ledger may take to close the journal
LEDGER_CPUS = 0.0  # CPUs that Ray sets aside for the shared ledger, which mostly waits


class SharedLedger:
    """The journal and the account, as a Ray actor; `attempt` identifies one run of a part."""

    def __init__(self, path: Path, budget: float | None) -> None:
        self.path, self.budget = path, budget
        self.attempts: dict[int, str] = {}  # part ▶ its current attempt
        self.reserved: dict[str, list[float]] = {}  # attempt ▶ upper bounds of its open asks
        self.rooms: dict[str, int] = {}  # attempt ▶ bytes of the journal for its open asks

    async def open(self) -> RoutewrightError | None:
        try:
            self.journal = Journal(self.path)
        except RoutewrightError as error:
            return error
        self.answers, self.account = recall(self.journal.entries)
        self.account.budget = math.inf if self.budget is None else self.budget
        return None

    async def begin(self, part: int, attempt: str) -> None:
        """Registers a worker's attempt at a part. An earlier attempt means that its worker died;
        the cost of its open asks is unknown and is counted at their upper bounds."""
        dead = self.attempts.get(part)
        self.attempts[part], self.reserved[attempt] = attempt, []
        self.rooms.pop(dead or "", None)
        for bound in self.reserved.pop(dead, []) if dead else []:
            await self.account.settle(bound, 0.0, bound)

    async def reserve(self, attempt: str, bound: float, expert: str) -> RoutewrightError | None:
        try:
            await self.account.reserve(bound, expert)
        except RoutewrightError as error:
            return error
        if attempt not in self.reserved:  # the worker died while it waited
            await self.account.settle(bound, 0.0, 0.0)
        else:
            self.reserved[attempt].append(bound)
        return None

    async def settle(self, attempt: str, bound: float, cost: float, unsure: float) -> None:
        if bound in self.reserved.get(attempt, []):
            self.reserved[attempt].remove(bound)
            await self.account.settle(bound, cost, unsure)

    async def make_room(self, attempt: str, size: int) -> RoutewrightError | None:
        rooms = {**self.rooms, attempt: size}
        try:
            self.journal.make_room(sum(rooms.values()))
        except RoutewrightError as error:
            return error
        self.rooms = {name: room for name, room in rooms.items() if room}
        return None

    async def close(self) -> dict[str, float]:
        self.journal.close()
        return await self.totals()

    async def write(self, event: Mapping[str, Any]) -> None:
        self.journal.write(**event)
        if "answered" in event:
            self.answers |= recall([event])[0]
            self.account.asked += 1

    async def find(self, key: str) -> tuple[Answer | None, bool]:
        """The answer to an ask, and whether it was free because its expert had no prices."""
        return self.answers.get(key), key in self.account.unpriced

    async def totals(self) -> dict[str, float]:
        names = ("spent", "unsure", "asked", "cut_off", "asks_cut_off")
        return {name: getattr(self.account, name) for name in names}


# --- a worker ------------------------------------------------------------------------------


@dataclass
class WorkerLedger:
    """A worker's connection to the shared ledger, in place of a Ledger's journal, account and
    earlier answers."""

    ledger: Any
    attempt: str
    entries: tuple[()] = ()
    asked: int = 0
    recalled: int = 0
    unpriced: set[str] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)

    def write(self, **event: Any) -> None:
        cluster().get(self.ledger.write.remote(event))

    def make_room(self, size: int) -> None:
        error = cluster().get(self.ledger.make_room.remote(self.attempt, size))
        if error is not None:
            raise error

    async def reserve(self, bound: float, expert: str) -> None:
        if (error := await self.ledger.reserve.remote(self.attempt, bound, expert)) is not None:
            raise error

    async def settle(self, bound: float, cost: float, unsure: float) -> None:
        await self.ledger.settle.remote(self.attempt, bound, cost, unsure)

    def __contains__(self, key: str) -> bool:
        if key not in self.answers:
            answer, was_free = cluster().get(self.ledger.find.remote(key))
            self.answers |= {} if answer is None else {key: answer}
            self.unpriced |= {key} if was_free else set()
        return key in self.answers

    def __getitem__(self, key: str) -> Answer:
        return self.answers[key]

    def __setitem__(self, key: str, answer: Answer) -> None:
        self.answers[key] = answer


@dataclass(frozen=True)
class PartResult:
    """The result of one part of the interview."""

    cells: list[Cell]
    left_out: dict[str, str]
    out_of_money: bool
    recalled: int


def ask_part(
    part: tuple[int, list[Item]],
    *,
    ledger: Any,
    experts: Sequence[Expert],
    graders: list[str],
    settings: Mapping[str, Any],
) -> PartResult:
    """Interviews the experts about one part of the queries."""
    number, items = part
    shared: Any = WorkerLedger(ledger, uuid.uuid4().hex)
    cluster().get(ledger.begin.remote(number, shared.attempt))

    async def run() -> PartResult:
        async with Ledger(experts, shared) as ledger:
            ledger.answers, ledger.account = shared, shared
            local = Interview(
                items, asker=ledger, recall=Recall(ledger), graders=Graders(graders), **settings
            )
            await local.run()
            shared.make_room(0)
            cells = list(local.cells.values())
            return PartResult(cells, local.left_out, local.out_of_money, shared.recalled)

    return asyncio.run(run())


# --- the whole interview -------------------------------------------------------------------


def interview(
    items: Sequence[Item],
    experts: Iterable[Expert],
    journal: Path,
    budget: float | None,
    graders: list[str],
    settings: Mapping[str, Any],
    on_part: Callable[[int, float], None] = lambda cells, dollars: None,
) -> tuple[Interview, Account]:
    """Runs an `Interview` with a shared ledger on the cluster; returns it and its account.

    Ctrl-C stops it; cells that no worker has returned yet are missing from the result. Servers of
    launched experts (`launch:`) must be running already: workers do not start them.
    """
    ray = cluster()
    experts = _without_launch(experts)
    settings = {**settings, **{kind: _without_launch(settings[kind]) for kind in EXPERTS}}
    # Building the interview here raises for an unusable grader before anything is asked.
    whole = Interview(items, asker=_no_asker(), graders=Graders(graders), **settings)
    ledger = _shared_ledger(ray, journal, budget)
    work = partial(ask_part, ledger=ledger, experts=experts, graders=graders, settings=settings)
    recalled = 0
    try:
        for _, result in spread(work, list(enumerate(_parts(items))), "ray"):
            whole.cells |= {(cell.item.query.id, cell.expert): cell for cell in result.cells}
            whole.left_out |= result.left_out
            whole.out_of_money |= result.out_of_money
            recalled += result.recalled
            on_part(len(result.cells), ray.get(ledger.totals.remote())["spent"])
    except KeyboardInterrupt:
        whole.stop()
    finally:
        totals = _end(ray, ledger)
    return whole, Account(recalled=recalled, **totals)


def _end(ray: Any, ledger: Any) -> Any:
    """Closes the journal and ends its process, which releases its lock; returns the totals."""
    try:
        return ray.get(ledger.close.remote(), timeout=CLOSE_SECONDS)
    finally:
        ray.kill(ledger)


EXPERTS = ("experts", "recalled", "judges")  # settings that hold experts


def _without_launch(experts: Iterable[Expert]) -> list[Expert]:
    return [replace(expert, launch=None) for expert in experts]


def _no_asker() -> Any:
    return None


def _shared_ledger(ray: Any, journal: Path, budget: float | None) -> Any:
    """Starts the shared ledger on this machine, which holds the journal."""
    node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    options = {"num_cpus": LEDGER_CPUS, "max_concurrency": MAX_CALLS, "scheduling_strategy": node}
    ledger = ray.remote(SharedLedger).options(**options).remote(journal.absolute(), budget)
    if (error := ray.get(ledger.open.remote())) is not None:
        raise error
    return ledger


def _parts(items: Sequence[Item]) -> list[list[Item]]:
    """The parts; a hash of the text assigns each query, so that equal texts share a part."""
    parts: list[list[Item]] = [[] for _ in range(-(-len(items) // PART))]
    for item in items:
        text = json.dumps([list(item.query.messages)], sort_keys=True, default=str).encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        parts[int.from_bytes(digest, "big") % len(parts)].append(item)
    return [part for part in parts if part]
