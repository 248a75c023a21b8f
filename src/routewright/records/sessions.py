"""The conversations of clients, by a hash: who answers them, and how secret their texts are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, select

from routewright.records import schema

KEPT_SECONDS = 7 * 86_400.0  # since the last request


def read(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The states of the conversations that are known, by their ids."""
    table = schema.sessions
    rows = connection.execute(select(table.c.id, table.c.state).where(table.c.id.in_(ids)))
    return {row.id: row.state for row in rows}


def clean(connection: Connection, now: float) -> None:
    """Forgets the conversations that have ended."""
    table = schema.sessions
    connection.execute(delete(table).where(table.c.at < now - KEPT_SECONDS))
