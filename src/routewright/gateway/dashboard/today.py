"""The first page: what is going on, what it costs, and what it would have cost."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from routewright.gateway import forecasts
from routewright.gateway.dashboard.reading import PERIODS, period_of, reading
from routewright.gateway.dashboard.signins import Viewer
from routewright.gateway.dashboard.site import page
from routewright.gateway.services import Services
from routewright.records import decisions, overview
from routewright.records.overview import Filter, Owners, Totals
from routewright.types import Expert

HOUR, DAY = 3600, 86400
LATEST = 8  # decisions on the first page


@dataclass(frozen=True)
class Counterfactual:
    """What the same tokens would have cost at the prices of the most expensive expert, in US$."""

    expert: str
    usd: float
    saved: float  # of it; negative where routing cost more


async def today(request: Request) -> Response:
    """Shows the requests of a period: live, spend, quality, latency, errors and budgets."""
    services: Services = request.state.services
    viewer: Viewer = request.state.viewer
    seconds, name = period_of(request, "24h")
    now = time.time()
    allowed = viewer.key.experts if viewer.key and not viewer.admin else None
    experts = [e for e in services.experts.values() if allowed is None or e.name in allowed]

    def read(connection: Connection) -> dict[str, Any]:
        keys = [viewer.key] if viewer.key and not viewer.admin else services.records.keys.values()
        budgets = [] if viewer.owners == (None,) else keys
        own = viewer.owners is not None
        totals = overview.totals(connection, now - seconds, viewer.owners)
        return {
            "totals": totals,
            "failures": overview.failures(connection, now - seconds, viewer.owners),
            "budgets": forecasts.of_budgets(connection, budgets, now, own),
            "month": None if own else forecasts.of_month(connection, now),
            "series": _series(connection, now, seconds, viewer.owners),
            "dearest": counterfactual(experts, totals),
        }

    values = await reading(request, read)
    live_values = await _live_values(request)
    empty = {"totals": None}
    return await page(
        request,
        "today.html",
        seconds=seconds,
        since=name,
        periods=PERIODS,
        **(values or empty),
        **live_values,
    )


async def live(request: Request) -> Response:
    """Shows the part of the first page that changes all the time."""
    return await page(request, "live.html", **await _live_values(request))


async def _live_values(request: Request) -> dict[str, Any]:
    services: Services = request.state.services
    owners = request.state.viewer.owners

    def read(connection: Connection) -> list[dict[str, Any]]:
        return overview.decisions(connection, Filter(0.0, owners), None, LATEST)

    own = services.slots
    others = await request.app.state.lifecycle.team.gather("slots")
    slots = [(own.in_progress, own.waiting, own.running), *others]
    in_progress, waiting, most = (sum(column) for column in zip(*slots, strict=True))
    return {
        "latest": await reading(request, read) or [],
        "in_progress": in_progress,
        "waiting": waiting,
        "most": most,
        "skipped": services.breaker.skipped(),
        "store_is_down": services.records.store is not None and not services.records.state.is_up,
    }


def counterfactual(experts: Iterable[Expert], totals: Totals) -> Counterfactual | None:
    """What always asking the most expensive expert would have cost; None without prices."""
    costs = {e.name: e.price(totals.input_tokens, totals.output_tokens) for e in experts}
    name = max(costs, key=lambda name: costs[name], default=None)
    if name is None or not costs[name] > 0:
        return None
    return Counterfactual(name, costs[name], costs[name] - totals.answered_usd)


def _series(connection: Connection, now: float, seconds: float, owners: Owners) -> dict[str, Any]:
    """Requests and US$ by hour, or by day (UTC) where the period is long, as lists of one length;
    `json` holds the same for the script."""
    step = HOUR if seconds <= 2 * DAY else DAY
    first = (math.floor(now / step) - math.floor(seconds / step) + 1) * step
    histories = decisions.hours(connection, first, None if owners is None else "key")
    hours = [hour for owner in (owners or (None,)) for hour in histories.get(owner, [])]
    requests: defaultdict[int, int] = defaultdict(int)
    usd: defaultdict[int, float] = defaultdict(float)
    for at, number, cost in hours:
        begin = math.floor(at / step) * step
        requests[begin] += number
        usd[begin] += cost
    times = list(range(first, math.floor(now) + 1, step))
    columns = [times, [requests[at] for at in times], [usd[at] for at in times]]
    rows = [row for row in zip(*columns, strict=True) if row[1]]
    unit = "hour" if step == HOUR else "day (UTC)"
    return {"unit": unit, "rows": rows, "json": json.dumps(columns)}
