"""What pages read: the store, and the parameters after the `?` of their addresses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from starlette.requests import Request

from routewright.gateway.errors import BadRequest
from routewright.records.store import Store

T = TypeVar("T")
PERIODS = {"24h": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}  # seconds


async def reading(request: Request, function: Callable[[Connection], T]) -> T | None:
    """What a function reads from the store, in a thread; None if nothing is kept, or if the store
    cannot be used at the moment."""
    store: Store | None = request.state.services.records.store
    if store is None or not request.state.services.records.state.is_up:
        return None

    def run() -> T:
        with store.explained(), store.read() as connection:
            return function(connection)

    return await asyncio.to_thread(run)


def period_of(request: Request, default: str) -> tuple[float, str]:
    """The seconds and the name of the period of an address, such as `?since=7d`."""
    name = request.query_params.get("since") or default
    if name not in PERIODS:
        raise BadRequest(f"since={name[:20]} is no period: use one of {', '.join(PERIODS)}")
    return PERIODS[name], name


def number_of(request: Request, name: str) -> float | None:
    """A number of an address; None if it is not given."""
    text = request.query_params.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e12:
        raise BadRequest(f"{name}={text[:20]} is no number: write one of 0 or more")
    return value
