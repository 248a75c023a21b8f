"""The sessions of people who signed in to the dashboard, shared by the gateways of a store.

They are states under a hash of the session's id, so that whoever reads the store cannot use them.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from sqlalchemy import Connection, delete, select

from routewright.records import schema, statements

PREFIX = "signin:"


def name_of(session: str) -> str:
    return PREFIX + hashlib.sha256(session.encode()).hexdigest()


def write(connection: Connection, session: str, value: dict[str, Any], ended: float) -> None:
    """Stores a session, and deletes those that were made before the time `ended`."""
    table = schema.states
    old = table.c.name.startswith(PREFIX) & (table.c.at < ended)
    connection.execute(delete(table).where(old))
    row = {"name": name_of(session), "value": value, "at": time.time()}
    statements.replace(connection, table, [row])


def read(connection: Connection, session: str) -> dict[str, Any] | None:
    table = schema.states
    query = select(table.c.value).where(table.c.name == name_of(session))
    value: dict[str, Any] | None = connection.scalar(query)
    return value


def forget(connection: Connection, session: str) -> None:
    connection.execute(delete(schema.states).where(schema.states.c.name == name_of(session)))
