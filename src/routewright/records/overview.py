"""What people look at: decisions that match a filter, one decision with its asks, and sums.

`owners` are the names of the keys whose records may be read, None among them for requests without
a key of the store; `owners=None` reads everybody's. Times are seconds since 1970, money is US$.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from routewright.records import schema
from routewright.records.decisions import TEXTS

Owners = Collection[str | None] | None
PARTS = (0.5, 0.95)  # of the requests, or asks, that are faster than the stated seconds
COLUMNS = ("key", "policy", "expert", "status")  # by which decisions are filtered


def belong(column: ColumnElement[Any], owners: Owners) -> ColumnElement[bool]:
    """The condition that a row is one of these owners'."""
    if owners is None:
        return column.is_(None) | column.is_not(None)
    names = [name for name in owners if name is not None]
    return or_(column.in_(names), column.is_(None)) if None in owners else column.in_(names)


# --- decisions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Which decisions are listed; what is None does not matter."""

    since: float
    owners: Owners = None
    key: str | None = None  # "": those without a key
    policy: str | None = None
    expert: str | None = None
    status: str | None = None
    unlike: bool = False  # those that were unlike the training rows
    min_usd: float | None = None
    min_seconds: float | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        table = schema.decisions
        yield table.c.at >= self.since
        yield belong(table.c.key, self.owners)
        for name in COLUMNS:
            value = getattr(self, name)
            if value is not None:
                yield table.c[name] == value if value else table.c[name].is_(None)
        if self.unlike:
            yield func.coalesce(table.c.unlike, "") != ""
        if self.min_usd is not None:
            yield table.c.usd >= self.min_usd
        if self.min_seconds is not None:
            yield table.c.seconds >= self.min_seconds


Place = tuple[float, str]  # the time and the id of a decision


def decisions(
    connection: Connection, found: Filter, before: Place | None, most: int
) -> list[dict[str, Any]]:
    """The decisions of a filter before a place, newest first, without their texts."""
    table, scores = schema.decisions, schema.scores
    columns = [column for column in table.c if column.name not in (*TEXTS, "experts")]
    query = select(*columns, scores.c.score).outerjoin(scores, scores.c.decision == table.c.id)
    query = query.where(*found.conditions())
    if before is not None:
        at, name = before
        query = query.where(or_(table.c.at < at, and_(table.c.at == at, table.c.id < name)))
    query = query.order_by(table.c.at.desc(), table.c.id.desc()).limit(most)
    return [dict(row._mapping) for row in connection.execute(query)]


def number(connection: Connection, found: Filter) -> int:
    """How many decisions a filter finds."""
    query = select(func.count()).select_from(schema.decisions).where(*found.conditions())
    return connection.scalar(query) or 0


def decision(connection: Connection, name: str, owners: Owners) -> dict[str, Any] | None:
    """One decision with its texts (where they are kept), its score, and as `asks` what it paid
    for; None if there is none of that id that these owners may read."""
    table, scores, asks = schema.decisions, schema.scores, schema.asks
    query = select(*table.c, scores.c.score).outerjoin(scores, scores.c.decision == table.c.id)
    row = connection.execute(query.where(table.c.id == name, belong(table.c.key, owners))).first()
    if row is None:
        return None
    paid = select(asks).where(asks.c.decision == name).order_by(asks.c.position)
    return {**row._mapping, "asks": [dict(ask._mapping) for ask in connection.execute(paid)]}


def names(connection: Connection, column: str, since: float, owners: Owners) -> list[str]:
    """The values that a column of the decisions after a time has."""
    table = schema.decisions
    query = select(table.c[column]).where(table.c.at >= since, belong(table.c.key, owners))
    return sorted(name for name in connection.scalars(query.distinct()) if name is not None)


def with_forecasts(
    connection: Connection, policy: str, owners: Owners, most: int
) -> list[dict[str, Any]]:
    """The newest decisions of a policy that have an answer and forecasts, with their texts."""
    table = schema.decisions
    query = select(table).where(table.c.policy == policy, table.c.expert.is_not(None))
    query = query.where(table.c.experts.is_not(None), belong(table.c.key, owners))
    rows = connection.execute(query.order_by(table.c.at.desc(), table.c.id.desc()).limit(most))
    return [dict(row._mapping) for row in rows]


# --- sums ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Totals:
    """What the requests after a time were. Unknown numbers are NaN."""

    requests: int
    failed: int
    usd: float  # of all asks
    answered_usd: float  # of the requests whose tokens are known
    input_tokens: int  # of these
    output_tokens: int
    scored: int
    score: float  # the mean
    seconds: tuple[float, float]  # in which half, and 95 %, of the answers were there
    unlike: int


