"""Self-play: grows a router's training data with new queries where the router is unsure.

The loop is generate, orchestrate, evaluate (Leeroo Orchestrator, arXiv 2401.13979, section 3): a
source proposes queries, every expert is asked the most informative ones, the answers are graded,
and the router is fitted on all rows. Every round is stored in a folder, so that a stopped run
continues where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from routewright import files
from routewright.data import journal, outcomes
from routewright.data import queries as query_sets
from routewright.data.outcomes import Outcomes
from routewright.data.queries import Item
from routewright.drive import Asker, decide
from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.figures import Evaluation
from routewright.experts.ledger import NotAsked
from routewright.experts.limits import check_visible, quotation, strictest
from routewright.fitting.fit import fit
from routewright.interview import interview, overlap
from routewright.router.router import Router
from routewright.strategies.fixed import Fixed
from routewright.types import Array, DataClass, Expert, Prediction, Query

NO_MONEY = "the budget is spent"
CLUSTERS = 12  # clusters that replace topics if no query names its domain
PER_ASK = 10  # queries that a generator writes per ask
EXAMPLES = 5  # example queries in its prompt
EXAMPLE_LENGTH = 500  # characters of each
REPLY_TOKENS = 2048  # limit of its reply


@dataclass(frozen=True)
class Settings:
    """The settings of self-play, stored in its folder; a continued run must use the same ones."""

    queries: int = 100  # asked per round
    explore: float = 0.2  # share of them drawn at random
    candidates: int = 10  # proposed for each one that is asked
    words: int = overlap.WORDS  # a shared run of this length is overlap with a held-out query
    cosine: float = overlap.COSINE  # so is this cosine; above 1: vectors are not compared
    at: float = 0.5  # cost at which quality is measured, as a share of the most expensive expert's
    seed: int = 0


@dataclass(frozen=True)
class Target:
    """The properties that the next queries should have.

    `examples` are queries that a generator may quote; what it writes has their limits.
    """

    topic: str | None
    difficulty: str  # easy, middling or hard for the experts, as predicted
    rivals: tuple[str, str]  # the two experts between which the choice is least certain
    examples: tuple[Query, ...]


class Source(Protocol):
    """Proposes up to `n` queries; a source may ignore the targets.

    Targets quote only queries that are `readable` to it.
    """

    def readable(self, queries: Sequence[Query]) -> Sequence[Query]: ...

    async def propose(self, n: int, targets: Sequence[Target], seed: int) -> list[Item]: ...


@dataclass(frozen=True)
class Round:
    """One row of the table of rounds."""

    number: int
    rows: int = 0  # rows that the router was fitted on
    quality: float | None = None  # on the held-out table, at the fixed cost
    quality_ci: Sequence[float] | None = None  # its 95 % interval
    aiq: float | None = None
    gain: float = 0.0  # cross-validated gain over the zero router on the fitted rows
    spent: float = 0.0  # US$, so far
    proposed: int = 0
    repeated: int = 0  # near-duplicates of earlier queries or of each other
    held_out: int = 0  # omitted because they overlap with held-out queries
    asked: int = 0
    ungraded: int = 0  # asked queries without any grade
    stopped: str | None = None  # the reason why there is no further round


# --- where queries come from ---------------------------------------------------------------


@dataclass(frozen=True)
class Templates:
    """Queries from a function: `make(n, seed)` returns items, with references if it has them.

    Items of a less strict data class get `data_class`.
    """

    make: Callable[[int, int], Iterable[Item]]
    data_class: DataClass = "public"

    def readable(self, queries: Sequence[Query]) -> Sequence[Query]:
        return queries

    async def propose(self, n: int, targets: Sequence[Target], seed: int) -> list[Item]:
        return [self._classed(item) for item in self.make(n, seed)]

    def _classed(self, item: Item) -> Item:
        data_class = strictest((item.query.data_class, self.data_class))
        return replace(item, query=replace(item.query, data_class=data_class))


def sandbox(n: int, seed: int) -> list[Item]:
    """Questions of the sandbox, with references."""
    from routewright.sandbox.skills import questions

    return [
        Item(Query.of(q.text, id=q.id, domain=q.skill), reference=q.answer)
        for q in questions(n, seed=seed)
    ]


def templates(name: str, data_class: DataClass = "public") -> Templates:
    """The source `sandbox` or `MODULE:FUNCTION`; modules may be in the current folder.

    `data_class` is that of queries without one; those of the sandbox are public.

    Raises BadInput if the function cannot be imported.
    """
    import os
    import sys

    if name == "sandbox":
        return Templates(sandbox)
    module, _, function = name.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        return Templates(getattr(import_module(module), function), data_class)
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
    """An expert writes the queries. A reply that is not a JSON array of texts yields none.

    The queries have the data class and the region of the examples in its prompt.
    """

    expert: Expert
    asker: Asker
    concurrency: int = interview.CONCURRENCY

    async def propose(self, n: int, targets: Sequence[Target], seed: int) -> list[Item]:
        limit = asyncio.Semaphore(self.concurrency)
        asks = (
            self._write(targets[k % len(targets)], seed, k, limit) for k in range(-(-n // PER_ASK))
        )
        items: list[Item] = []
        for batch in await asyncio.gather(*asks, return_exceptions=True):  # all are paid for
            if isinstance(batch, BaseException):
                raise batch
            items += batch
        return items[:n]

    def readable(self, queries: Sequence[Query]) -> list[Query]:
        """The queries that the expert may see; raises BadInput if it may see none."""
        return [queries[place] for place in check_visible(self.expert, queries)]

    async def _write(
        self, target: Target, seed: int, number: int, limit: asyncio.Semaphore
    ) -> list[Item]:
        prompt = PROMPT.format(
            n=PER_ASK,
            topic=target.topic or "as in the requests below",
            difficulty=target.difficulty,
            one=target.rivals[0],
            other=target.rivals[1],
            examples="\n".join(
                json.dumps(query.text[:EXAMPLE_LENGTH], ensure_ascii=False)
                for query in target.examples
            ),
        )
        options = {"max_tokens": REPLY_TOKENS, "temperature": 1.0, "seed": (seed + number) % 2**31}
        query = quotation(prompt, target.examples, options=options)
        try:
            async with limit:
                reply = await _reply(self.expert, query, self.asker)
        except NotAsked:
            raise
        except (UpstreamError, NotAdmissible):
            return []
        return [
            Item(quotation(text, target.examples, domain=target.topic))
            for text in texts(reply)
            if text.strip()
        ]


async def _reply(expert: Expert, query: Query, asker: Asker) -> str:
    return (await decide(Fixed(expert.name), query, [expert], asker)).answer.text


def texts(reply: str) -> list[str]:
    """The texts of the JSON array in a reply; empty if there is none.

    >>> texts('Here: ["One?", "Two?"]'), texts("1. One?")
    (['One?', 'Two?'], [])
    """
    start, end = reply.find("["), reply.rfind("]")
    try:
        entries = json.loads(reply[start : end + 1]) if 0 <= start < end else []
    except (ValueError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, str)]


# --- what to ask ---------------------------------------------------------------------------


def doubt(prediction: Prediction, prices: Sequence[float]) -> Array:
    """Expected regret of the choice of expert for each query, (n,).

    It is the value of knowing the best expert: s φ(δ/s) − δ Φ(−δ/s), averaged over the prices of
    quality λ. δ is the difference of the two highest utilities q − λc, and s its spread.
    """
    from scipy.stats import norm

    regret = np.zeros(len(prediction.quality))
    rows = np.arange(len(regret))
    for price in prices:
        utility = prediction.quality - price * prediction.cost
        first, second = np.argsort(-utility, axis=1)[:, :2].T
        delta = utility[rows, first] - utility[rows, second]
        spread = np.hypot(prediction.spread[rows, first], prediction.spread[rows, second]) + 1e-9
        regret += spread * norm.pdf(delta / spread) - delta * norm.cdf(-delta / spread)
    return np.asarray(regret / len(prices))


def prices_of(router: Router) -> list[float]:
    """λ at four operating points, evenly spaced by their order in cost, without the cheapest."""
    points = sorted(router.frontier, key=lambda point: -point.cost)
    return [points[place].price for place in np.linspace(0, len(points) - 1, 5).astype(int)[:-1]]


def choose(
    router: Router, candidates: Sequence[Query], n: int, *, explore: float, seed: int
) -> list[int]:
    """Positions of the `n` candidates to ask.

    The mix of topics stays that of the candidates, because the router assumes that its traffic has
    the mix of its rows. Within a topic queries are drawn uniformly from the more doubtful half; the
    most doubtful ones alone would be atypical. A share `explore` is drawn from all candidates, so
    that every kind of query is represented.
    """
    rng = np.random.default_rng(seed)
    n = min(n, len(candidates))
    doubts = doubt(router.predict(candidates), prices_of(router))
    topics = _topics(router, candidates, seed)
    chosen: list[int] = []
    for topic, share in _shares(topics, n - round(explore * n)):
        rows = np.flatnonzero(topics == topic)
        doubtful = rows[np.argsort(-doubts[rows], kind="stable")]
        half = doubtful[: max(share, -(-len(rows) // 2))]
        chosen += rng.choice(half, share, replace=False).tolist()
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    chosen += rng.choice(rest, n - len(chosen), replace=False).tolist()
    return chosen


def _shares(topics: Array, n: int) -> list[tuple[Any, int]]:
    """Splits n over the topics in proportion to their size; the largest remainders round up."""
    names, counts = np.unique(topics, return_counts=True)
    exact = n * counts / max(counts.sum(), 1)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: n - shares.sum()]] += 1
    return list(zip(names.tolist(), shares.tolist(), strict=True))


def _topics(router: Router, queries: Sequence[Query], seed: int) -> Array:
    """A number per query: that of its domain, or of its cluster if no query has a domain."""
    if any(query.domain for query in queries):
        names = [query.domain or "" for query in queries]
        return np.unique(names, return_inverse=True)[1].astype(np.float64)
    from sklearn.cluster import KMeans

    clusters = min(CLUSTERS, len(queries))
    groups = KMeans(clusters, n_init=1, random_state=seed % 2**31)
    return np.asarray(groups.fit_predict(router.encoder.encode(queries)), dtype=np.float64)


def targets(router: Router, queries: Sequence[Query], n: int, seed: int) -> list[Target]:
    """Targets for a generator; topics are drawn in proportion to the doubt about their queries.

    The examples of a target share one data class and one region, so that what is written after
    them is not stricter than necessary.
    """
    rng = np.random.default_rng(seed)
    prediction = router.predict(queries)
    doubts = doubt(prediction, prices_of(router))
    topics = np.array([query.domain or "" for query in queries], dtype=object)
    names = sorted(set(topics))
    weight = np.array([doubts[topics == name].mean() for name in names]) + 1e-12
    levels = np.quantile(prediction.quality.max(axis=1), [1 / 3, 2 / 3])
    drawn = []
    for topic in rng.choice(names, n, p=weight / weight.sum()):
        rows = np.flatnonzero(topics == topic)
        drawn_rows = rng.choice(rows, min(EXAMPLES, len(rows)), replace=False)
        examples = [queries[int(row)] for row in drawn_rows]
        middle = int(rows[np.argmax(doubts[rows])])
        first, second = np.argsort(-prediction.quality[middle])[:2]
        level = int(np.searchsorted(levels, prediction.quality[middle].max()))
        drawn.append(
            Target(
                topic=str(topic) or None,
                difficulty=("hard", "middling", "easy")[level],
                rivals=(router.experts[first], router.experts[second]),
                examples=tuple(
                    query for query in examples if _limits(query) == _limits(examples[0])
                ),
            )
        )
    return drawn


def _limits(query: Query) -> tuple[str, str | None]:
    return query.data_class, query.region


# --- rounds --------------------------------------------------------------------------------


class Play:
    """Self-play in a folder; `rounds` holds the completed rounds, round 0 measures the start. The
    router of the best round is in `router/`."""

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
        data_class: DataClass = "public",
    ) -> None:
        self.folder = folder
        self.start = self.router = router
        self.tables = list(tables)
        self.source = source
        self.settings = settings
        self.ask = ask
        self.spent = spent
        self.held_out = held_out
        self.strategy = strategy
        self.data_class = data_class  # of rows without one
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings({**asdict(settings), **(described or {})})
        self.rounds = self._completed()

    async def next(self) -> Round:
        """Runs the next round; round 0 only measures the start. Raises BudgetSpent if the budget
        is spent before there is a query to ask, Stopped if the user stopped the interview, and
        NotAsked if an expert that the round needs cannot answer any more."""
        if not self.rounds:
            return self._finish(Round(0))
        number = len(self.rounds)
        place = self.folder / f"round-{number}"
        place.mkdir(exist_ok=True)
        chosen, counts = await self._queries(place, number)
        if not chosen:
            return self._finish(Round(number, **counts, stopped="nothing new to ask"))
        current = self.ask(chosen)
        cells = await current.run()
        if current.stopped:
            raise interview.Stopped("stopped; run the same command again to continue")
        for expert, why in current.closed.items():
            raise NotAsked(expert, why)
        graded = {id for (id, _), cell in cells.items() if not math.isnan(cell.grade.score)}
        counts |= {"asked": len(chosen), "ungraded": len(chosen) - len(graded)}
        reason = NO_MONEY if current.out_of_money else None
        if not graded:
            reason = reason or "no answer could be graded"
            return self._finish(Round(number, **counts, stopped=reason))
        interview.write(
            chosen,
            cells,
            place / "table.parquet",
            order=self.router.experts,
            data_class=self.data_class,
        )
        rows = outcomes.read(
            self._tables(number),
            experts=self.router.experts,
            split=self.router.fact("data", "split"),
            drop_duplicates=True,
        )
        self.router = fit(
            rows,
            encoder=self.router.fact("encoder"),
            predictor=self.router.fact("predictor"),
            strategy=self.strategy,
            seed=self.router.fact("seed"),
        )
        self.router.save(place / "router")
        return self._finish(Round(number, **counts, stopped=reason), place)

    # --- inside a round -----------------------------------------------------------------------

    async def _queries(self, place: Path, number: int) -> tuple[list[Item], dict[str, Any]]:
        """The queries of a round; they are chosen once and stored before any expert is asked."""
        path, counts_path = place / "queries.jsonl", place / "proposed.json"
        if path.exists():
            counts: dict[str, Any] = _read_settings(counts_path)
            return self._stored(path), counts
        s, seed = self.settings, _seed(self.settings.seed, number)
        earlier = outcomes.read(
            self._tables(number - 1), data_class=self.data_class, drop_duplicates=True
        ).queries
        quotable = self.source.readable(earlier)
        aims = targets(self.router, quotable, s.queries * s.candidates // PER_ASK + 1, seed)
        proposed = await self.source.propose(s.queries * s.candidates, aims, seed)
        new, counts = self._new(proposed, earlier)
        chosen = [new[i] for i in self._choose(new, seed)] if new else []
        chosen = [
            replace(item, query=replace(item.query, id=f"selfplay-{number}-{n}"), split="train")
            for n, item in enumerate(chosen)
        ]
        files.write(counts_path, json.dumps(counts) + "\n")
        query_sets.write(chosen, path, self.data_class)
        return chosen, counts

    def _stored(self, path: Path) -> list[Item]:
        return query_sets.read(path, data_class=self.data_class) if path.stat().st_size else []

    def _choose(self, items: Sequence[Item], seed: int) -> list[int]:
        s, queries = self.settings, [item.query for item in items]
        return choose(self.router, queries, s.queries, explore=s.explore, seed=seed)

    def _new(
        self, proposed: Sequence[Item], earlier: Sequence[Query]
    ) -> tuple[list[Item], dict[str, Any]]:
        """The proposed items that overlap with no held-out, earlier or other proposed query."""
        s = self.settings
        queries = [item.query for item in proposed]
        overlaps: np.ndarray[Any, Any] = np.zeros(len(queries), bool)
        if self.held_out is not None:
            overlaps = overlap.overlapping(
                queries, self.held_out.queries, words=s.words, cosine=s.cosine
            )
        unique = overlap.distinct([*earlier, *queries], cosine=s.cosine)
        fresh = {place - len(earlier) for place in unique if place >= len(earlier)}
        new = [item for i, item in enumerate(proposed) if i in fresh and not overlaps[i]]
        left_out = int(overlaps.sum())
        repeated = len(proposed) - left_out - len(new)
        return new, {
            "proposed": len(proposed),
            "repeated": repeated,
            "held_out": left_out,
        }

    def _finish(self, done: Round, place: Path | None = None) -> Round:
        """Evaluates the router, writes the report and appends the round to the table."""
        router, quality, interval, aiq = self.router, None, None, None
        if self.held_out is not None:
            evaluation = evaluate(router, self.held_out)
            figures = evaluation.to_json()
            at = figures["at_cost_fraction"].get(f"{self.settings.at:g}")
            quality, interval = at and at["quality"], at and at["quality_ci"]
            aiq = figures["aiq"]
            if place is not None:
                _report(evaluation, figures, router, place)
        done = replace(
            done,
            rows=int(router.fact("data", "rows")),
            quality=quality,
            quality_ci=interval,
            aiq=aiq,
            gain=_or_nan(router.fact("gain_over_zero_router")),
            spent=self.spent(),
        )
        with journal.Journal(self.folder / "rounds.jsonl") as file:
            file.write(**asdict(done))
        self.rounds.append(done)
        self._keep()
        files.write(self.folder / "rounds.md", table(self.rounds, self.settings))
        files.write(self.folder / "rounds.html", page(self.rounds, self.settings))
        return done

    # --- the folder ---------------------------------------------------------------------------

    def _keep(self) -> None:
        """Writes the router of the best round to `router/`, the start's if no round is better."""
        numbers = range(best(self.rounds).number, 0, -1)
        folders = (self.folder / f"round-{number}" / "router" for number in numbers)
        saved = next((folder for folder in folders if folder.exists()), None)
        router = self.start if saved is None else Router.load(saved)
        router.save(self.folder / "router")

    def _tables(self, last: int) -> list[Path]:
        """The tables of the start and of the rounds up to `last`."""
        paths = (self.folder / f"round-{n}" / "table.parquet" for n in range(1, last + 1))
        return [*self.tables, *(path for path in paths if path.exists())]

    def _completed(self) -> list[Round]:
        """The completed rounds; a round that ran out of budget is repeated."""
        path = self.folder / "rounds.jsonl"
        try:
            rounds = [Round(**line) for line in journal.read(path)]
        except TypeError as error:
            raise BadInput(f"'{path}' holds no rounds: use another --out") from error
        if rounds and rounds[-1].stopped == NO_MONEY:
            rounds.pop()
            files.write(path, "".join(json.dumps(asdict(done)) + "\n" for done in rounds))
        paths = [self.folder / f"round-{done.number}" / "router" for done in rounds]
        if saved := [path for path in paths if path.exists()]:
            self.router = Router.load(saved[-1])
        return rounds

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path, now = self.folder / "settings.json", json.loads(json.dumps(settings))
        if not path.exists():
            files.write(path, json.dumps(now, indent=1) + "\n")
            return
        before = _read_settings(path)
        for key in sorted(now.keys() | before.keys()):
            if now.get(key) != before.get(key):
                raise BadInput(
                    f"'{self.folder}' was begun with {key} = {before.get(key)}, not"
                    f" {now.get(key)}: use the same value or another --out"
                )


