"""Responses that later requests continue or read. Only their owner may do either."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, literal, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from routewright.records import schema, statements
from routewright.records.store import Store
from routewright.types import DataClass

MOST_TURNS = 1000  # of a chain
NUL = "\0"
PORTION = 200  # responses that are deleted in one transaction


class Unknown(Exception):
    """There is no such response, it has expired, or it is not the client's."""


class TooLong(Exception):
    """A chain has more turns or bytes than can be read at once."""


@dataclass(frozen=True)
class Turn:
    """One request and its response; times in seconds since 1970."""

    id: str
    owner: str
    created_at: float
    expires_at: float
    previous: str | None
    data_class: DataClass
    region: str | None
    session: str | None
    expert: str
    input: Sequence[Mapping[str, Any]]
    output: Sequence[Mapping[str, Any]]
    response: Mapping[str, Any]  # without `output`


def keep(connection: Connection, turn: Turn) -> None:
    """Stores a turn; those that it continues live as long as it does."""
    size = len(json.dumps([turn.input, turn.output]))
    statements.replace(connection, schema.responses, [{**vars(turn), "size": size}])
    ids = {item["id"]: None for item in turn.output if isinstance(item.get("id"), str)}
    rows = [{"id": name, "response": turn.id} for name in ids]
    statements.add(connection, schema.response_items, rows)
    if turn.previous is not None:
        table = schema.responses
        older = [row.id for row in _chain(connection, turn.previous, turn.owner, 0.0)]
        extended = table.c.id.in_(older), table.c.expires_at < turn.expires_at
        connection.execute(update(table).where(*extended).values(expires_at=turn.expires_at))


def find(connection: Connection, name: str, owner: str, now: float) -> Turn:
    """A turn by the id of its response; raises Unknown."""
    table = schema.responses
    _check(name)
    row = connection.execute(select(table).where(table.c.id == name, *_own(owner, now))).first()
    if row is None:
        raise Unknown
    return _turn(row)


def chain(connection: Connection, name: str, owner: str, now: float, most: int) -> list[Turn]:
    """A turn and those that it continues, the first one first.

    Raises Unknown if one of them is not there any more, and TooLong if they have more than `most`
    bytes.
    """
    _check(name)
    rows = _chain(connection, name, owner, now)
    if len(rows) > MOST_TURNS or sum(row.size for row in rows) > most:
        raise TooLong
    if not rows or rows[-1].previous is not None:
        raise Unknown
    table = schema.responses
    turns = connection.execute(select(table).where(table.c.id.in_([row.id for row in rows])))
    by_id = {row.id: _turn(row) for row in turns}
    return [by_id[row.id] for row in reversed(rows)]


def items(
    connection: Connection, names: Iterable[str], owner: str, now: float
) -> dict[str, tuple[Mapping[str, Any], Turn]]:
    """Items by their ids, each with its turn, but for that turn's input; unknown ones are left
    out."""
    table, places = schema.responses, schema.response_items
    wanted = {name for name in names if NUL not in name}
    columns = [column for column in table.c if column.name not in ("input", "response")]
    of_items = select(places.c.response).where(places.c.id.in_(wanted))
    query = select(*columns).where(table.c.id.in_(of_items), *_own(owner, now))
    turns = [_turn(row, input=[], response={}) for row in connection.execute(query)]
    return {item["id"]: (item, t) for t in turns for item in t.output if item.get("id") in wanted}


def remove(connection: Connection, name: str, owner: str, now: float) -> None:
    """Deletes one response, with its texts; raises Unknown."""
    find(connection, name, owner, now)
    _delete(connection, [name])


def prune(connection: Connection, before: float, now: float, most: int = PORTION) -> int:
    """Deletes responses that have expired or are from before a time, at most so many."""
    table = schema.responses
    old = select(table.c.id).where(_is_old(before, now)).limit(most)
    names = list(connection.scalars(old))
    _delete(connection, names)
    return len(names)


def prune_all(store: Store, before: float, now: float) -> Counter[str]:
    """Does that to all of them, in portions that hold up nobody else."""
    total: Counter[str] = Counter(responses=0)
    while True:
        with store.begin() as connection:
            count = prune(connection, before, now)
        total["responses"] += count
        if not count:
            return total


def prunable(connection: Connection, before: float, now: float) -> dict[str, int]:
    """How many responses `prune_all` would delete."""
    query = select(func.count()).select_from(schema.responses).where(_is_old(before, now))
    return {"responses": connection.scalar(query) or 0}


def _check(name: str) -> None:
    """Raises Unknown for a name that no response has and PostgreSQL refuses."""
    if NUL in name:
        raise Unknown


def _is_old(before: float, now: float) -> ColumnElement[bool]:
    table = schema.responses
    return or_(table.c.expires_at <= now, table.c.created_at < before)


def _own(owner: str, now: float) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return schema.responses.c.owner == owner, schema.responses.c.expires_at > now


def _chain(connection: Connection, name: str, owner: str, now: float) -> Sequence[Row[Any]]:
    """Id, predecessor and size of a response and of those before it, the newest first."""
    table = schema.responses
    columns = table.c.id, table.c.previous, table.c.size
    first = select(*columns, literal(0).label("depth")).where(table.c.id == name, *_own(owner, now))
    found = first.cte("found", recursive=True)
    before = select(*columns, found.c.depth + 1).where(
        table.c.id == found.c.previous, *_own(owner, now), found.c.depth < MOST_TURNS
    )
    found = found.union_all(before)
    return connection.execute(select(found).order_by(found.c.depth)).all()


def _delete(connection: Connection, names: Sequence[str]) -> None:
    responses, places = schema.responses, schema.response_items
    if names:
        connection.execute(delete(places).where(places.c.response.in_(names)))
        connection.execute(delete(responses).where(responses.c.id.in_(names)))


def _turn(row: Row[Any], **more: Any) -> Turn:
    fields = {name: value for name, value in row._mapping.items() if name != "size"}
    return Turn(**fields, **more)
