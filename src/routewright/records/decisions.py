"""Reads the records of the store, and deletes those that are too old.

The table `asks` is the truth about money: every sum is one of its rows. Balances repeat it by
account, and `differences` compares the two.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    case,
    cast,
    delete,
    func,
    null,
    select,
    tuple_,
)

from routewright.records import schema, statements
from routewright.records.accounts import EVER, periods_of
from routewright.records.keys import KINDS
from routewright.records.store import Store

GROUPS = ("key", "team", "owner", "expert", "policy", "day")
HOUR = 3600  # seconds
PAGE = 1000  # rows that are read at once
PORTION = 500  # asks and decisions that are deleted in one transaction
PRUNED = "pruned"  # the state that says up to which time records were deleted
TEXTS = ("messages", "answer")
TOLERANCE = 1e-6  # US$ by which sums of many charges may differ

# --- decisions ---------------------------------------------------------------------------------


def recent(
    connection: Connection, since: float, key: str | None = None, status: str | None = None
) -> Iterator[dict[str, Any]]:
    """The decisions after a time, newest first, with their scores and without their texts."""
    table, scores = schema.decisions, schema.scores
    columns = [column for column in table.c if column.name not in TEXTS]
    query = select(*columns, scores.c.score).outerjoin(scores, scores.c.decision == table.c.id)
    query = query.where(table.c.at >= since).order_by(table.c.at.desc(), table.c.id.desc())
    if key is not None:
        query = query.where(table.c.key == key)
    if status is not None:
        query = query.where(table.c.status == status)
    for row in connection.execute(query, execution_options={"yield_per": PAGE}):
        yield dict(row._mapping)


def statuses(connection: Connection, since: float) -> list[str]:
    """The statuses of the decisions after a time."""
    table = schema.decisions
    query = select(table.c.status).where(table.c.at >= since).distinct()
    return sorted(connection.scalars(query))


# --- money -------------------------------------------------------------------------------------


def spend(connection: Connection, by: str, since: float) -> list[dict[str, Any]]:
    """What was spent after a time, by one of GROUPS, the most first (days in their order).

    A row has the group under its name (None: requests without one), `usd`, the part of it that
    experts did not report (`estimated_usd`), and `requests`: the decisions, or those that asked the
    expert. Rows of keys, teams and owners have `unsure_usd`: what asks that were in progress when a
    gateway died may have cost beyond `usd`; it counts against budgets.
    """
    asks = schema.asks
    group = _group(connection, by, asks)
    estimated = func.sum(case((asks.c.estimated, asks.c.usd), else_=0.0))
    sums = select(group, func.sum(asks.c.usd), estimated).where(asks.c.at >= since)
    rows = {
        name: {by: name, "usd": usd, "estimated_usd": part, "requests": 0}
        for name, usd, part in connection.execute(sums.group_by(group))
    }
    for name, requests in connection.execute(_requests(connection, by, since)):
        row = rows.setdefault(name, {by: name, "usd": 0.0, "estimated_usd": 0.0})
        row["requests"] = requests
    if by in KINDS:
        unsure = _unsure(connection, by, since)
        for name in unsure.keys() - rows.keys():
            rows[name] = {by: name, "usd": 0.0, "estimated_usd": 0.0, "requests": 0}
        for name, row in rows.items():
            row["unsure_usd"] = unsure.get(name, 0.0)
    if by == "day":
        return [rows[day] for day in sorted(rows)]
    return sorted(rows.values(), key=lambda row: (-row["usd"], str(row[by])))


def _group(connection: Connection, by: str, table: Any) -> ColumnElement[Any]:
    return _day(connection, table.c.at) if by == "day" else table.c[by]


def _requests(connection: Connection, by: str, since: float) -> Select[Any]:
    if by == "expert":
        asks = schema.asks
        query = select(asks.c.expert, func.count(asks.c.decision.distinct()))
        return query.where(asks.c.at >= since).group_by(asks.c.expert)
    table = schema.decisions
    group = _group(connection, by, table)
    return select(group, func.count()).where(table.c.at >= since).group_by(group)


def _day(connection: Connection, at: ColumnElement[float]) -> ColumnElement[str]:
    """The day (UTC) of a time, as `periods_of` writes it."""
    second = _second(connection, at)
    if connection.dialect.name == "sqlite":
        return func.date(second, "unixepoch")
    return func.to_char(func.timezone("UTC", func.to_timestamp(second)), "YYYY-MM-DD")


def _second(connection: Connection, at: ColumnElement[float]) -> ColumnElement[int]:
    """A time without the part of a second; SQLite cuts it off, and PostgreSQL would round."""
    return cast(at if connection.dialect.name == "sqlite" else func.floor(at), BigInteger)


def _unsure(connection: Connection, kind: str, since: float) -> dict[str, float]:
    """US$ by name that asks in progress may have cost when a gateway died, by whole days."""
    table = schema.balances
    query = (
        select(table.c.account, func.sum(table.c.unsure_usd))
        .where(table.c.account.startswith(f"{kind}:"), table.c.unsure_usd > 0)
        .where(func.length(table.c.period) == len("2026-11-30"))
        .where(table.c.period >= periods_of(since)[0])
        .group_by(table.c.account)
    )
    names = _names(connection)
    return {
        names.get(account, account.partition(":")[2]): usd
        for account, usd in connection.execute(query)
    }


def _names(connection: Connection) -> dict[str, str]:
    """The name of the key behind each account of a key."""
    rows = connection.execute(select(schema.keys.c.id, schema.keys.c.name))
    return {f"key:{row.id}": row.name for row in rows}


def total(connection: Connection, since: float) -> float:
    """US$ that asks have cost after a time."""
    table = schema.asks
    return connection.scalar(select(func.sum(table.c.usd)).where(table.c.at >= since)) or 0.0


def hours(
    connection: Connection, since: float, kind: str | None = None
) -> dict[str | None, list[tuple[float, int, float]]]:
    """The begin of each hour after a time, the requests that asked an expert in it, and their US$.

    By the name of the `kind`: key, team or owner; without one, all requests under None.
    """
    table = schema.asks
    hour = _second(connection, table.c.at) // HOUR
    name = null() if kind is None else table.c[kind]
    query = select(name, hour, func.count(table.c.decision.distinct()), func.sum(table.c.usd))
    groups = (hour,) if kind is None else (name, hour)
    history: defaultdict[str | None, list[tuple[float, int, float]]] = defaultdict(list)
    rows = connection.execute(query.where(table.c.at >= since).group_by(*groups).order_by(hour))
    for who, begin, requests, usd in rows:
        history[who].append((float(begin * HOUR), requests, usd))
    return dict(history)


# --- retention ---------------------------------------------------------------------------------


def prune(connection: Connection, before: float, most: int | None = None) -> dict[str, int]:
    """Deletes asks, decisions and scores from before a time, and returns how many of each.

    With `most`, no more than so many asks and so many decisions. Balances stay.
    """
    asks, decisions, scores = schema.asks, schema.decisions, schema.scores
    old_asks = select(asks.c.decision, asks.c.position).where(asks.c.at < before)
    old = select(decisions.c.id).where(decisions.c.at < before)
    if most is not None:
        old_asks = old_asks.order_by(asks.c.at).limit(most)
        old = old.order_by(decisions.c.at, decisions.c.id).limit(most)
    place = tuple_(asks.c.decision, asks.c.position)
    deletions = {
        "asks": delete(asks).where(place.in_(old_asks)),
        "scores": delete(scores).where(scores.c.decision.in_(old)),
        "decisions": delete(decisions).where(decisions.c.id.in_(old)),
    }
    counts = {name: connection.execute(query).rowcount for name, query in deletions.items()}
    if any(counts.values()):
        _note_pruned(connection, before)
    return counts


def prune_all(store: Store, before: float) -> Counter[str]:
    """Does that to all of them, in portions that hold up nobody else."""
    total: Counter[str] = Counter()
    while True:
        with store.begin() as connection:
            counts = prune(connection, before, PORTION)
        total.update(counts)
        if not any(counts.values()):
            return total


def prunable(connection: Connection, before: float) -> dict[str, int]:
    """How many asks, decisions and scores `prune` would delete."""
    asks, decisions, scores = schema.asks, schema.decisions, schema.scores
    old = select(decisions.c.id).where(decisions.c.at < before)
    queries = {
        "asks": select(func.count()).select_from(asks).where(asks.c.at < before),
        "scores": select(func.count()).select_from(scores).where(scores.c.decision.in_(old)),
        "decisions": select(func.count()).select_from(decisions).where(decisions.c.at < before),
    }
    return {name: connection.scalar(query) or 0 for name, query in queries.items()}


def pruned_before(connection: Connection) -> float:
    """The time before which records were deleted; minus infinity if they never were."""
    table = schema.states
    value = connection.scalar(select(table.c.value).where(table.c.name == PRUNED))
    return float(value["before"]) if value else -math.inf


def _note_pruned(connection: Connection, before: float) -> None:
    value = {"before": max(before, pruned_before(connection))}
    row = {"name": PRUNED, "value": value, "at": time.time()}
    statements.replace(connection, schema.states, [row])


# --- checks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A day on which the balance of an account is not the sum of its asks, in US$."""

    account: str  # `key 'web'`, `team 'search'`
    day: str
    balance: float
    asks: float


