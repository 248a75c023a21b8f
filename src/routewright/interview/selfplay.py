"""Makes its own training data: new queries where the router is unsure, asked, graded, learnt from.

Generate, orchestrate, evaluate (Leeroo Orchestrator, arXiv 2401.13979, section 3): a source
proposes queries, those that would teach most are asked of every expert, the answers are graded,
and the router is fitted on all that is known. A round leaves a folder, so a run that is stopped
goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from routewright.data import journal, outcomes
from routewright.data import queries as query_sets
from routewright.data.outcomes import Outcomes
from routewright.data.queries import Item
from routewright.drive import Asker, decide
from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.figures import Evaluation
from routewright.fitting.fit import fit
from routewright.interview import interview, overlap
from routewright.router.router import Router
from routewright.strategies.fixed import Fixed
from routewright.types import Array, Expert, Prediction, Query

NO_MONEY = "the budget is spent"
CLUSTERS = 12  # stand in for topics where no query names its domain
PER_ASK = 10  # queries that a generator writes at once
EXAMPLES = 5  # that it is shown
ROOM = 2048  # tokens of its reply


@dataclass(frozen=True)
class Settings:
    """How self-play goes; kept in the folder, where a run that goes on must find it unchanged."""

    queries: int = 100  # asked per round
    explore: float = 0.2  # share of them drawn at random
    candidates: int = 10  # proposed for each one that is asked
    words: int = overlap.WORDS  # a shared run of so many is overlap with a held-out query
    cosine: float = overlap.COSINE  # and so is this, in vectors; above 1: not looked at
    at: float = 0.5  # of the dearest expert's cost, where quality is told
    seed: int = 0


@dataclass(frozen=True)
class Target:
    """What the next queries should be like."""

    topic: str | None
    difficulty: str  # easy, middling or hard, for the experts as forecast
    rivals: tuple[str, str]  # the two experts between whom it is least clear whom to ask
    examples: tuple[str, ...]


class Source(Protocol):
    """Proposes queries: as many as asked for if it can, by the targets if it heeds them."""

    async def propose(self, n: int, targets: Sequence[Target], seed: int) -> list[Item]: ...


@dataclass(frozen=True)
class Round:
    """A line of the table of rounds."""

    number: int
    rows: int = 0  # that the router was fitted on
    quality: float | None = None  # on the held-out table, at the fixed cost
    aiq: float | None = None
    gain: float = 0.0  # cross-validated, over the zero router, on the rows it was fitted on
    spent: float = 0.0  # US$, so far
    proposed: int = 0
    repeated: int = 0  # near-duplicates of what is known, or of each other
    held_out: int = 0  # left out for overlap with held-out queries
    asked: int = 0
    ungraded: int = 0  # of the asked, without any grade
    stopped: str | None = None  # why there is no further round


# --- where queries come from ---------------------------------------------------------------


@dataclass(frozen=True)
class Templates:
    """Queries from a function: `make(n, seed)` gives items, with references where it knows them."""

    make: Callable[[int, int], Iterable[Item]]

    async def propose(self, n: int, targets: Sequence[Target], seed: int) -> list[Item]:
        return list(self.make(n, seed))


def sandbox(n: int, seed: int) -> list[Item]:
    """Questions of the sandbox, with their answers."""
    from routewright.sandbox.skills import questions

    return [
        Item(Query.of(q.text, id=q.id, domain=q.skill), reference=q.answer)
        for q in questions(n, seed=seed)
    ]


def templates(name: str) -> Templates:
    """`sandbox`, or `MODULE:FUNCTION` of yours, looked for in the current folder too."""
    import os
    import sys

    if name == "sandbox":
        return Templates(sandbox)
    module, _, function = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        return Templates(getattr(import_module(module), function))
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"--templates {name}: {error}; write sandbox, or MODULE:FUNCTION") from error


PROMPT = """\
Write {n} new requests to a language model, such as people might send.

Topic: {topic}
Difficulty: {difficulty} for the assistants at hand. It is not clear which of two, {one} or \
{other}, would do better: write requests that would show it.

Requests that people sent, for style and form only; repeat none of them:
{examples}

