"""The experts: health, latency, share, spend, and whether their forecasts hold."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from routewright.gateway.dashboard.reading import PERIODS, period_of, reading
from routewright.gateway.dashboard.signins import Viewer
from routewright.gateway.dashboard.site import page
from routewright.gateway.services import Services
from routewright.records import overview

MOST = 5000  # scored decisions that are read
BINS = 5
FEW = 20  # scored decisions of an expert, below which nothing is said about its forecasts
Z = 1.96


class Bin(NamedTuple):
    """Scored answers of similar forecasts: their mean forecast, mean score, and number."""

    forecast: float
    score: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """Forecast against score, both 0..1, of the answers of one expert."""

    n: int
    forecast: float
    score: float
    margin: float  # of the mean score, 95 %
    bins: tuple[Bin, ...]

    @property
    def is_known(self) -> bool:
        return self.n >= FEW

    @property
    def holds(self) -> bool:
        return abs(self.forecast - self.score) <= self.margin


async def experts(request: Request) -> Response:
    """Shows every expert of the config, and those that the records name beside them."""
    services: Services = request.state.services
    viewer: Viewer = request.state.viewer
    seconds, name = period_of(request, "7d")
    since = time.time() - seconds

    def read(connection: Connection) -> dict[str, Any]:
        scored = overview.scored(connection, since, viewer.owners, MOST)
        rows = overview.experts(connection, since, viewer.owners)
        return {"rows": rows, "calibration": calibration(scored)}

    values = await reading(request, read)
    allowed = viewer.key.experts if viewer.key and not viewer.admin else None
    shown = [e for n, e in services.experts.items() if allowed is None or n in allowed]
    used = values["rows"] if values else {}
    return await page(
        request,
        "experts.html",
        since=name,
        periods=PERIODS,
        seconds=seconds,
        experts=shown,
        former=sorted(used.keys() - services.experts.keys()) if viewer.owners is None else [],
        health=health(services),
        answers=sum(row.get("answers", 0) for row in used.values()),
        usd=math.fsum(row["usd"] for row in used.values()),
        values=values,
    )


def health(services: Services) -> Mapping[str, tuple[str, str]]:
    """For each expert whether it is asked at the moment, in a word, and its tone."""
    servers = {name: server.state for name, server in services.client.servers.items()}
    words = dict.fromkeys(services.experts, ("available", "good"))
    for name, state in servers.items():
        words[name] = (f"server {state}", "good" if state in ("running", "stopped") else "open")
    for name in services.windows.over():
        words[name] = ("window used up", "open")
    for name in services.breaker.skipped():
        words[name] = ("skipped after repeated failures", "bad")
    return words


def calibration(
    rows: Iterable[tuple[str, float, Sequence[Mapping[str, Any]]]],
) -> dict[str, Calibration]:
    """Forecast against score for each expert, from its scored answers."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for expert, score, forecasts in rows:
        for forecast in forecasts:
            if forecast.get("name") == expert and forecast.get("quality") is not None:
                pairs.setdefault(expert, []).append((forecast["quality"], score))
    return {expert: _calibration(sorted(found)) for expert, found in pairs.items()}


def _calibration(pairs: Sequence[tuple[float, float]]) -> Calibration:
    n = len(pairs)
    forecast, score = fmean(f for f, _ in pairs), fmean(s for _, s in pairs)
    variance = math.fsum((s - score) ** 2 for _, s in pairs) / max(n - 1, 1)
    edges = [n * place // BINS for place in range(BINS + 1)]
    parts = [pairs[a:b] for a, b in pairwise(edges) if b > a]
    bins = tuple(
        Bin(fmean(f for f, _ in part), fmean(s for _, s in part), len(part)) for part in parts
    )
    return Calibration(n, forecast, score, Z * math.sqrt(variance / n), bins)
