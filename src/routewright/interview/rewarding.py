"""Rates the answers of an outcome table: fills its `reward::` columns, and pays for none twice.

Rewards of a model in this process are written to a journal batch by batch; the asks of a judge go
through a ledger. A run that is killed is taken up where it stopped by running it again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from routewright.experts.providers import Provider
from routewright.grading import rewards
from routewright.grading.rewards import AskingModel, LocalModel, Rated, RewardModel
from routewright.types import Answer, Array, Expert, Query

BATCH = 64  # answers between two entries of the journal

Progress = Callable[[int, int, float], None]  # answers rated, of how many, US$ spent


@dataclass
class Tally(ledger.Tally):
    """What rating a table came to."""

    answers: int = 0  # that the table holds
    rated: int = 0  # that have a reward now


@dataclass(frozen=True)
class Row:
    """A query and the answers to it that are to be rated."""

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
    progress: Progress = lambda done, of, cost: None,
) -> tuple[pl.DataFrame, Tally]:
    """The table with `reward::m` and `reward_cost::m`, and a tally.

    An answer is what the first column of `answers` that knows it says. `names` keeps to some
    experts of the table, `experts` are those that a judge may be one of. Earlier rewards of these
    experts are replaced: two reward models have two scales. `engine` says where a model runs
    (engines.py); a judge is asked from here. Raises BadTable without any answers.
    """
    model = rewards.build(spec)
    if rewards.asks(model):
        _check_judge(spec, model, experts)
        if engine != "local":
            raise BadInput(f"--engine {engine} is for models: '{spec}' asks an expert, from here")
    rows, pool = _rows(frame, answers, names)
    tally = Tally(answers=sum(len(row.answers) for row in rows))
    if rewards.asks(model):
        asking: AskingModel = model  # type: ignore[assignment]
        run = _asking(rows, asking, journal, experts, budget, providers, tally, progress)
        found = asyncio.run(run)
    else:
        found = _local(rows, spec, journal, engine, tally, progress)
    tally.rated = sum(int(np.isfinite(one.rewards).sum()) for one in found if one is not None)
    return _filled(frame, rows, found, pool), tally


def _check_judge(spec: str, model: RewardModel, experts: Sequence[Expert]) -> None:
    judge, there = getattr(model, "expert", None), [expert.name for expert in experts]
    if judge is None:
        raise BadInput(f"reward model '{spec}' says what a table holds: there is nothing to rate")
    if judge not in there:
        known = f"it has {', '.join(there)}" if there else "name one with --config"
        raise BadInput(f"no expert '{judge}' in the config: {known}")


# --- in this process -----------------------------------------------------------------------


def _local(
    rows: Sequence[Row],
    spec: str,
    journal: Journal,
    engine: str,
    tally: Tally,
    progress: Progress,
) -> list[Rated | None]:
    known = _recalled(journal)
    pairs = [(row.query, answer.text) for row in rows for answer in row.answers]
    keys = [_key(spec, query, text) for query, text in pairs]
    missing = list(dict.fromkeys(i for i, key in enumerate(keys) if key not in known))
    tally.recalled = len(pairs) - len(missing)
    batches = parallel.in_parts(missing, size=BATCH)
    work = [[pairs[i] for i in batch] for batch in batches]
    progress(tally.recalled, len(pairs), 0.0)
    for place, earned in parallel.spread(partial(_rated, spec), work, engine):
        fresh = {keys[i]: _known(reward) for i, reward in zip(batches[place], earned, strict=True)}
        journal.write(rated=fresh)
        known |= fresh
        progress(len(known), len(pairs), 0.0)
    progress(len(pairs), len(pairs), 0.0)
    earned = np.array([np.nan if (r := known[key]) is None else r for key in keys])
    found: list[Rated | None] = []
    place = 0
    for row in rows:
        mine = earned[place : place + len(row.answers)]
        found.append(Rated(mine, np.zeros(len(mine))))
        place += len(mine)
    return found


def _rated(spec: str, pairs: Sequence[rewards.Pair]) -> Array:
    """A model is loaded once per process."""
    model: LocalModel = rewards.build(spec)  # type: ignore[assignment]
    return model.rate(pairs)


def _recalled(journal: Journal) -> dict[str, float | None]:
    known: dict[str, float | None] = {}
    for event in journal.entries:
        known |= event.get("rated", {})
    return known


def _key(spec: str, query: Query, answer: str) -> str:
    words = "\0".join((spec, query.full_text, answer)).encode("utf-8", "replace")
    return hashlib.blake2b(words, digest_size=12).hexdigest()


def _known(reward: float) -> float | None:
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
) -> list[Rated | None]:
    done = 0

    async def one(row: Row, purse: ledger.Ledger) -> Rated:
        nonlocal done
        spent: list[Answer] = []
        rating = rewards.consider(model, row.query, row.answers)
        rated = await consult(rating, row.query, experts, purse, spent)
        silent = [answer.reason for answer in spent if answer.status == "failed"]
        if silent:
            tally.fail(silent[0], len(silent))
        done += len(row.answers)
        tally.unread += rated.unread
        progress(done, tally.answers, purse.account.spent)
        return rated

    purse = ledger.Ledger(experts, journal, budget=budget, providers=providers)
    return await ledger.side_by_side(one, rows, purse, tally)


# --- the table -----------------------------------------------------------------------------


def _rows(
    frame: pl.DataFrame, answers: str, names: Sequence[str] | None
) -> tuple[list[Row], list[str]]:
    """The queries with their answers: of the columns `answers`, the first that knows the cell."""
    kinds = [kind.strip() for kind in answers.split(",")]
    there = [c for c in frame.columns if c.split("::", 1)[0] in kinds and "::" in c]
    pool = list(dict.fromkeys(column.split("::", 1)[1] for column in there))
    wanted = f"{' or '.join(kinds)}::{{}}"
    if missing := [name for name in names or () if name not in pool]:
        raise BadTable(f"the table has no {wanted.format(missing[0])}; it has {_some(pool)}")
    if not pool:
        raise BadTable(
            f"the table has no {wanted.format('EXPERT')} to rate; it has {_some(frame.columns)}"
        )
    pool = pool if names is None else list(names)
    texts = {name: _texts(frame, [f"{kind}::{name}" for kind in kinds]) for name in pool}
    rows = []
    for i, query in enumerate(queries_of(frame)):
        said = [Answer(name, text=t) for name in pool if (t := texts[name][i]) is not None]
        rows.append(Row(query, tuple(said)))
    return rows, pool


def _texts(frame: pl.DataFrame, columns: Sequence[str]) -> list[str | None]:
    known = [pl.col(column).cast(pl.String) for column in columns if column in frame.columns]
    return frame.select(pl.coalesce(known)).to_series().to_list()


def _filled(
    frame: pl.DataFrame, rows: Sequence[Row], found: Sequence[Rated | None], pool: Sequence[str]
) -> pl.DataFrame:
    earned: dict[str, list[float | None]] = {name: [None] * len(rows) for name in pool}
    paid: dict[str, list[float | None]] = {name: [None] * len(rows) for name in pool}
    for i, (row, rated) in enumerate(zip(rows, found, strict=True)):
        if rated is None:
            continue
        for answer, reward, cost in zip(row.answers, rated.rewards, rated.costs, strict=True):
            earned[answer.expert][i], paid[answer.expert][i] = _known(reward), float(cost)
    return frame.with_columns(
        *(pl.Series(f"reward::{name}", earned[name], dtype=pl.Float64) for name in pool),
        *(pl.Series(f"reward_cost::{name}", paid[name], dtype=pl.Float64) for name in pool),
    )


def _some(columns: Iterable[str]) -> str:
    shown = list(columns)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
