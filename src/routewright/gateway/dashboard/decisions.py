"""The decisions: a list that filters, and one decision with everything that is recorded of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from routewright.gateway.dashboard.reading import PERIODS, number_of, period_of, reading
from routewright.gateway.dashboard.signins import Viewer, is_open
from routewright.gateway.dashboard.site import page, to
from routewright.gateway.errors import BadRequest
from routewright.records import overview
from routewright.records.overview import COLUMNS, Filter, Place

PAGE = 50  # decisions of one page
NOBODY = "-"  # in an address: the decisions without a key
TITLES = {"key": "Key", "policy": "Policy", "expert": "Expert", "status": "Status"}


async def decisions(request: Request) -> Response:
    """Lists decisions, newest first, by the filter in the address."""
    viewer: Viewer = request.state.viewer
    seconds, name = period_of(request, "24h")
    since, before = time.time() - seconds, _place(request)
    found = _filter(request, since, viewer)

    def read(connection: Connection) -> dict[str, Any]:
        rows = overview.decisions(connection, found, before, PAGE + 1)
        options = {
            column: overview.names(connection, column, since, viewer.owners) for column in COLUMNS
        }
        number = overview.number(connection, found)
        return {"rows": rows[:PAGE], "more": rows[PAGE:], "options": options, "number": number}

    values = await reading(request, read)
    arguments = {k: v for k, v in request.query_params.items() if v and k != "before"}
    if values and values["more"]:
        last = values["rows"][-1]
        arguments = {**arguments, "before": f"{last['at']!r}_{last['id']}"}
    return await page(
        request,
        "decisions.html",
        since=name,
        periods=PERIODS,
        titles={k: v for k, v in TITLES.items() if k != "key" or viewer.owners is None},
        chosen=request.query_params,
        nobody=NOBODY,
        is_filtered=any(request.query_params.get(k) for k in (*COLUMNS, "unlike", *LIMITS)),
        is_first=before is None,
        next=urlencode(arguments),
        values=values,
    )


LIMITS = ("min_usd", "min_seconds")


def _filter(request: Request, since: float, viewer: Viewer) -> Filter:
    key, policy, expert, status = (request.query_params.get(name) or None for name in COLUMNS)
    return Filter(
        since,
        viewer.owners,
        key="" if key == NOBODY else key,
        policy=policy,
        expert=expert,
        status=status,
        unlike=request.query_params.get("unlike") == "yes",
        min_usd=number_of(request, "min_usd"),
        min_seconds=number_of(request, "min_seconds"),
    )


def _place(request: Request) -> Place | None:
    """The place after which a page begins, from its address."""
    text = request.query_params.get("before")
    if not text:
        return None
    at, _, name = text.partition("_")
    try:
        return float(at), name
    except ValueError:
        raise BadRequest("before= names no place in the list: go to its first page") from None


async def decision(request: Request) -> Response:
    """Shows one decision: why, what was forecast, who was rejected, and what it cost."""
    viewer: Viewer = request.state.viewer
    name = request.path_params["id"]
    row = await reading(request, lambda c: overview.decision(c, name, viewer.owners))
    if row is None:
        raise HTTPException(404)
    return await page(
        request,
        "decision.html",
        row=row,
        forecasts=_forecasts(row),
        may_score=may_score(request, row),
        how=request.state.services.config.server.records.of(row["data_class"] or "public"),
    )


def _forecasts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was recorded of every expert; names that are absent are None."""
    names = ("quality", "spread", "cost", "latency", "propensity", "reason")
    found = [dict.fromkeys(names) | expert for expert in row["experts"] or []]
    return sorted(found, key=lambda e: (e["reason"] is not None, -(e["quality"] or 0), e["name"]))


def may_score(request: Request, row: Mapping[str, Any]) -> bool:
    """Whether the API would let this viewer score a decision: with the key that asked, or if no
    key is needed."""
    viewer: Viewer = request.state.viewer
    key = viewer.key.name if viewer.key else None
    is_own = row["key"] == key or is_open(request.state.services)
    return is_own and row["expert"] is not None and row["score"] is None


async def score(request: Request) -> Response:
    """Scores a decision, as `/v1/feedback` does."""
    viewer: Viewer = request.state.viewer
    records, name = request.state.services.records, request.path_params["id"]
    scores = {"good": 1.0, "bad": 0.0}
    value = scores.get(request.state.form.get("score", ""))
    if value is None or records.store is None:
        raise BadRequest("send the score of a decision that is kept: good or bad")
    await asyncio.to_thread(records.score, name, value, viewer.key.name if viewer.key else None)
    return to(request, f"/dashboard/decisions/{name}")