def differences(connection: Connection) -> list[Difference]:
    """The differences between balances and asks, on the days of which no ask was deleted."""
    pruned = pruned_before(connection)
    first = periods_of(pruned)[0] if math.isfinite(pruned) else EVER
    table, asks = schema.balances, schema.asks
    query = select(table.c.account, table.c.period, table.c.usd)
    query = query.where(func.length(table.c.period) == len("2026-11-30"), table.c.period > first)
    balances = {(row.account, row.period): row.usd for row in connection.execute(query)}
    names = _names(connection)
    accounts = {name: account for account, name in names.items()}
    day = _day(connection, asks.c.at)
    sums: dict[tuple[str, str], float] = {}
    for kind in KINDS:
        column = asks.c[kind]
        query = select(column, day, func.sum(asks.c.usd)).where(column.is_not(None))
        for name, period, usd in connection.execute(query.group_by(column, day)):
            if period > first:
                account = accounts.get(name, f"key:{name}") if kind == "key" else f"{kind}:{name}"
                sums[account, period] = usd
    return [
        Difference(_label(account, names), period, balance, usd)
        for account, period in sorted(balances.keys() | sums.keys())
        if not math.isclose(
            balance := balances.get((account, period), 0.0),
            usd := sums.get((account, period), 0.0),
            rel_tol=1e-9,
            abs_tol=TOLERANCE,
        )
    ]


def _label(account: str, names: dict[str, str]) -> str:
    kind, _, name = account.partition(":")
    return f"{kind} '{names.get(account, name)}'"


def sizes(connection: Connection) -> dict[str, int]:
    """The number of rows of each table."""
    return {
        table.name: connection.scalar(select(func.count()).select_from(table)) or 0
        for table in schema.metadata.sorted_tables
    }


def oldest(connection: Connection) -> float | None:
    """The time of the oldest decision."""
    at: float | None = connection.scalar(select(func.min(schema.decisions.c.at)))
    return at


def size(connection: Connection) -> int:
    """The bytes that the database takes on disk."""
    if connection.dialect.name == "sqlite":
        pages, page = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
            for name in ("page_count", "page_size")
        )
        return int(pages * page)
    return connection.scalar(select(func.pg_database_size(func.current_database()))) or 0


def damage(connection: Connection) -> Sequence[str]:
    """What SQLite finds wrong with its file; nothing for another database, which looks itself."""
    if connection.dialect.name != "sqlite":
        return ()
    lines = connection.exec_driver_sql("PRAGMA quick_check(5)").scalars()
    return [str(line) for line in lines if line != "ok"]
