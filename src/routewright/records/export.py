"""Writes recorded decisions as an outcome table, which `fit` and `evaluate` read.

A row is a decision whose prompt was kept. The answer and the score belong to the expert whose
answer the client got; costs, latencies and tokens to everyone who was asked. The propensity of an
expert is the chance with which the policy would have asked it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, literal, select, tuple_

from routewright import files
from routewright.data import outcomes, rows
from routewright.errors import BadInput
from routewright.records import schema
from routewright.types import DATA_CLASSES, Query

if TYPE_CHECKING:
    import polars as pl

BATCH = 1000  # decisions that are in memory at once
EMBEDDING = "embed"  # the kind of an ask that answers nothing
ANSWER = "answer"  # the kind of an ask that is no check of another answer
MEASURES = ("score", "cost", "verify_cost", "answer", "latency", "out_tokens")
QUERY = ("id", "prompt", "messages", "domain", "data_class", "group")  # columns of text

Ask = Mapping[str, Any]  # a row of the table `asks`


@dataclass
class Summary:
    """What was written."""

    rows: int = 0
    scored: int = 0
    unanswered: int = 0  # decisions without an answer and without cost, which are left out
    usd: float = 0.0


def write(
    connection: Connection,
    since: float,
    out: Path,
    pool: Sequence[str] = (),
    progress: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Writes the decisions after a time to a Parquet or JSONL file, atomically and in batches.

    `pool` names the experts of the config: their propensities are written even if they were never
    asked. `progress` is told the number of rows so far. Raises BadInput.
    """
    outcomes.check_ending(out)
    experts = asked(connection, since)
    schema_of = columns(experts, [*experts, *(name for name in pool if name not in experts)])
    summary = Summary()

    def batches() -> Iterator[pl.DataFrame]:
        for frame in _frames(connection, since, experts, schema_of, summary):
            progress(summary.rows)
            yield frame

    is_new = not out.exists()
    with files.replacing(out) as partial:
        if is_new:
            partial.chmod(0o600)  # it holds texts of clients
        outcomes.write_parts(batches(), schema_of, partial)
        if not summary.rows:
            raise BadInput("no recorded decision of that time was answered: ask for a longer time")
    return summary


def count(connection: Connection, since: float) -> int:
    """The decisions after a time whose prompt was kept."""
    table = schema.decisions
    query = select(func.count()).select_from(table)
    return connection.scalar(query.where(table.c.at >= since, table.c.messages.is_not(None))) or 0


def asked(connection: Connection, since: float) -> list[str]:
    """The experts that were asked for these decisions, by name."""
    table, asks = schema.decisions, schema.asks
    query = select(asks.c.expert).join(table, table.c.id == asks.c.decision)
    query = query.where(table.c.at >= since, table.c.messages.is_not(None))
    return sorted(connection.scalars(query.distinct()))


def columns(experts: Sequence[str], pool: Sequence[str]) -> dict[str, Any]:
    """The columns of the table and their types."""
    import polars as pl

    texts = {name: pl.String() for name in QUERY}
    measures = {
        f"{measure}::{expert}": pl.String() if measure == "answer" else pl.Float64()
        for expert in experts
        for measure in MEASURES
    }
    propensities = {f"propensity::{expert}": pl.Float64() for expert in pool}
    return {**texts, "tags": pl.List(pl.String), **measures, **propensities}


def _frames(
    connection: Connection,
    since: float,
    experts: Sequence[str],
    schema_of: Mapping[str, Any],
    summary: Summary,
) -> Iterator[pl.DataFrame]:
    import polars as pl

    for decisions in _pages(connection, since):
        asks = _asks(connection, [decision["id"] for decision in decisions])
        cells = []
        for decision in decisions:
            row = _row(decision, asks[decision["id"]], experts)
            if row is None:
                summary.unanswered += 1
                continue
            cells.append({name: row.get(name) for name in schema_of})
            summary.scored += decision["score"] is not None
            summary.usd += sum(ask["usd"] for ask in asks[decision["id"]])
        summary.rows += len(cells)
        if cells:
            yield pl.DataFrame(cells, schema=dict(schema_of))


