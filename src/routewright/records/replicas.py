"""The gateways on one store: which of them live, and what the dead ones left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select

from routewright.records import schema, statements
from routewright.records.accounts import EVER, periods_of

SILENT = 30.0  # seconds after which a gateway that was not seen is dead


def names(connection: Connection) -> list[str]:
    """All gateways on this store, dead ones too."""
    return list(connection.scalars(select(schema.replicas.c.id)))


def recover(connection: Connection, dead: Sequence[str], now: float) -> int:
    """Settles what dead gateways left behind; returns the number of interrupted requests.

    The bounds of asks that were in progress are counted against the budgets (`unsure_usd`): they
    may have been paid. Asks that had ended keep their charges: their requests get a decision with
    the status `interrupted`.
    """
    if not dead:
        return 0
    table = schema.reservations
    # Deleted and read at once: another gateway may notice the same death at the same time.
    gone = delete(table).where(table.c.replica.in_(dead)).returning(table.c.account, table.c.usd)
    sums: defaultdict[str, float] = defaultdict(float)
    for account, usd in connection.execute(gone):
        sums[account] += usd
    unsure = [
        {"account": account, "period": period, "usd": 0.0, "unsure_usd": usd, "requests": 0}
        for account, usd in sorted(sums.items())
        for period in (*periods_of(now), EVER)
    ]
    statements.increase(connection, schema.balances, unsure, ("unsure_usd",))
    running = schema.running
    connection.execute(delete(running).where(running.c.replica.in_(dead)))
    asks = schema.asks
    ids = select(schema.decisions.c.id).where(schema.decisions.c.replica.in_(dead))
    lost = (
        select(
            asks.c.decision,
            func.min(asks.c.at).label("at"),
            func.sum(asks.c.usd).label("usd"),
            *(func.max(asks.c[name]).label(name) for name in ("key", "owner", "team", "policy")),
            func.max(asks.c.replica).label("replica"),
        )
        .where(asks.c.replica.in_(dead), asks.c.decision.not_in(ids))
        .group_by(asks.c.decision)
    )
    rows = [
        {
            **{name: row[name] for name in ("at", "usd", "key", "owner", "team", "policy")},
            **{"id": row["decision"], "replica": row["replica"], "status": "interrupted"},
        }
        for row in (row._mapping for row in connection.execute(lost))
    ]
    statements.add(connection, schema.decisions, rows)
    connection.execute(delete(schema.replicas).where(schema.replicas.c.id.in_(dead)))
    return len(rows)


def silent(connection: Connection, now: float) -> list[str]:
    """The gateways that were not seen for SILENT seconds."""
    table = schema.replicas
    return list(connection.scalars(select(table.c.id).where(table.c.seen_at < now - SILENT)))


def seen(connection: Connection, replica: str, now: float) -> int:
    """Notes that a gateway lives; returns how many do."""
    statements.replace(connection, schema.replicas, [{"id": replica, "seen_at": now}])
    alive = select(func.count()).where(schema.replicas.c.seen_at >= now - SILENT)
    return connection.scalar(alive) or 1


def forget(connection: Connection, replica: str) -> None:
    """Removes a gateway that ends, and what it still held."""
    for table in (schema.reservations, schema.running):
        connection.execute(delete(table).where(table.c.replica == replica))
    connection.execute(delete(schema.replicas).where(schema.replicas.c.id == replica))
