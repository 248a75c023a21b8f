"""`routewright calibrate`: from a target in the user's units to an operating point."""

from __future__ import annotations

import json as json_module
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.router.frontier import OperatingPoint
    from routewright.router.router import Router


def calibrate(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    max_cost: Annotated[
        str | None, typer.Option(help="US$ per query, on average: 0.0003, or 0.30/1000.")
    ] = None,
    max_cost_fraction: Annotated[
        str | None, typer.Option(help="Of always asking the dearest expert: 0.5, or 50%.")
    ] = None,
    min_quality: Annotated[
        str | None, typer.Option(help="Mean score to reach: 0.8, or '95% of EXPERT'.")
    ] = None,
    max_share: Annotated[
        str | None, typer.Option(help="Of the queries that ask the dearest expert: 0.2, or 20%.")
    ] = None,
    json: Annotated[bool, typer.Option(help="Print the point as JSON.")] = False,
) -> None:
    """Find the operating point for a budget, a quality or a share."""
    from routewright.router.router import Router, finite

    goals = {
        "--max-cost": max_cost,
        "--max-cost-fraction": max_cost_fraction,
        "--min-quality": min_quality,
        "--max-share": max_share,
    }
    given = {name: text for name, text in goals.items() if text is not None}
    if len(given) != 1:
        raise BadInput(f"give exactly one of {', '.join(goals)}")
    loaded = Router.load(router)
    point = find_point(loaded, *next(iter(given.items())))
    if json:
        named = {"lambda": point.price, "strategy": point.strategy}
        typer.echo(json_module.dumps(finite({**named, **point.to_json()}), allow_nan=False))
    else:
        Console(soft_wrap=True, highlight=False).print(in_words(loaded, point), markup=False)


def find_point(router: Router, goal: str, text: str) -> OperatingPoint:
    """The operating point that a target asks for; raises BadInput saying what can be reached."""
    from routewright.router import targets

    if goal == "--max-cost":
        return router.at(max_cost=targets.dollars(text))
    if goal == "--max-cost-fraction":
        return router.at(max_cost_fraction=targets.share(text, "cost fraction", math.inf))
    if goal == "--min-quality":
        return router.at(min_quality=targets.quality(text, known(router, "quality")))
    return targets.within_share(router.frontier, dearest(router), targets.share(text))


def known(router: Router, fact: str) -> dict[str, float]:
    """Quality or cost of every expert, from the router's card; NaN where it is silent."""
    facts = router.card.get("experts", {})
    numbers = {name: facts.get(name, {}).get(fact) for name in router.experts}
    return {name: math.nan if n is None else float(n) for name, n in numbers.items()}


def dearest(router: Router) -> str:
    """The expert with the highest mean cost; raises BadInput where no costs are known."""
    costs = {name: cost for name, cost in known(router, "cost").items() if math.isfinite(cost)}
    if not costs:
        raise BadInput("the router knows no costs, so no expert is its dearest")
    return max(costs, key=lambda name: costs[name])


def in_words(router: Router, point: OperatingPoint) -> str:
    """The operating point as sentences, interval and comparison included."""
    lines = [
        _cost(point),
        f"Its expected quality is {point.quality:.4f} {_between(point.quality_ci)}.",
    ]
    if shares := _shares(point):
        lines.append(shares)
    if math.isfinite(seconds := _seconds(router, point)):
        lines.append(f"Its expected latency is {seconds:.2f} s.")
    lines.append(_gain(point))
    lines.append(f"What it does: {point.plan}.")
    if best := _against_best(router, point):
        lines.insert(2, best)
    lines.append(f"Its price of quality: λ = {point.price:.6g} per US$.")
    return "\n".join(lines)


def _cost(point: OperatingPoint) -> str:
    if not math.isfinite(point.cost_fraction):
        return "The router knows no costs, so this point is judged by quality alone."
    return (
        f"This point has an expected cost of ${point.cost:.3g} per query,"
        f" ${1000 * point.cost:.3g} per 1,000,"
        f" {point.cost_fraction:.0%} of always asking the dearest expert."
    )


def _against_best(router: Router, point: OperatingPoint) -> str:
    qualities = {n: q for n, q in known(router, "quality").items() if q > 0}
    if not qualities:
        return ""
    best = max(qualities, key=lambda name: qualities[name])
    low, high = (end / qualities[best] for end in point.quality_ci)
    return (
        f"That is {point.quality / qualities[best]:.1%} (95 % interval {low:.1%} to {high:.1%})"
        f" of what {best} reaches, the best single expert ({qualities[best]:.4f})."
    )


def _shares(point: OperatingPoint) -> str:
    shares = sorted(point.shares.items(), key=lambda pair: -pair[1])
    asked = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
    return f"Who is asked: {asked}." if asked else ""


def _seconds(router: Router, point: OperatingPoint) -> float:
    """Mean seconds per query, by whom the point asks; NaN where somebody's are not known."""
    latency = dict(zip(router.experts, router.latency.tolist(), strict=False))
    asked = [share * latency.get(name, math.nan) for name, share in point.shares.items()]
    return sum(asked) if asked else math.nan


def _gain(point: OperatingPoint) -> str:
    if point.gain == 0 and point.gain_ci == (0.0, 0.0):
        return "Learning has not been shown to pay here, so fixed experts serve it."
    return (
        f"Over mixing fixed experts at the same cost: {point.gain:+.4f}"
        f" {_between(point.gain_ci, '+.4f')}."
    )


def _between(interval: tuple[float, float], form: str = ".4f") -> str:
    low, high = interval
    return f"(95 % interval {low:{form}} to {high:{form}})"
