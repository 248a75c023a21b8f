"""An interview by many processes, on a Ray cluster: one journal and one budget for all of them.

The queries are spread in parts. Every worker interviews as one process would, but asks the purse
before it spends: the actor that keeps the journal, reserves and settles. So what one worker has
paid for no other pays for again, and when a worker dies, whoever takes over its part finds its
answers there. The journal is the one of the local engine: either goes on where the other stopped.
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
from routewright.experts.ledger import Account, Ledger, Recall, recall
from routewright.grading.graders import Graders
from routewright.interview.interview import Cell, Interview
from routewright.parallel import cluster, spread
from routewright.types import Answer, Expert

PART = 32  # queries that a worker takes on at once
AT_ONCE = 10_000  # asks that may wait for the purse
CORES = 0.0  # that the purse needs: it mostly waits


class SharedLedger:
    """The journal and the account, as an actor; `attempt` names a worker's attempt at a part."""

    def __init__(self, path: Path, budget: float | None) -> None:
        self.path, self.budget = path, budget
        self.attempts: dict[int, str] = {}  # part ▶ whose turn it is
        self.held: dict[str, list[float]] = {}  # turn ▶ bounds of its asks under way

    async def open(self) -> RoutewrightError | None:
        try:
            self.journal = Journal(self.path)
        except RoutewrightError as error:
            return error
        self.known, self.account = recall(self.journal.entries)
        self.account.budget = math.inf if self.budget is None else self.budget
        return None

    async def begin(self, part: int, attempt: str) -> None:
        """A worker takes a part on. If another had it, that one is dead, and nobody knows what
        its asks under way have cost."""
        dead = self.attempts.get(part)
        self.attempts[part], self.held[attempt] = attempt, []
        for bound in self.held.pop(dead, []) if dead else []:
            await self.account.settle(bound, 0.0, bound)

    async def reserve(self, attempt: str, bound: float, expert: str) -> RoutewrightError | None:
        try:
            await self.account.reserve(bound, expert)
        except RoutewrightError as error:
            return error
        if attempt not in self.held:  # it died waiting
            await self.account.settle(bound, 0.0, 0.0)
        else:
            self.held[attempt].append(bound)
        return None

    async def settle(self, attempt: str, bound: float, cost: float, unsure: float) -> None:
        if bound in self.held.get(attempt, []):
            self.held[attempt].remove(bound)
            await self.account.settle(bound, cost, unsure)

    async def write(self, event: Mapping[str, Any]) -> None:
        self.journal.write(**event)
        if "answered" in event:
            self.known |= recall([event])[0]
            self.account.asked += 1

    async def find(self, key: str) -> Answer | None:
        return self.known.get(key)

    async def tell(self) -> dict[str, float]:
        return {name: getattr(self.account, name) for name in ("spent", "unsure", "asked")}


# --- a worker ------------------------------------------------------------------------------


@dataclass
class WorkerLedger:
    """A worker's end of the purse: what a Ledger wants of a journal, of an account, and of what
    is known."""

    ledger: Any
    attempt: str
    entries: tuple[()] = ()
    asked: int = 0
    recalled: int = 0
    found: dict[str, Answer] = field(default_factory=dict)

    def write(self, **event: Any) -> None:
        cluster().get(self.ledger.write.remote(event))

    async def reserve(self, bound: float, expert: str) -> None:
        if (error := await self.ledger.reserve.remote(self.attempt, bound, expert)) is not None:
            raise error

    async def settle(self, bound: float, cost: float, unsure: float) -> None:
        await self.ledger.settle.remote(self.attempt, bound, cost, unsure)

    def __contains__(self, key: str) -> bool:
        if key not in self.found:
            answer = cluster().get(self.ledger.find.remote(key))
            self.found |= {} if answer is None else {key: answer}
        return key in self.found

    def __getitem__(self, key: str) -> Answer:
        return self.found[key]

    def __setitem__(self, key: str, answer: Answer) -> None:
        self.found[key] = answer


