"""The frontier: what each policy costs and how good it is, and what another point would be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from routewright.errors import BadInput, RoutewrightError
from routewright.gateway.admin import write_goal
from routewright.gateway.dashboard.keys import check_admin
from routewright.gateway.dashboard.picture import Chart, Dot, chart
from routewright.gateway.dashboard.reading import reading
from routewright.gateway.dashboard.signins import Viewer
from routewright.gateway.dashboard.site import page, to
from routewright.gateway.errors import BadRequest
from routewright.gateway.explain import explain
from routewright.gateway.permissions import check_policy
from routewright.gateway.policies import Policy
from routewright.gateway.services import Services
from routewright.policies import zero_router
from routewright.records import overview
from routewright.router.explanation import first_experts
from routewright.router.frontier import OperatingPoint
from routewright.router.goals import GOALS, alike, goal_of, reachable
from routewright.router.predicted import PredictedRouter
from routewright.types import Conversation, Prediction, Query

RECENT = 8  # decisions that serve as examples
LONGEST = 160  # characters of a prompt that are shown
MAX_QUESTION = 8000
MOST_ROUTERS = 32
POINTS: dict[str, Sequence[OperatingPoint]] = {}  # of routers, by their version


@dataclass(frozen=True)
class Example:
    """A recorded decision, and whom another point would have asked first."""

    id: str
    at: float
    text: str | None  # None: its prompt is not kept
    expert: str
    then: tuple[str, ...]


async def frontier(request: Request) -> Response:
    """Shows cost and quality of a router's points; the slider chooses one."""
    routed = await _routed(request)
    if not routed:
        return await page(request, "frontier.html", policy=None, policies=[])
    policy = _policy(request, routed, request.query_params.get("policy"))
    values = await _values(request, policy, request.query_params.get("point"))
    part = request.headers.get("hx-request") is not None
    return await page(
        request,
        "point.html" if part else "frontier.html",
        policies=list(routed),
        written=request.query_params.get("written") == "yes",
        **values,
    )


async def example(request: Request) -> Response:
    """Explains whom a point would ask about a question; nobody is asked."""
    fields, services = request.state.form, request.state.services
    policy = _policy(request, await _routed(request), fields.get("policy"))
    _, point = _place_of(services, policy, fields.get("point"))
    text = fields.get("question", "")[:MAX_QUESTION]
    if not text:
        return await page(
            request, "example.html", explanation=None, problem="Write a question first."
        )
    data_class = services.config.server.default_data_class
    query = Query.of(text, data_class=data_class)
    try:
        there = policy.at(point)
        explanation = await services.run(explain, there, query, services.experts)
    except RoutewrightError as error:
        return await page(request, "example.html", explanation=None, problem=f"{error}.")
    return await page(request, "example.html", explanation=explanation, problem="")


async def write(request: Request) -> Response:
    """Writes the goal that chooses a point into the config, and reads the config again."""
    check_admin(request)
    fields, services = request.state.form, request.state.services
    policy = _policy(request, await _routed(request), fields.get("policy"))
    place, point = _place_of(services, policy, fields.get("point"))
    goal = await services.run(_goal, services, policy, point)
    if goal is None:
        raise BadRequest("no goal of a policy in routewright.yaml chooses this point")
    await write_goal(request, policy.name, *goal)
    return to(request, "/dashboard/frontier", policy=policy.name, point=str(place), written="yes")


# --- what is shown ------------------------------------------------------------------------------


async def _routed(request: Request) -> dict[str, Policy]:
    """The policies with a router that the viewer may request, by name."""
    services: Services = request.state.services
    viewer: Viewer = request.state.viewer
    found = {}
    for name, policy in services.policies.by_name.items():
        try:
            check_policy(policy, None if viewer.admin else viewer.key)
        except BadRequest:
            continue
        if policy.router is not None and await services.run(points_of, policy):
            found[name] = policy
    return found


def _policy(request: Request, routed: Mapping[str, Policy], name: str | None) -> Policy:
    default = request.state.services.policies.default
    if name is None and routed:
        return routed.get(default) or next(iter(routed.values()))
    if name is None or name not in routed:
        listed = ", ".join(routed) or "none"
        raise BadRequest(f"no policy '{(name or '')[:60]}' has a frontier: {listed}", status=404)
    return routed[name]


def points_of(policy: Policy) -> Sequence[OperatingPoint]:
    """The points that the slider offers; it takes a tenth of a second once for each router."""
    assert policy.router is not None
    name = policy.version or ""
    if name not in POINTS:
        while len(POINTS) >= MOST_ROUTERS:
            del POINTS[next(iter(POINTS))]
        POINTS[name] = reachable(policy.router)
    return POINTS[name]


def own_point(services: Services, policy: Policy) -> OperatingPoint | None:
    """The point that a policy serves: that of its goal, or the nearest to its λ; None for one
    whose strategy has neither."""
    if policy.point is not None or policy.router is None or not policy.router.frontier:
        return policy.point
    config = services.config.policies[policy.name]
    if config.price is None and config.strategy not in ("auto", "single"):
        return None
    return policy.router.nearest(config.price or 0.0)


