"""The statements of every batch, built once: building and compiling them takes far longer than
running them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Dialect,
    Table,
    bindparam,
    delete,
    func,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from routewright.records import schema

ACCOUNTS: BindParameter[str] = bindparam("accounts", expanding=True)
IDS: BindParameter[Any] = bindparam("ids", expanding=True)

LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
SPENT = select(
    schema.balances.c.account,
    schema.balances.c.period,
    (schema.balances.c.usd + schema.balances.c.unsure_usd).label("usd"),
).where(
    schema.balances.c.account.in_(ACCOUNTS),
    schema.balances.c.period.in_(bindparam("periods", expanding=True)),
)
RESERVED = (
    select(schema.reservations.c.account, func.sum(schema.reservations.c.usd))
    .where(schema.reservations.c.account.in_(ACCOUNTS))
    .group_by(schema.reservations.c.account)
)
USED = select(schema.minutes).where(
    schema.minutes.c.account.in_(ACCOUNTS),
    schema.minutes.c.minute.in_(bindparam("minutes", expanding=True)),
)
RUNNING = (
    select(schema.running.c.account, func.count())
    .where(schema.running.c.account.in_(ACCOUNTS))
    .group_by(schema.running.c.account)
)
STORED = select(schema.asks.c.decision, schema.asks.c.position).where(
    tuple_(schema.asks.c.decision, schema.asks.c.position).in_(IDS)
)
RELEASE = delete(schema.reservations).where(schema.reservations.c.id.in_(IDS))
LEAVE = delete(schema.running).where(schema.running.c.id.in_(IDS))


def lock(connection: Connection, name: str) -> None:
    """Keeps other gateways away from what has that name until the transaction ends; SQLite lets one
    write at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(LOCK, {"name": name})


def add(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts rows; leaves those alone that exist."""
    _run(connection, table, rows, ())


def replace(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts rows, in the place of those that exist."""
    keys = {column.name for column in table.primary_key}
    names = tuple(name for name in rows[0] if name not in keys) if rows else ()
    _run(connection, table, rows, names)


def increase(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], names: tuple[str, ...]
) -> None:
    """Inserts rows, or adds the values of some columns to those of the rows that exist."""
    _run(connection, table, rows, names, sums=True)


def _run(
    connection: Connection,
    table: Table,
    rows: Sequence[dict[str, Any]],
    names: tuple[str, ...],
    sums: bool = False,
) -> None:
    if rows:
        compiled = _upsert(connection.dialect, table, tuple(rows[0]), names, sums)
        connection.execute(compiled, rows)


@lru_cache(64)
def _upsert(
    dialect: Dialect, table: Table, columns: tuple[str, ...], names: tuple[str, ...], sums: bool
) -> Any:
    """The compiled insert of these columns that updates some of them, `names`, in existing rows.

    SQLAlchemy does not cache what it compiles of an upsert.
    """
    statement = _insert(dialect)(table)
    keys = [column.name for column in table.primary_key]
    new = statement.excluded
    if names:
        values = {name: table.c[name] + new[name] if sums else new[name] for name in names}
        statement = statement.on_conflict_do_update(index_elements=keys, set_=values)
    else:
        statement = statement.on_conflict_do_nothing()
    return statement.compile(dialect=dialect, column_keys=list(columns))


def _insert(dialect: Dialect) -> Any:
    """The `insert` of a database, which knows what to do with rows that exist."""
    return (postgresql if dialect.name == "postgresql" else sqlite).insert