def _seed(seed: int, number: int) -> int:
    """A seed for one round, far from the small numbers that users choose as seeds."""
    text = f"selfplay {seed} {number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


def plateau(rounds: Sequence[Round], gain: float, patience: int) -> bool:
    """Whether the last `patience` rounds together gained less than `gain` in quality.

    Without a held-out table the cross-validated gain over the zero router is compared instead.
    """
    values = [done.gain if done.quality is None else done.quality for done in rounds]
    if len(values) <= patience:
        return False
    return max(values[-patience:]) < max(values[:-patience]) + gain


def best(rounds: Sequence[Round]) -> Round:
    """The round with the highest quality on the held-out table, of several the first; the last
    round where no quality was measured."""
    measured = [done for done in rounds if done.quality is not None]
    return max(measured, key=lambda done: done.quality or 0.0) if measured else rounds[-1]


def verdict(rounds: Sequence[Round]) -> str:
    """Which round is kept and why, in sentences."""
    kept, last = best(rounds), rounds[-1]
    name = f"round {kept.number}" if kept.number else "the start"
    if kept.quality is None:
        return f"Kept: {name}, the last one, as nothing was measured: name a --held-out table."
    reached = f"{100 * kept.quality:.2f} %"
    if kept.number == last.number:
        return f"Kept: {name}, the best one on the held-out table with {reached}."
    latest = f"{100 * last.quality:.2f} %" if last.quality is not None else "unknown"
    first = rounds[0].quality
    worse = kept.number == 0 and last.quality is not None and last.quality < (first or 0.0)
    effect = "self-play made the router worse" if worse else "later rounds did not make it better"
    return (
        f"Kept: {name}, with {reached} on the held-out table; round {last.number} has {latest}, so"
        f" {effect} on these rows. They chose the round, so measure it on other rows."
    )