def totals(connection: Connection, since: float, owners: Owners) -> Totals:
    table, asks, scores = schema.decisions, schema.asks, schema.scores
    mine = and_(table.c.at >= since, belong(table.c.key, owners))
    counted = and_(table.c.input_tokens.is_not(None), table.c.output_tokens.is_not(None))
    sums = select(
        func.count(),
        func.sum(case((table.c.status != "ok", 1), else_=0)),
        func.sum(case((func.coalesce(table.c.unlike, "") != "", 1), else_=0)),
        func.sum(case((counted, table.c.usd), else_=0.0)),
        func.sum(case((counted, table.c.input_tokens), else_=0)),
        func.sum(case((counted, table.c.output_tokens), else_=0)),
    ).where(mine)
    row = [value or 0 for value in connection.execute(sums).one()]
    spent = select(func.sum(asks.c.usd)).where(asks.c.at >= since, belong(asks.c.key, owners))
    joined = scores.join(table, scores.c.decision == table.c.id)
    scored = select(func.count(), func.avg(scores.c.score)).select_from(joined).where(mine)
    number, mean = connection.execute(scored).one()
    times = select(table.c.seconds).where(mine, table.c.status == "ok")
    return Totals(
        requests=int(row[0]),
        failed=int(row[1]),
        unlike=int(row[2]),
        usd=connection.scalar(spent) or 0.0,
        answered_usd=float(row[3]),
        input_tokens=int(row[4]),
        output_tokens=int(row[5]),
        scored=number,
        score=math.nan if mean is None else float(mean),
        seconds=quantiles(connection, times, table.c.seconds),
    )


def quantiles(
    connection: Connection, query: Select[Any], column: ColumnElement[float]
) -> tuple[float, float]:
    """The values that PARTS of a query's rows do not exceed; NaN where it has none."""
    query = query.where(column.is_not(None))
    count = connection.scalar(select(func.count()).select_from(query.subquery())) or 0
    if not count:
        return math.nan, math.nan
    places = [min(count - 1, math.ceil(part * count) - 1) for part in PARTS]
    half, most = (
        connection.scalar(query.order_by(column).offset(max(place, 0)).limit(1)) for place in places
    )
    return float(half), float(most)


def failures(connection: Connection, since: float, owners: Owners) -> list[tuple[str, int]]:
    """The statuses of requests that got no answer, the most frequent first."""
    table = schema.decisions
    query = select(table.c.status, func.count()).where(table.c.at >= since)
    query = query.where(belong(table.c.key, owners), table.c.status != "ok")
    rows = connection.execute(query.group_by(table.c.status))
    return sorted(((status, count) for status, count in rows), key=lambda row: -row[1])


def experts(connection: Connection, since: float, owners: Owners) -> dict[str, dict[str, Any]]:
    """For each expert: its asks, those that failed, its US$, and the seconds of its answers."""
    asks = schema.asks
    mine = and_(asks.c.at >= since, belong(asks.c.key, owners))
    failed = func.sum(case((asks.c.status.in_(("ok", "deferred")), 0), else_=1))
    sums = select(asks.c.expert, func.count(), failed, func.sum(asks.c.usd)).where(mine)
    rows = {
        name: {"asks": count, "failed": int(failures or 0), "usd": usd or 0.0}
        for name, count, failures, usd in connection.execute(sums.group_by(asks.c.expert))
    }
    for name, row in rows.items():
        times = select(asks.c.seconds).where(mine, asks.c.expert == name, asks.c.status == "ok")
        row["seconds"] = quantiles(connection, times, asks.c.seconds)
    table = schema.decisions
    answers = select(table.c.expert, func.count()).where(
        table.c.at >= since, belong(table.c.key, owners), table.c.expert.is_not(None)
    )
    for name, count in connection.execute(answers.group_by(table.c.expert)):
        rows.setdefault(name, {"asks": 0, "failed": 0, "usd": 0.0, "seconds": (math.nan,) * 2})
        rows[name]["answers"] = count
    return rows


def scored(
    connection: Connection, since: float, owners: Owners, most: int
) -> Sequence[tuple[str, float, list[dict[str, Any]]]]:
    """Expert, score and forecasts of the newest scored decisions."""
    table, scores = schema.decisions, schema.scores
    query = select(table.c.expert, scores.c.score, table.c.experts)
    query = query.join(scores, scores.c.decision == table.c.id).where(
        table.c.at >= since, belong(table.c.key, owners), table.c.expert.is_not(None)
    )
    rows = connection.execute(query.order_by(table.c.at.desc()).limit(most))
    return [(row.expert, row.score, row.experts or []) for row in rows]
