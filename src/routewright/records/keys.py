"""The keys of clients: made, listed, rotated and revoked; shown once, and stored as hashes.

A key is `rw-ID-SECRET`. The id finds its row, and the hash of the secret is compared in constant
time. The secret has 256 random bits, so that a plain SHA-256 of it tells nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from routewright.errors import BadInput
from routewright.records import schema, statements
from routewright.types import DATA_CLASSES

PREFIX = "rw-"
TOKEN = re.compile(r"rw-(?P<id>[0-9a-f]{12})-(?P<secret>[\w-]{43})", re.ASCII)
NAME = re.compile(r"[\w.@:+-]{1,64}", re.ASCII)
PERIODS = ("day", "month")
CHANGEABLE = ("rpm", "tpm", "concurrency", "experts", "policies", "data_classes", "expires_at")
KINDS = ("key", "team", "owner")  # of accounts


class NoSuchKey(BadInput):
    """There is no key of that name."""


class NameTaken(BadInput):
    """There is a key of that name already."""


class Revoked(BadInput):
    """The key was revoked."""


@dataclass(frozen=True)
class Budget:
    """What an account may spend, in US$; None: no limit."""

    day: float | None = None
    month: float | None = None


@dataclass(frozen=True)
class Key:
    """A client's key, without its secret, and what it allows; None allows everything.

    `budgets` are those of the key itself, its team and its owner, by account.
    """

    id: str
    name: str
    hash: str = field(repr=False)
    created_at: float
    old_hash: str | None = field(default=None, repr=False)
    old_until: float | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    admin: bool = False
    owner: str | None = None
    team: str | None = None
    tags: tuple[str, ...] = ()
    experts: tuple[str, ...] | None = None
    policies: tuple[str, ...] | None = None
    data_classes: tuple[str, ...] | None = None
    rpm: int | None = None  # requests per minute
    tpm: int | None = None  # tokens per minute
    concurrency: int | None = None  # requests at once
    budgets: Mapping[str, Budget] = field(default_factory=dict)

    @property
    def accounts(self) -> tuple[str, ...]:
        """The accounts that pay for its requests: its own, its team's, its owner's."""
        named = {"key": self.id, "team": self.team, "owner": self.owner}
        return tuple(f"{kind}:{name}" for kind, name in named.items() if name is not None)

    @property
    def account(self) -> str:
        return f"key:{self.id}"

    @property
    def is_limited(self) -> bool:
        """Whether its requests are counted before they are answered."""
        return any(limit is not None for limit in (self.rpm, self.tpm, self.concurrency))

    def is_valid(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def matches(self, secret: str, now: float) -> bool:
        """Whether that is its secret, or the one before a rotation that is still valid."""
        digest = hash_of(secret)
        fresh = hmac.compare_digest(digest, self.hash)
        old = hmac.compare_digest(digest, self.old_hash or "")
        return fresh or (old and self.old_until is not None and now < self.old_until)


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def find(token: str, keys: Mapping[str, Key], now: float) -> Key | None:
    """The key of a token among `keys` (by id), valid or not; None if there is none."""
    match = TOKEN.fullmatch(token)
    key = keys.get(match["id"]) if match else None
    return key if match and key and key.matches(match["secret"], now) else None


def create(connection: Connection, name: str, budget: Budget | None = None, **limits: Any) -> str:
    """Stores a key and returns it; nobody can read it again. `limits` are fields of `Key`.

    Raises BadInput if the name is taken or a limit cannot be used.
    """
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = Key(key_id, name, hash_of(secret), time.time(), **limits)
    check(key)
    if connection.scalar(select(schema.keys.c.id).where(schema.keys.c.name == name)):
        raise NameTaken(
            f"there is already a key '{name}': choose another name, or give it a new secret with"
            f" `routewright keys rotate {name}`"
        )
    connection.execute(insert(schema.keys).values(_row(key)))
    if budget is not None:
        set_budget(connection, key.account, budget)
    _changed(connection)
    return f"{PREFIX}{key_id}-{secret}"


def rotate(connection: Connection, name: str, keep_old: float = 0.0) -> str:
    """Gives a key a new secret and returns it; the old one is valid for `keep_old` seconds more."""
    key = named(connection, name)
    if key.revoked_at is not None:
        raise Revoked(f"the key '{name}' was revoked: create another one")
    secret, now = secrets.token_urlsafe(32), time.time()
    old = {"old_hash": key.hash, "old_until": now + keep_old} if keep_old else {}
    values = {"hash": hash_of(secret), "old_hash": None, "old_until": None, **old}
    connection.execute(update(schema.keys).where(schema.keys.c.id == key.id).values(values))
    _changed(connection)
    return f"{PREFIX}{key.id}-{secret}"


def change(connection: Connection, name: str, **limits: Any) -> None:
    """Replaces limits of a key, of those in CHANGEABLE; None allows everything.

    Raises BadInput if a limit cannot be used, or the key was revoked.
    """
    key = named(connection, name)
    if key.revoked_at is not None:
        raise Revoked(f"the key '{name}' was revoked: create another one")
    check(replace(key, **limits))
    if limits:
        values = {limit: _plain(value) for limit, value in limits.items()}
        connection.execute(update(schema.keys).where(schema.keys.c.id == key.id).values(values))
        _changed(connection)


def revoke(connection: Connection, name: str) -> None:
    """Makes a key invalid for ever. It stays listed, because records name it."""
    key = named(connection, name)
    values = {"revoked_at": key.revoked_at or time.time()}
    connection.execute(update(schema.keys).where(schema.keys.c.id == key.id).values(values))
    _changed(connection)


def named(connection: Connection, name: str) -> Key:
    """The key of a name. Raises BadInput, with the names that exist."""
    keys = load(connection)
    for key in keys.values():
        if key.name == name:
            return key
    names = ", ".join(sorted(key.name for key in keys.values())[:20]) or "none yet"
    raise NoSuchKey(f"there is no key '{name[:100]}'; the keys are: {names}")


def load(connection: Connection) -> dict[str, Key]:
    """All keys by id, revoked ones too, with the budgets that concern them."""
    budgets = budgets_of(connection)
    keys = {}
    for row in connection.execute(select(schema.keys).order_by(schema.keys.c.created_at)):
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in row._mapping.items()
        }
        key = Key(**{**values, "tags": values["tags"] or ()})
        accounts = {name: budgets[name] for name in key.accounts if name in budgets}
        keys[key.id] = replace(key, budgets=accounts)
    return keys


def budgets_of(connection: Connection) -> dict[str, Budget]:
    """The budgets by account."""
    rows = connection.execute(select(schema.budgets))
    return {row.account: Budget(row.day, row.month) for row in rows}


def set_budget(connection: Connection, account: str, budget: Budget) -> None:
    """Replaces the budget of an account, such as `team:search`."""
    for limit in (budget.day, budget.month):
        if limit is not None and not 0 <= limit < 1e12:
            raise BadInput(f"a budget cannot be {limit:g}: give US$ of 0 or more")
    connection.execute(delete(schema.budgets).where(schema.budgets.c.account == account))
    if budget != Budget():
        values = {"account": account, "day": budget.day, "month": budget.month}
        connection.execute(insert(schema.budgets).values(values))
    _changed(connection)


def version(connection: Connection) -> float:
    """A number that changes whenever a key or a budget does."""
    at = connection.scalar(select(schema.states.c.at).where(schema.states.c.name == "keys"))
    return at or 0.0


def _changed(connection: Connection) -> None:
    row = {"name": "keys", "value": secrets.token_hex(4), "at": time.time()}
    statements.replace(connection, schema.states, [row])


def checked_name(name: str, kind: str) -> str:
    """The name; raises BadInput if it cannot be that of a key, a team or an owner."""
    if not NAME.fullmatch(name):
        raise BadInput(
            f"'{name[:80]}' cannot be the name of a {kind}: use up to 64 letters, digits and any of"
            " . @ : + - _"
        )
    return name


def check(key: Key) -> None:
    """Raises BadInput if a name or a limit of a key cannot be used."""
    checked_name(key.name, "key")
    for kind in ("owner", "team"):
        if (name := getattr(key, kind)) is not None:
            checked_name(name, kind)
    for limit in ("rpm", "tpm", "concurrency"):
        if (value := getattr(key, limit)) is not None and not 0 < value < 2**31:
            raise BadInput(f"{limit} cannot be {value}: give a positive whole number")
    for data_class in key.data_classes or ():
        if data_class not in DATA_CLASSES:
            classes = ", ".join(DATA_CLASSES)
            raise BadInput(f"there is no data class '{data_class[:80]}': name some of {classes}")


def _row(key: Key) -> dict[str, Any]:
    names = [item.name for item in fields(Key) if item.name != "budgets"]
    return {name: _plain(getattr(key, name)) for name in names}


def _plain(value: object) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_members(kind: str, names: Sequence[str] | None, existing: Sequence[str]) -> None:
    """Raises BadInput if a key would allow an expert or a policy that does not exist."""
    for name in names or ():
        if name not in existing:
            listed = ", ".join(existing)
            raise BadInput(f"there is no {kind} '{name[:80]}' in the config: name some of {listed}")
