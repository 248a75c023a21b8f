"""Rates the answers of an outcome table with a reward model and pays for no rating twice.

The rewards of a model in this process are written to a journal batch by batch; the asks of a judge
go through a ledger. To continue a run that was stopped, run it again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from routewright import parallel
from routewright.data.journal import Journal
from routewright.data.outcomes import queries_of
from routewright.drive import consult
from routewright.errors import BadInput, BadTable
from routewright.experts import ledger
from routewright.experts.limits import check_visible
from routewright.experts.providers import Provider
from routewright.grading import rewards
from routewright.grading.rewards import AskingModel, LocalModel, Rated
from routewright.types import Answer, Array, DataClass, Expert, Query

BATCH = 64  # answers per entry of the journal

Progress = Callable[[int, int, float], None]  # answers rated, answers in total, US$ spent


@dataclass
class Tally(ledger.Tally):
    """The counts of a rated table."""

    answers: int = 0  # answers in the table
    rated: int = 0  # answers that have a reward now


@dataclass(frozen=True)
class Row:
    """A query and its answers to rate."""

    query: Query
    answers: tuple[Answer, ...]


def rate(
    frame: pl.DataFrame,
    spec: str,
    journal: Journal,
    *,
    answers: str = "text,answer",
    names: Sequence[str] | None = None,
    experts: Sequence[Expert] = (),
    budget: float | None = None,
    providers: Mapping[str, Provider] | None = None,
    engine: str = "local",
    data_class: DataClass = "public",
    progress: Progress = lambda done, of, cost: None,
    watch: ledger.Watch = nullcontext,
) -> tuple[pl.DataFrame, Tally]:
    """Adds the columns `reward::m` and `reward_cost::m` to the table; returns it and a tally.

    The text of an answer is in the first column of `answers` with a value. `names` limits the
    rating to some experts of the table; a judge must be one of `experts`. Earlier rewards of the
    rated experts are replaced, as two reward models have different scales. `engine` says where a
    model runs (parallel.py); a judge is always asked from this process. Rows that state no data
    class have `data_class`; a judge is not shown rows that it may not see, and they get no reward.
    `watch` is entered with the ledger while a judge is asked.
    Raises BadTable if the table has no answers, and BadInput for a reward model that cannot be
    used, or that may see no row.
    """
    model = rewards.build(spec)
    judge = judge_of(spec, experts)
    if judge is not None and engine != "local":
        raise BadInput(
            f"--engine {engine} is for models: '{spec}' asks an expert; leave --engine out"
        )
    rows, pool = _rows(frame, answers, names, data_class)
    tally = Tally(answers=sum(len(row.answers) for row in rows))
    if judge is not None:
        asking: AskingModel = model  # type: ignore[assignment]
        answered = [place for place, row in enumerate(rows) if row.answers]
        sent = check_visible(judge, [rows[place].query for place in answered])
        sent = [answered[place] for place in sent]
        to_rate = [rows[place] for place in sent]
        run = _asking(to_rate, asking, journal, experts, budget, providers, tally, progress, watch)
        rated = dict(zip(sent, asyncio.run(run), strict=True))
        ratings = [rated.get(place) for place in range(len(rows))]
    else:
        ratings = _local(rows, spec, journal, engine, tally, progress)
    tally.rated = sum(int(np.isfinite(one.rewards).sum()) for one in ratings if one is not None)
    return _filled(frame, rows, ratings, pool), tally


def judge_of(spec: str, experts: Sequence[Expert]) -> Expert | None:
    """The expert that the reward model asks; None for a model that runs in this process.

    Raises BadInput if the config has no such expert.
    """
    model = rewards.build(spec)
    if not rewards.asks(model):
        return None
    name, by_name = getattr(model, "expert", None), {expert.name: expert for expert in experts}
    if name is None:
        raise BadInput(f"reward model '{spec}' reads the rewards of a table: it rates no answers")
    if name not in by_name:
        advice = f"it has {', '.join(by_name)}" if by_name else "name one with --config"
        raise BadInput(f"no expert '{name}' in the config: {advice}")
    return by_name[name]


# --- in this process -----------------------------------------------------------------------


def _local(
    rows: Sequence[Row],
    spec: str,
    journal: Journal,
    engine: str,
    tally: Tally,
    progress: Progress,
) -> list[Rated | None]:
    rewards_by_key = _recalled(journal)
    pairs = [(row.query, answer.text) for row in rows for answer in row.answers]
    keys = [_key(spec, query, text) for query, text in pairs]
    missing = list(dict.fromkeys(i for i, key in enumerate(keys) if key not in rewards_by_key))
    tally.recalled = len(pairs) - len(missing)
    batches = parallel.in_parts(missing, size=BATCH)
    work = [[pairs[i] for i in batch] for batch in batches]
    progress(tally.recalled, len(pairs), 0.0)
    for place, batch in parallel.spread(partial(_rate, spec), work, engine):
        new = {keys[i]: _finite(reward) for i, reward in zip(batches[place], batch, strict=True)}
        journal.write(rated=new)
        rewards_by_key |= new
        progress(len(rewards_by_key), len(pairs), 0.0)
    progress(len(pairs), len(pairs), 0.0)
    values = np.array([np.nan if (r := rewards_by_key[key]) is None else r for key in keys])
    ratings: list[Rated | None] = []
    place = 0
    for row in rows:
        part = values[place : place + len(row.answers)]
        ratings.append(Rated(part, np.zeros(len(part))))
        place += len(part)
    return ratings


def _rate(spec: str, pairs: Sequence[rewards.Pair]) -> Array:
    """The rewards of one batch; `build` loads the model once per process."""
    model: LocalModel = rewards.build(spec)  # type: ignore[assignment]
    return model.rate(pairs)


def _recalled(journal: Journal) -> dict[str, float | None]:
    """The rewards in the journal, by `_key`; None for one that was not finite."""
    recalled: dict[str, float | None] = {}
    for event in journal.entries:
        recalled |= event.get("rated", {})
    return recalled


def _key(spec: str, query: Query, answer: str) -> str:
    text = "\0".join((spec, query.full_text, answer)).encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _finite(reward: float) -> float | None:
    return float(reward) if np.isfinite(reward) else None


# --- through an expert ---------------------------------------------------------------------


async def _asking(
    rows: Sequence[Row],
    model: AskingModel,
    journal: Journal,
    experts: Sequence[Expert],
    budget: float | None,
    providers: Mapping[str, Provider] | None,
    tally: Tally,
    progress: Progress,
    watch: ledger.Watch,
) -> list[Rated | None]:
    done, total = 0, sum(len(row.answers) for row in rows)

    async def rate_row(row: Row, client: ledger.Ledger) -> Rated:
        nonlocal done
        spent: list[Answer] = []
        rating = rewards.consider(model, row.query, row.answers)
        rated = await consult(rating, row.query, experts, client, spent)
        failures = [answer for answer in spent if answer.status == "failed"]
        unasked = [answer for answer in failures if isinstance(answer.error, ledger.NotAsked)]
        tally.unasked += bool(unasked)
        if len(failures) > len(unasked):
            reason = next(answer.reason for answer in failures if answer not in unasked)
            tally.fail(reason, len(failures) - len(unasked))
        done += len(row.answers)
        tally.unread += rated.unread
        progress(done, total, client.account.spent)
        return rated

    client = ledger.Ledger(experts, journal, budget=budget, providers=providers)
    return await ledger.side_by_side(rate_row, rows, client, tally, watch=watch)


# --- the table -----------------------------------------------------------------------------


def _rows(
    frame: pl.DataFrame, answers: str, names: Sequence[str] | None, data_class: DataClass
) -> tuple[list[Row], list[str]]:
    """The queries with their answers, and the experts that gave them.

    An answer is the value of the first of the columns `answers` that has one.
    """
    kinds = [kind.strip() for kind in answers.split(",")]
    columns = [c for c in frame.columns if c.split("::", 1)[0] in kinds and "::" in c]
    pool = list(dict.fromkeys(column.split("::", 1)[1] for column in columns))
    column = f"{' or '.join(kinds)}::{{}}"
    if missing := [name for name in names or () if name not in pool]:
        raise BadTable(f"the table has no {column.format(missing[0])}; it has {_some(pool)}")
    if not pool:
        raise BadTable(
            f"the table has no {column.format('EXPERT')} to rate; it has {_some(frame.columns)}"
        )
    pool = pool if names is None else list(names)
    texts = {name: _texts(frame, [f"{kind}::{name}" for kind in kinds]) for name in pool}
    rows = []
    for i, query in enumerate(queries_of(frame, data_class)):
        row = [Answer(name, text=t) for name in pool if (t := texts[name][i]) is not None]
        rows.append(Row(query, tuple(row)))
    return rows, pool


def _texts(frame: pl.DataFrame, columns: Sequence[str]) -> list[str | None]:
    cells = [pl.col(column).cast(pl.String) for column in columns if column in frame.columns]
    return frame.select(pl.coalesce(cells)).to_series().to_list()


def _filled(
    frame: pl.DataFrame, rows: Sequence[Row], ratings: Sequence[Rated | None], pool: Sequence[str]
) -> pl.DataFrame:
    values: dict[str, list[float | None]] = {name: [None] * len(rows) for name in pool}
    costs: dict[str, list[float | None]] = {name: [None] * len(rows) for name in pool}
    for i, (row, rated) in enumerate(zip(rows, ratings, strict=True)):
        if rated is None:
            continue
        for answer, reward, cost in zip(row.answers, rated.rewards, rated.costs, strict=True):
            values[answer.expert][i], costs[answer.expert][i] = _finite(reward), float(cost)
    return frame.with_columns(
        *(pl.Series(f"reward::{name}", values[name], dtype=pl.Float64) for name in pool),
        *(pl.Series(f"reward_cost::{name}", costs[name], dtype=pl.Float64) for name in pool),
    )


def _some(columns: Iterable[str]) -> str:
    shown = list(columns)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