def _place_of(services: Services, policy: Policy, place: str | None) -> tuple[int, OperatingPoint]:
    """The place and the point that an address names; by default the nearest to the policy's own."""
    assert policy.router is not None
    points = points_of(policy)
    if place:
        if not place.isascii() or not place.isdecimal() or not int(place[:6]) < len(points):
            raise BadRequest(f"point={place[:20]} is no point: there are {len(points)}")
        return int(place), points[int(place)]
    own = own_point(services, policy) or policy.router.nearest(0.0)
    nearest = min(range(len(points)), key=lambda i: abs(points[i].cost - own.cost))
    return nearest, points[nearest]


async def _values(request: Request, policy: Policy, place: str | None) -> dict[str, Any]:
    services: Services = request.state.services
    number, point = _place_of(services, policy, place)
    facts = await services.run(_facts, services, policy, point)
    return {
        **facts,
        "place": number,
        "examples": await _examples(request, policy, point),
        "can_write": request.state.viewer.admin and facts["goal"] and services.config.file,
    }


def _facts(services: Services, policy: Policy, point: OperatingPoint) -> dict[str, Any]:
    """What the page shows of a point; takes some milliseconds."""
    assert policy.router is not None
    own = own_point(services, policy) or policy.router.nearest(0.0)
    points = points_of(policy)
    charts = [_chart(services, policy, points, point, width) for width in (1080, 350)]
    goal = _goal(services, policy, point)
    config = services.config.file
    return {
        "policy": policy,
        "points": points,
        "point": point,
        "own": own,
        "charts": charts,
        "shares": sorted(point.shares.items(), key=lambda item: -item[1]),
        "goal": goal,
        "yaml": _yaml(policy, goal) if goal else "",
        "file": config.name if config else "routewright.yaml",
        "is_own": alike(point, own),
        "unproven": policy.router.card.get("unproven"),
    }


def _goal(services: Services, policy: Policy, point: OperatingPoint) -> tuple[str, float] | None:
    """The goal that chooses a point, of the kind that the policy has now."""
    assert policy.router is not None
    config = services.config.policies[policy.name]
    kind = next((key for key in GOALS if getattr(config, key) is not None), GOALS[0])
    return goal_of(policy.router, point, kind)


def _yaml(policy: Policy, goal: tuple[str, float]) -> str:
    key, value = goal
    return f"policies:\n  {json.dumps(policy.name)}:\n    {key}: {value!r}"


def _chart(
    services: Services,
    policy: Policy,
    points: Sequence[OperatingPoint],
    point: OperatingPoint,
    width: int,
) -> Chart:
    router = policy.router
    assert router is not None
    means = dict(zip(router.experts, router.mean.tolist(), strict=True))
    costs = dict(zip(router.experts, router.average_cost.tolist(), strict=True))
    experts = [Dot(name, costs[name], means[name]) for name in router.experts]
    hull = zero_router(router.mean, router.average_cost)
    own = [
        Dot(name, there.cost, there.quality)
        for name, other in services.policies.by_name.items()
        if other.version == policy.version and (there := own_point(services, other)) is not None
    ]
    return chart(
        experts=[dot for dot in experts if dot.is_known],
        policies=own,
        mixes=[(vertex.cost, vertex.quality) for vertex in hull],
        curve=[(p.cost, p.quality, *p.quality_ci) for p in points],
        chosen=(point.cost, point.quality, *point.quality_ci),
        width=width,
    )


# --- examples -----------------------------------------------------------------------------------


async def _examples(request: Request, policy: Policy, point: OperatingPoint) -> list[Example]:
    """Recent decisions of a policy, decided again at a point by what was forecast then."""
    services: Services = request.state.services
    owners = request.state.viewer.owners
    rows = await reading(request, lambda c: overview.with_forecasts(c, policy.name, owners, RECENT))
    found: list[Example] = await services.run(_again, policy, point, rows or [])
    return found


def _again(
    policy: Policy, point: OperatingPoint, rows: Sequence[Mapping[str, Any]]
) -> list[Example]:
    examples = []
    for row in rows:
        try:
            then = _first(policy, point, row)
        except RoutewrightError:  # its limits or forecasts allow no decision at this point
            continue
        examples.append(Example(row["id"], row["at"], _text(row), row["expert"], then))
    return examples


def _first(policy: Policy, point: OperatingPoint, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Whom a point asks first, by the forecasts of a record."""
    assert policy.router is not None
    names = policy.router.experts
    forecasts = {forecast["name"]: forecast for forecast in row["experts"]}
    quality, spread, cost, latency = (
        np.array([[_number(forecasts.get(name, {}).get(column)) for name in names]])
        for column in ("quality", "spread", "cost", "latency")
    )
    trust = None if row["trust"] is None else np.array([row["trust"]])
    query = Query.of("", conversation=Conversation(id=row["id"]))
    prediction = Prediction(names, quality, spread, cost, latency, trust)
    if not np.isfinite(prediction.quality).any():
        raise BadInput("the record has no forecasts")
    router = PredictedRouter.of(policy.router, [query], prediction)
    return first_experts(router.strategy_at(point), query)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _text(row: Mapping[str, Any]) -> str | None:
    """The last question of a record, cut; None if its texts are not kept."""
    for message in reversed(row["messages"] or []):
        if message.get("role") == "user" and message.get("content"):
            text = " ".join(str(message["content"]).split())
            return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return None