def table(rounds: Sequence[Round], settings: Settings) -> str:
    """The rounds as a table in Markdown; the one that is kept is marked."""
    lines = [
        f"| round | rows | quality at {100 * settings.at:.0f} % cost, % | AIQ, % |"
        " cross-validated gain, points | US$ so far |"
        " proposed | repeated | held out | asked | ungraded |",
        "|" + "---|" * 11,
    ]
    for done in rounds:
        mark = " (kept)" if done is best(rounds) else ""
        cells = [f"{done.number}{mark}", done.rows, _number(done.quality), _number(done.aiq)]
        cells += [f"{100 * done.gain:+.2f}", f"{done.spent:.6f}", done.proposed, done.repeated]
        cells += [done.held_out, done.asked, done.ungraded]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    if rounds and rounds[-1].stopped:
        lines.append(f"\nStopped: {rounds[-1].stopped}.")
    return "\n".join(lines) + "\n"


def page(rounds: Sequence[Round], settings: Settings) -> str:
    """The rounds as a page of HTML."""
    from routewright.evaluation.report import render_rounds

    facts = [asdict(done) for done in rounds]
    return render_rounds(facts, best(rounds).number, settings.at, verdict(rounds))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _read_settings(path: Path) -> dict[str, Any]:
    """The values of a JSON file that selfplay wrote. Raises BadInput if it is damaged."""
    try:
        values = files.read_json(path)
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read: {error.strerror}") from error
    if not isinstance(values, dict):
        raise BadInput(f"'{path}' is damaged: use another --out")
    return values


def _number(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _report(
    evaluation: Evaluation, figures: Mapping[str, Any], router: Router, place: Path
) -> None:
    from routewright.evaluation.report import render

    seen = router.seen if router.seen.size else None
    page = render(evaluation, figures, seen=seen)
    files.write(place / "report.html", page)
