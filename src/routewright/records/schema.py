"""The tables of the store, in SQLAlchemy Core.

Times are seconds since 1970 (UTC), money is US$. `migrations/` makes these tables; a test compares
the two.
"""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

JSON = sqlalchemy.JSON(none_as_null=True)

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s", "pk": "pk_%(table_name)s"}
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),  # the public part of the key
    Column("name", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False),  # SHA-256 of the secret part, which has 256 random bits
    Column("old_hash", Text),  # of the secret before the last rotation, valid until `old_until`
    Column("old_until", Double),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("admin", Boolean, nullable=False, default=False),
    Column("owner", Text),
    Column("team", Text),
    Column("tags", JSON),  # list of texts
    Column("experts", JSON),  # list of names; null: all
    Column("policies", JSON),
    Column("data_classes", JSON),
    Column("rpm", Integer),  # requests per minute
    Column("tpm", Integer),  # tokens per minute
    Column("concurrency", Integer),  # requests at once
)

# The budgets of accounts: `key:ID`, `team:NAME`, `owner:NAME`.
budgets = Table(
    "budgets",
    metadata,
    Column("account", Text, primary_key=True),
    Column("day", Double),  # US$ per day; null: no limit
    Column("month", Double),
)

# What accounts have spent in a day (2026-11-30), a month (2026-11), or ever ("").
balances = Table(
    "balances",
    metadata,
    Column("account", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("usd", Double, nullable=False),
    Column("unsure_usd", Double, nullable=False, default=0.0),  # see replicas.recover
    Column("requests", BigInteger, nullable=False, default=0),
)

# The upper bounds of asks in progress, a row per account that pays.
reservations = Table(
    "reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("replica", Text, nullable=False),
    Column("usd", Double, nullable=False),
    Index(None, "account"),
)

# Requests and tokens of keys by minute (since 1970), for their limits.
minutes = Table(
    "minutes",
    metadata,
    Column("account", Text, primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("requests", Integer, nullable=False, default=0),
    Column("tokens", BigInteger, nullable=False, default=0),
)

# Requests in progress of keys with a limit on them.
running = Table(
    "running",
    metadata,
    Column("id", Text, primary_key=True),  # of the decision
    Column("account", Text, nullable=False),
    Column("replica", Text, nullable=False),
    Index(None, "account"),
)

# The gateways on this store; one that was not seen for long is dead.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen_at", Double, nullable=False),
)

# Every ask that has ended: what it cost, and who pays. `spend` sums these rows.
asks = Table(
    "asks",
    metadata,
    Column("decision", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("replica", Text, nullable=False),
    Column("key", Text),  # its name
    Column("owner", Text),
    Column("team", Text),
    Column("policy", Text),
    Column("expert", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("usd", Double, nullable=False),
    Column("estimated", Boolean, nullable=False, default=False),
    Column("input_tokens", BigInteger, nullable=False, default=0),
    Column("cached_tokens", BigInteger, nullable=False, default=0),
    Column("output_tokens", BigInteger, nullable=False, default=0),
    Column("seconds", Double),
    Index(None, "at"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("replica", Text, nullable=False),
    Column("request_id", Text),
    Column("key", Text),  # its name
    Column("owner", Text),
    Column("team", Text),
    Column("session", Text),
    Column("policy", Text),
    Column("router", Text),  # its version
    Column("expert", Text),  # whose answer the client got
    Column("status", Text, nullable=False),
    Column("stream", Boolean),
    Column("path", Text),
    Column("because", Text),
    Column("usd", Double, nullable=False),
    Column("estimated_usd", Double),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("seconds", Double),
    Column("overhead_seconds", Double),
    Column("data_class", Text),
    Column("domain", Text),
    Column("tags", JSON),
    Column("unlike", Text),
    Column("trust", Double),  # familiarity of the query, 0..1
    Column("lambda", Double),
    # For each expert: predicted quality, cost, latency, propensity, or the reason of its rejection.
    Column("experts", JSON),
    Column("messages", JSON),  # null unless `records.prompts` keeps them
    Column("answer", Text),
    Index(None, "at"),
    Index(None, "key"),
)

scores = Table(
    "scores",
    metadata,
    Column("decision", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("key", Text),
    Column("score", Double, nullable=False),  # 0..1
)

# The conversations of clients, by a hash of the session's name or of its beginning.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),  # of the last request
    Column("state", JSON, nullable=False),  # see gateway/sessions.py; no text of a client
    Index(None, "at"),
)

# Small states that replicas share: paced policies, experts that are skipped, the version of keys.
states = Table(
    "states",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", JSON, nullable=False),
    Column("at", Double, nullable=False),
)

# Responses that later requests may continue (`previous_response_id`). A chain lives as long as its
# newest response.
responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),  # who alone may read it; "": no key was needed
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("previous", Text),  # the id of the response that it continues
    Column("data_class", Text, nullable=False),
    Column("region", Text),
    Column("session", Text),
    Column("expert", Text, nullable=False),  # that made its output
    Column("size", BigInteger, nullable=False),  # bytes of its items
    Column("input", JSON, nullable=False),  # its own items, without those that it continues
    Column("output", JSON, nullable=False),
    Column("response", JSON, nullable=False),  # the response without its output
    Index(None, "expires_at"),
)

# In which response an item stands, for requests that refer to it.
response_items = Table(
    "response_items",
    metadata,
    Column("id", Text, primary_key=True),
    Column("response", Text, primary_key=True),
    Index(None, "response"),
)