def _pages(connection: Connection, since: float) -> Iterator[list[dict[str, Any]]]:
    """The decisions after a time with a prompt, oldest first, with their scores."""
    table, scores = schema.decisions, schema.scores
    names = ("id", "at", "expert", "data_class", "domain", "tags", "experts", "messages", "answer")
    place = tuple_(table.c.at, table.c.id)
    query = (
        select(*(table.c[name] for name in names), scores.c.score)
        .outerjoin(scores, scores.c.decision == table.c.id)
        .where(table.c.at >= since, table.c.messages.is_not(None))
        .order_by(table.c.at, table.c.id)
        .limit(BATCH)
    )
    last: tuple[float, str] | None = None
    while True:
        page = query if last is None else query.where(place > tuple_(*map(literal, last)))
        decisions = [dict(row._mapping) for row in connection.execute(page)]
        if not decisions:
            return
        yield decisions
        last = decisions[-1]["at"], decisions[-1]["id"]


def _asks(connection: Connection, decisions: Sequence[str]) -> defaultdict[str, list[Ask]]:
    """The asks of some decisions, in their order."""
    table = schema.asks
    names = ("decision", "expert", "kind", "status", "usd", "seconds", "output_tokens")
    query = select(*(table.c[name] for name in names)).where(
        table.c.decision.in_(decisions), table.c.kind != EMBEDDING
    )
    asks: defaultdict[str, list[Ask]] = defaultdict(list)
    for row in connection.execute(query.order_by(table.c.decision, table.c.position)):
        asks[row.decision].append(dict(row._mapping))
    return asks


def _row(decision: Mapping[str, Any], asks: list[Ask], experts: Sequence[str]) -> Any:
    """The row of a decision; None if nobody answered and nothing was paid."""
    cells: dict[str, Any] = {}
    for expert in experts:
        cells |= _cells(expert, [ask for ask in asks if ask["expert"] == expert])
    if not any(value is not None for value in cells.values()):
        return None
    server = decision["expert"]
    if server in experts:
        cells[f"answer::{server}"] = decision["answer"]
        cells[f"score::{server}"] = decision["score"]
    for belief in decision["experts"] or ():
        cells[f"propensity::{belief['name']}"] = _number(belief.get("propensity"))
    messages = decision["messages"]
    query = Query(
        messages=tuple(messages),
        id=decision["id"],
        domain=decision["domain"],
        tags=tuple(decision["tags"] or ()),
    )
    known = decision["data_class"] in DATA_CLASSES
    group = {"group": rows.name(opening(messages))}
    data_class = {"data_class": decision["data_class"] if known else None}
    return {**rows.flat(rows.row(query)), **data_class, **group, **cells}


def _cells(expert: str, asks: list[Ask]) -> dict[str, Any]:
    """What one expert's answers to a query took, failed tries included; unknown if it was not
    asked, or if it failed for nothing."""
    answers = [ask for ask in asks if ask["kind"] == ANSWER]
    checks = [ask for ask in asks if ask["kind"] != ANSWER]
    last = next((ask for ask in reversed(answers) if ask["status"] == "ok"), None)
    return {
        f"cost::{expert}": _paid(answers),
        f"verify_cost::{expert}": _paid(checks),
        f"latency::{expert}": last["seconds"] if last else None,
        f"out_tokens::{expert}": last["output_tokens"] if last else None,
    }


def _paid(asks: list[Ask]) -> float | None:
    usd = math.fsum(ask["usd"] for ask in asks)
    return usd if usd > 0 or any(ask["status"] == "ok" for ask in asks) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def opening(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The messages up to the first of the user: the turns of one conversation share them, so they
    are one piece of evidence.

    >>> opening([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}])
    [{'role': 'user', 'content': '2 + 2?'}]
    """
    roles = [message.get("role") for message in messages]
    return messages[: roles.index("user") + 1] if "user" in roles else messages
