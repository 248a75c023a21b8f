"""The scores that clients give to decisions."""

from __future__ import annotations

import time

from sqlalchemy import Connection, insert, select

from routewright.records import schema


class Unknown(Exception):
    """There is no such decision, or it is not the client's."""


class Scored(Exception):
    """The decision has a score already."""


def write(
    connection: Connection, decision: str, score: float, key: str | None, is_open: bool
) -> str | None:
    """Stores a score (0..1) and returns the expert whose answer it is about.

    `key` is the name of the client's key. Only the key that asked may score, unless no key is
    needed (`is_open`). Raises Unknown or Scored.
    """
    table = schema.decisions
    query = select(table.c.key, table.c.expert, table.c.status).where(table.c.id == decision)
    row = connection.execute(query).first()
    if row is None or row.expert is None or (row.key != key and not is_open):
        raise Unknown
    scored = select(schema.scores.c.score).where(schema.scores.c.decision == decision)
    if connection.scalar(scored) is not None:
        raise Scored
    values = {"decision": decision, "at": time.time(), "key": key, "score": score}
    connection.execute(insert(schema.scores).values(values))
    expert: str = row.expert
    return expert
