"""What the commands about the store share: how it is opened, and the values that they take."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.config import Config
    from routewright.records.keys import Budget
    from routewright.records.store import Store

CONFIG = Path("routewright.yaml")
LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(s|m|h|d|w)", re.ASCII)
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}  # seconds
LONGEST = 100 * 365 * 86400.0  # seconds
AMOUNT = re.compile(r"\$?(-?\d{1,15}(?:\.\d{1,12})?)(?:/(\w{1,20}))?", re.ASCII)

ConfigFile = Annotated[Path, typer.Option(help="The config whose store to use.")]
Since = Annotated[
    str, typer.Option(help="How far back to look: a number and s, m, h, d or w, as in 7d.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def opened(config: Config) -> Iterator[Store]:
    """The store of a config, which is made if there is none yet. Raises BadInput."""
    store = _store(config)
    try:
        store.prepare()
        with store.explained():
            yield store
    finally:
        store.close()


@contextmanager
def existing(config: Config) -> Iterator[Store | None]:
    """The store of a config, or None if nothing was recorded yet. Raises BadInput."""
    if not file_exists(config):
        yield None
        return
    store = _store(config)
    try:
        with store.explained():
            is_empty = store.revision() is None
        if is_empty:
            yield None
            return
        store.prepare()
        with store.explained():
            yield store
    finally:
        store.close()


def file_exists(config: Config) -> bool:
    """Whether the file of the store is there; also true for a database without a file."""
    from routewright.records.store import parse

    url = parse(url_of(config), config.folder)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


def _store(config: Config) -> Store:
    from routewright.records.store import Store

    return Store(url_of(config), config.folder)


def url_of(config: Config) -> str:
    """The URL of the store. Raises BadInput if the config keeps nothing."""
    if config.store_url is None:
        raise BadInput(
            "this config keeps nothing (`store: none`): remove `server.store`, or name a database,"
            " and start the gateway again"
        )
    return config.store_url


def nothing(config: Config) -> BadInput:
    """The error for a command that needs records where there are none."""
    return BadInput(
        f"nothing was recorded yet in the store of {_quoted(config)}: `routewright serve` and"
        " `routewright keys create` make it"
    )


def say_nothing(config: Config) -> None:
    typer.echo(
        f"Nothing was recorded yet: the store of {_quoted(config)} is made by `routewright serve`"
        " and `routewright keys create`."
    )


def _quoted(config: Config) -> str:
    return f"'{config.folder.absolute().name}'"


# --- values ------------------------------------------------------------------------------------


def seconds(text: str, option: str) -> float:
    """The length of time that a text such as `7d` or `90m` names.

    >>> seconds("1.5h", "--since")
    5400.0
    """
    match = LENGTH.fullmatch(text.strip())
    length = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 0 < length <= LONGEST:
        raise BadInput(
            f"{option} cannot be '{text[:40]}': give a length of time as a number and s, m, h, d or"
            " w, as in 90m or 7d"
        )
    return length


def budget(texts: Sequence[str], option: str = "--budget") -> Budget:
    """The budget that texts such as `5/day` and `100/month` give, in US$.

    >>> budget(["5/day", "$100/month"])
    Budget(day=5.0, month=100.0)
    """
    from routewright.records.keys import PERIODS, Budget

    limits: dict[str, float] = {}
    for text in texts:
        match = AMOUNT.fullmatch(text.strip())
        period = match[2] if match else None
        if match is None or period not in PERIODS:
            lacks = "has no period" if match and period is None else "cannot be read"
            raise BadInput(
                f"{option} '{text[:40]}' {lacks}: write US$ per day or month, as in 5/day or"
                " 100/month"
            )
        if (usd := float(match[1])) < 0:
            raise BadInput(f"{option} '{text[:40]}' is negative: give US$ of 0 or more")
        if period in limits:
            raise BadInput(f"{option} names two budgets per {period}: keep one of them")
        limits[period] = usd
    return Budget(**limits)


def names(text: str | None, option: str) -> tuple[str, ...] | None:
    """The names in a text, between commas; None if there is no text."""
    if text is None:
        return None
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise BadInput(f"{option} names nothing: leave it out to allow everything")
    return parts


def time_of(at: float | None) -> str | None:
    """A time (UTC) for a person or a program.

    >>> time_of(0.0)
    '1970-01-01T00:00:00Z'
    """
    if at is None:
        return None
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace(
        "+00:00", "Z"
    )


def minute_of(at: float | None) -> str:
    """A time (UTC) in a table: 2026-11-30 18:59:34."""
    if at is None:
        return ""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def dollars(usd: float | None) -> str:
    """US$ in a table, to the micro-dollar below one dollar.

    >>> dollars(12.3456), dollars(0.000123), dollars(0.0)
    ('12.35', '0.000123', '0')
    """
    if usd is None:
        return ""
    if usd == 0:
        return "0"
    return f"{usd:,.2f}" if usd >= 1 else f"{usd:.6f}"