Reply with a JSON array of {n} strings and nothing else.
"""


@dataclass(frozen=True)
class Generator:
    """An expert writes the queries. Replies that are no JSON array of texts are counted as none."""

    expert: Expert
    asker: Asker
    concurrency: int = interview.CONCURRENCY

    async def propose(self, n: int, targets: Sequence[Target], seed: int) -> list[Item]:
        turn = asyncio.Semaphore(self.concurrency)
        asks = (
            self._write(targets[k % len(targets)], seed, k, turn) for k in range(-(-n // PER_ASK))
        )
        written = await asyncio.gather(*asks)
        return [item for some in written for item in some][:n]

    async def _write(
        self, target: Target, seed: int, number: int, turn: asyncio.Semaphore
    ) -> list[Item]:
        prompt = PROMPT.format(
            n=PER_ASK,
            topic=target.topic or "as in the requests below",
            difficulty=target.difficulty,
            one=target.rivals[0],
            other=target.rivals[1],
            examples="\n".join(json.dumps(text, ensure_ascii=False) for text in target.examples),
        )
        options = {"max_tokens": ROOM, "temperature": 1.0, "seed": (seed + number) % 2**31}
        try:
            async with turn:
                reply = await _say(self.expert, Query.of(prompt, options=options), self.asker)
        except (UpstreamError, NotAdmissible):
            return []
        return [Item(Query.of(text, domain=target.topic)) for text in texts(reply) if text.strip()]


async def _say(expert: Expert, query: Query, asker: Asker) -> str:
    return (await decide(Fixed(expert.name), query, [expert], asker)).answer.text


def texts(reply: str) -> list[str]:
    """
    >>> texts('Here: ["One?", "Two?"]'), texts("1. One?")
    (['One?', 'Two?'], [])
    """
    found = re.search(r"\[.*\]", reply, re.DOTALL)
    try:
        listed = json.loads(found[0]) if found else []
    except (ValueError, RecursionError):
        return []
    return [text for text in listed if isinstance(text, str)]


# --- what to ask ---------------------------------------------------------------------------


def doubt(prediction: Prediction, prices: Sequence[float]) -> Array:
    """What knowing the best expert would be worth, per query, (n,): expected regret of the choice.

    With δ between the two best utilities q − λc and s the spread of that difference, it is
    s φ(δ/s) − δ Φ(−δ/s), averaged over the prices of quality λ.
    """
    from scipy.stats import norm

    found = np.zeros(len(prediction.quality))
    rows = np.arange(len(found))
    for price in prices:
        utility = prediction.quality - price * prediction.cost
        first, second = np.argsort(-utility, axis=1)[:, :2].T
        delta = utility[rows, first] - utility[rows, second]
        spread = np.hypot(prediction.spread[rows, first], prediction.spread[rows, second]) + 1e-9
        found += spread * norm.pdf(delta / spread) - delta * norm.cdf(-delta / spread)
    return np.asarray(found / len(prices))


def prices_of(router: Router) -> list[float]:
    """λ at a few operating points, evenly by cost: most of them where money is spent."""
    points = sorted(router.frontier, key=lambda point: -point.cost)
    return [points[place].price for place in np.linspace(0, len(points) - 1, 5).astype(int)[:-1]]


def choose(
    router: Router, candidates: Sequence[Query], n: int, *, explore: float, seed: int
) -> list[int]:
    """Positions of the candidates to ask.

    The mix of topics stays that of the candidates, or the router would mistake it for that of its
    traffic. Within a topic queries are drawn evenly from the more doubtful half: the most doubtful
    ones alone are odd ones. `explore` of all are drawn from all, so that no kind is forgotten.
    """
    rng = np.random.default_rng(seed)
    n = min(n, len(candidates))
    unsure = doubt(router.predict(candidates), prices_of(router))
    topics = _topics(router, candidates, seed)
    chosen: list[int] = []
    for topic, share in _shares(topics, n - round(explore * n)):
        rows = np.flatnonzero(topics == topic)
        doubtful = rows[np.argsort(-unsure[rows], kind="stable")]
        half = doubtful[: max(share, -(-len(rows) // 2))]
        chosen += rng.choice(half, share, replace=False).tolist()
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    chosen += rng.choice(rest, n - len(chosen), replace=False).tolist()
    return chosen


def _shares(topics: Array, n: int) -> list[tuple[Any, int]]:
    """How many of n fall to each topic: in proportion, the largest remainders rounded up."""
    names, counts = np.unique(topics, return_counts=True)
    wanted = n * counts / max(counts.sum(), 1)
    shares = np.floor(wanted).astype(int)
    shares[np.argsort(shares - wanted, kind="stable")[: n - shares.sum()]] += 1
    return list(zip(names.tolist(), shares.tolist(), strict=True))


def _topics(router: Router, queries: Sequence[Query], seed: int) -> Array:
    """A number per query: its domain's, or where none is known its cluster's."""
    if any(query.domain for query in queries):
        names = [query.domain or "" for query in queries]
        return np.unique(names, return_inverse=True)[1].astype(np.float64)
    from sklearn.cluster import KMeans

    clusters = min(CLUSTERS, len(queries))
    groups = KMeans(clusters, n_init=1, random_state=seed % 2**31)
    return np.asarray(groups.fit_predict(router.encoder.encode(queries)), dtype=np.float64)


def targets(router: Router, known: Sequence[Query], n: int, seed: int) -> list[Target]:
    """What a generator should write about: topics in proportion to the doubt about them."""
    rng = np.random.default_rng(seed)
    prediction = router.predict(known)
    unsure = doubt(prediction, prices_of(router))
    topics = np.array([query.domain or "" for query in known], dtype=object)
    names = sorted(set(topics))
    weight = np.array([unsure[topics == name].mean() for name in names]) + 1e-12
    levels = np.quantile(prediction.quality.max(axis=1), [1 / 3, 2 / 3])
    found = []
    for topic in rng.choice(names, n, p=weight / weight.sum()):
        rows = np.flatnonzero(topics == topic)
        here = rng.choice(rows, min(EXAMPLES, len(rows)), replace=False)
        middle = int(rows[np.argmax(unsure[rows])])
        first, second = np.argsort(-prediction.quality[middle])[:2]
        level = int(np.searchsorted(levels, prediction.quality[middle].max()))
        found.append(
            Target(
                topic=str(topic) or None,
                difficulty=("hard", "middling", "easy")[level],
                rivals=(router.experts[first], router.experts[second]),
                examples=tuple(known[int(row)].text[:500] for row in here),
            )
        )
    return found


# --- rounds --------------------------------------------------------------------------------


class Play:
    """Self-play in a folder; `rounds` are those that are done, the start (number 0) included."""

    def __init__(
        self,
        folder: Path,
        router: Router,
        tables: Sequence[Path],
        source: Source,
        settings: Settings,
        *,
        ask: Callable[[Sequence[Item]], interview.Interview],
        spent: Callable[[], float] = lambda: 0.0,
        held_out: Outcomes | None = None,
        strategy: str = "auto",
        described: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.router = router
        self.tables = list(tables)
        self.source = source
        self.settings = settings
        self.ask = ask
        self.spent = spent
        self.held_out = held_out
        self.strategy = strategy
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings({**asdict(settings), **(described or {})})
        self.rounds = self._done()

    async def next(self) -> Round:
        """One round more; number 0 only measures the start. Raises BudgetSpent if the money ends
        before there is a query to ask, and Stopped if the interview was told to stop."""
        if not self.rounds:
            return self._finish(Round(0))
        number = len(self.rounds)
        place = self.folder / f"round-{number}"
        place.mkdir(exist_ok=True)
        chosen, counts = await self._queries(place, number)
        if not chosen:
            return self._finish(Round(number, **counts, stopped="nothing new to ask"))
        asked = self.ask(chosen)
        cells = await asked.run()
        if asked.stopped:
            raise interview.Stopped("stopped; run the same command again to go on")
        graded = {id for (id, _), cell in cells.items() if cell.grade.score == cell.grade.score}
        counts |= {"asked": len(chosen), "ungraded": len(chosen) - len(graded)}
        why = NO_MONEY if asked.out_of_money else None
        if not graded:
            why = why or "no answer could be graded"
            return self._finish(Round(number, **counts, stopped=why))
        interview.write(chosen, cells, place / "table.parquet", order=self.router.experts)
        rows = outcomes.read(
            self._tables(number),
            experts=self.router.experts,
            split=self.router.card["data"]["split"],
        )
        self.router = fit(
            rows,
            encoder=self.router.card["encoder"],
            predictor=self.router.card["predictor"],
            strategy=self.strategy,
            seed=self.router.card["seed"],
        )
        self.router.save(place / "router")
        return self._finish(Round(number, **counts, stopped=why), place)

    # --- inside a round -----------------------------------------------------------------------

    async def _queries(self, place: Path, number: int) -> tuple[list[Item], dict[str, int]]:
        """The queries of a round, chosen once: they are on disk before anybody is asked."""
        path, about = place / "queries.jsonl", place / "proposed.json"
        if path.exists():
            counts: dict[str, int] = json.loads(about.read_text(encoding="utf-8"))
            return (query_sets.read(path) if path.stat().st_size else []), counts
        s, seed = self.settings, _seed(self.settings.seed, number)
        known = outcomes.read(self._tables(number - 1)).queries
        aims = targets(self.router, known, s.queries * s.candidates // PER_ASK + 1, seed)
        proposed = await self.source.propose(s.queries * s.candidates, aims, seed)
        found, counts = self._new(proposed, known)
        chosen = [found[i] for i in self._choose(found, seed)] if found else []
        chosen = [
            replace(item, query=replace(item.query, id=f"selfplay-{number}-{n}"), split="train")
            for n, item in enumerate(chosen)
        ]
        about.write_text(json.dumps(counts) + "\n", encoding="utf-8")
        partial = path.with_suffix(".partial")
        query_sets.write(chosen, partial)
        partial.replace(path)
        return chosen, counts

    def _choose(self, found: Sequence[Item], seed: int) -> list[int]:
        s, queries = self.settings, [item.query for item in found]
        return choose(self.router, queries, s.queries, explore=s.explore, seed=seed)

    def _new(
        self, proposed: Sequence[Item], known: Sequence[Query]
    ) -> tuple[list[Item], dict[str, int]]:
        """What is neither known, nor like a held-out query, nor like another of its kind."""
        s = self.settings
        queries = [item.query for item in proposed]
        secret: np.ndarray[Any, Any] = np.zeros(len(queries), bool)
        if self.held_out is not None:
            secret = overlap.overlapping(
                queries, self.held_out.queries, words=s.words, cosine=s.cosine
            )
        together = [*known, *queries]
        kept = overlap.distinct(together, cosine=s.cosine)
        fresh = {place - len(known) for place in kept if place >= len(known)}
        found = [item for i, item in enumerate(proposed) if i in fresh and not secret[i]]
        left_out = int(secret.sum())
        repeated = len(proposed) - left_out - len(found)
        return found, {
            "proposed": len(proposed),
            "repeated": repeated,
            "held_out": left_out,
        }

    def _finish(self, done: Round, place: Path | None = None) -> Round:
        """Measures, writes the report and the line in the table of rounds."""
        router, quality, aiq = self.router, None, None
        if self.held_out is not None:
            measured = evaluate(router, self.held_out)
            figures = measured.to_json()
            at = figures["at_cost_fraction"].get(f"{self.settings.at:g}")
            quality, aiq = at and at["quality"], figures["aiq"]
            if place is not None:
                _report(measured, figures, router, place)
        done = replace(
            done,
            rows=int(router.card["data"]["rows"]),
            quality=quality,
            aiq=aiq,
            gain=float(router.card["gain_over_zero_router"]),
            spent=self.spent(),
        )
        with journal.Journal(self.folder / "rounds.jsonl") as file:
            file.write(**asdict(done))
        self.rounds.append(done)
        (self.folder / "rounds.md").write_text(table(self.rounds, self.settings), encoding="utf-8")
        return done

    # --- the folder ---------------------------------------------------------------------------

    def _tables(self, upto: int) -> list[Path]:
        made = (self.folder / f"round-{n}" / "table.parquet" for n in range(1, upto + 1))
        return [*self.tables, *(path for path in made if path.exists())]

    def _done(self) -> list[Round]:
        """The rounds that are done; one that the budget cut short is not."""
        path = self.folder / "rounds.jsonl"
        found = [Round(**line) for line in journal.read(path)]
        if found and found[-1].stopped == NO_MONEY:
            found.pop()
            path.unlink()
            with journal.Journal(path) as file:
                for done in found:
                    file.write(**asdict(done))
        made = [self.folder / f"round-{done.number}" / "router" for done in found]
        if there := [router for router in made if router.exists()]:
            self.router = Router.load(there[-1])
        return found

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path, now = self.folder / "settings.json", json.loads(json.dumps(settings))
        if not path.exists():
            path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in sorted(now.keys() | before.keys()):
            if now.get(key) != before.get(key):
                raise BadInput(
                    f"'{self.folder}' was begun with {key} = {before.get(key)}, not"
                    f" {now.get(key)}: use the same, or another --out"
                )


def _seed(seed: int, number: int) -> int:
    """A round's own seed, unlike the small numbers that people draw their tables with."""
    written = f"selfplay {seed} {number}".encode()
    return int.from_bytes(hashlib.blake2b(written, digest_size=4).digest(), "big")