@dataclass(frozen=True)
class Done:
    """What a worker brings back of its part."""

    cells: list[Cell]
    left_out: dict[str, str]
    out_of_money: bool
    recalled: int


def ask_part(
    part: tuple[int, list[Item]],
    *,
    ledger: Any,
    known: Sequence[Expert],
    graders: list[str],
    settings: Mapping[str, Any],
) -> Done:
    """Interviews the experts about one part of the queries."""
    number, items = part
    share: Any = WorkerLedger(ledger, uuid.uuid4().hex)
    cluster().get(ledger.begin.remote(number, share.attempt))

    async def run() -> Done:
        async with Ledger(known, share) as ledger:
            ledger.answers, ledger.account = share, share
            asked = Interview(
                items, asker=ledger, recall=Recall(ledger), graders=Graders(graders), **settings
            )
            await asked.run()
            cells = list(asked.cells.values())
            return Done(cells, asked.left_out, asked.out_of_money, share.recalled)

    return asyncio.run(run())


# --- everybody -----------------------------------------------------------------------------


def interview(
    items: Sequence[Item],
    known: Iterable[Expert],
    journal: Path,
    budget: float | None,
    graders: list[str],
    settings: Mapping[str, Any],
    on_part: Callable[[int, float], None] = lambda cells, dollars: None,
) -> tuple[Interview, Account]:
    """As `Interview.run` with a Ledger, on the cluster; gives the interview that is done, and
    what it cost. Ctrl-C leaves out what no worker has brought back yet.

    Servers that Routewright runs (`launch:`) must be running: workers do not start them.
    """
    ray = cluster()
    known = [replace(expert, launch=None) for expert in known]
    settings = {**settings, **{kind: _still(settings[kind]) for kind in EXPERTS}}
    # Before anything is asked: a grader that may not be used is found here.
    done = Interview(items, asker=_nobody(), graders=Graders(graders), **settings)
    ledger = _purse(ray, journal, budget)
    work = partial(ask_part, ledger=ledger, known=known, graders=graders, settings=settings)
    recalled = 0
    try:
        for _, found in spread(work, list(enumerate(_parts(items))), "ray"):
            done.cells |= {(cell.item.query.id, cell.expert): cell for cell in found.cells}
            done.left_out |= found.left_out
            done.out_of_money |= found.out_of_money
            recalled += found.recalled
            on_part(len(found.cells), ray.get(ledger.tell.remote())["spent"])
    except KeyboardInterrupt:
        done.stop()
    told = ray.get(ledger.tell.remote())
    ray.kill(ledger)  # and with it the journal's lock
    return done, Account(recalled=recalled, **told)


EXPERTS = ("experts", "recalled", "judges")  # settings that are about experts


def _still(experts: Iterable[Expert]) -> list[Expert]:
    return [replace(expert, launch=None) for expert in experts]


def _nobody() -> Any:
    return None


def _purse(ray: Any, journal: Path, budget: float | None) -> Any:
    """Beside the journal: on this machine."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    options = {"num_cpus": CORES, "max_concurrency": AT_ONCE, "scheduling_strategy": here}
    ledger = ray.remote(SharedLedger).options(**options).remote(journal.absolute(), budget)
    if (error := ray.get(ledger.open.remote())) is not None:
        raise error
    return ledger


def _parts(items: Sequence[Item]) -> list[list[Item]]:
    """By the words of the queries, so that the same words are asked once, in one part."""
    parts: list[list[Item]] = [[] for _ in range(-(-len(items) // PART))]
    for item in items:
        words = json.dumps([list(item.query.messages)], sort_keys=True, default=str).encode()
        digest = hashlib.blake2b(words, digest_size=8).digest()
        parts[int.from_bytes(digest, "big") % len(parts)].append(item)
    return [part for part in parts if part]