def plateau(rounds: Sequence[Round], gain: float, patience: int) -> bool:
    """Whether the last `patience` rounds together brought less than `gain` in quality.

    Without a held-out table it is the cross-validated gain over the zero router that counts.
    """
    told = [done.gain if done.quality is None else done.quality for done in rounds]
    if len(told) <= patience:
        return False
    return max(told[-patience:]) < max(told[:-patience]) + gain


def table(rounds: Sequence[Round], settings: Settings) -> str:
    """The rounds as a table in Markdown."""
    lines = [
        f"| round | rows | quality at {settings.at:.0%} cost | AIQ | cross-validated gain |"
        " US$ so far | proposed | repeated | held out | asked | ungraded |",
        "|" + "---|" * 11,
    ]
    for done in rounds:
        cells = [done.number, done.rows, _number(done.quality), _number(done.aiq)]
        cells += [f"{done.gain:+.4f}", f"{done.spent:.6f}", done.proposed, done.repeated]
        cells += [done.held_out, done.asked, done.ungraded]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if rounds and rounds[-1].stopped:
        lines.append(f"\nStopped: {rounds[-1].stopped}.")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _report(measured: Evaluation, figures: Mapping[str, Any], router: Router, place: Path) -> None:
    from routewright.evaluation.report import render

    seen = router.seen if router.seen.size else None
    (place / "report.html").write_text(render(measured, figures, seen=seen), encoding="utf-8")
