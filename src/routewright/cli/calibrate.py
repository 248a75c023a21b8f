"""`routewright calibrate`: finds the operating point for a target in the user's units."""

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
        str | None, typer.Option(help="Mean US$ per query: 0.0003, or 0.30/1000.")
    ] = None,
    max_cost_fraction: Annotated[
        str | None,
        typer.Option(
            help="Share of the cost of always asking the most expensive expert: 0.5, or 50%."
        ),
    ] = None,
    min_quality: Annotated[
        str | None, typer.Option(help="Mean score to reach: 0.8, or '95% of EXPERT'.")
    ] = None,
    max_share: Annotated[
        str | None,
        typer.Option(help="Share of queries that go to the most expensive expert: 0.2, or 20%."),
    ] = None,
    json: Annotated[bool, typer.Option(help="Print the point as JSON.")] = False,
) -> None:
    """Find the operating point for a budget, a quality or a share."""
    from routewright.router.router import Router, finite

    options = {
        "--max-cost": max_cost,
        "--max-cost-fraction": max_cost_fraction,
        "--min-quality": min_quality,
        "--max-share": max_share,
    }
    chosen = {name: text for name, text in options.items() if text is not None}
    if len(chosen) != 1:
        raise BadInput(f"give exactly one of {', '.join(options)}")
    loaded = Router.load(router)
    ((option, text),) = chosen.items()
    point = find_point(loaded, option, text)
    if json:
        fields = {"lambda": point.price, "strategy": point.strategy}
        typer.echo(json_module.dumps(finite({**fields, **point.to_json()}), allow_nan=False))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(in_words(loaded, point), markup=False)
    if line := policy_line(loaded, router, point, option, text):
        console.print(
            "Put this under `policies:` in routewright.yaml, in place of the policy that you have"
            " (paths count from the folder of routewright.yaml):"
        )
        console.print(f"  {line}", markup=False)
    else:
        console.print("No goal of a policy in routewright.yaml chooses this point.")


def find_point(router: Router, target: str, text: str) -> OperatingPoint:
    """The operating point for a target. Raises BadInput, with the reachable range, if none fits."""
    from routewright.router import targets

    if goal := _goal(router, target, text):
        return router.within(**goal)
    return targets.within_share(router.frontier, most_expensive(router), targets.share(text))


def _goal(router: Router, target: str, text: str) -> dict[str, float]:
    """The target as a policy's key of the config; empty for `--max-share`, which has no key."""
    from routewright.router import targets

    if target == "--max-cost":
        return {"max_cost": targets.dollars(text)}
    if target == "--max-cost-fraction":
        return {"max_cost_fraction": targets.cost_fraction(text)}
    if target == "--min-quality":
        return {"min_quality": targets.quality(text, expert_facts(router, "quality"))}
    return {}


def policy_line(
    router: Router, folder: Path, point: OperatingPoint, target: str, text: str
) -> str | None:
    """The policy of a config that serves the operating point, as a line of YAML; None if no goal of
    a policy chooses it.

    The best single expert is its fallback. A target that the config cannot state, a share of an
    expert, becomes a goal that chooses the same point.
    """
    from routewright.router.goals import chosen

    facts = {"max_cost": point.cost, "min_quality": point.quality}
    goals = [*_goal(router, target, text).items()]
    goals += [(key, float(f"{value:.4g}")) for key, value in facts.items()]
    for key, value in [*goals, *facts.items()]:
        if chosen(router, key, value) == point:
            path, fallback = (
                json_module.dumps(name, ensure_ascii=False) for name in (str(folder), best(router))
            )
            goal = f"{key}: {value!r}"
            return f"default: {{strategy: auto, router: {path}, {goal}, fallback: [{fallback}]}}"
    return None


def best(router: Router) -> str:
    """The best single expert, which a policy may fall back on."""
    means = dict(zip(router.experts, router.mean.tolist(), strict=True))
    return max(means, key=lambda name: -math.inf if math.isnan(means[name]) else means[name])


def expert_facts(router: Router, fact: str) -> dict[str, float]:
    """Quality or cost (US$ per query) of every expert, from the router's card; NaN if unknown."""
    facts = router.card.get("experts", {})
    numbers = {name: facts.get(name, {}).get(fact) for name in router.experts}
    return {name: math.nan if n is None else float(n) for name, n in numbers.items()}


def most_expensive(router: Router) -> str:
    """The expert with the highest mean cost. Raises BadInput if the router has no costs."""
    costs = {n: cost for n, cost in expert_facts(router, "cost").items() if math.isfinite(cost)}
    if not costs:
        raise BadInput(
            "the router has no costs, so no expert is the most expensive one: fit it on a table"
            " with costs"
        )
    return max(costs, key=lambda name: costs[name])


def in_words(router: Router, point: OperatingPoint) -> str:
    """The operating point in sentences, with interval and comparison."""
    lines = [
        _cost(point),
        f"Its expected quality is {100 * point.quality:.1f} % {_between(point.quality_ci)}.",
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
        return "The router has no costs, so only the quality of this point is known."
    return (
        f"This point has an expected cost of US${1000 * point.cost:.3g} per 1,000 queries,"
        f" {100 * point.cost_fraction:.0f} % of always asking the most expensive expert."
    )


def _against_best(router: Router, point: OperatingPoint) -> str:
    qualities = {n: q for n, q in expert_facts(router, "quality").items() if q > 0}
    if not qualities:
        return ""
    best = max(qualities, key=lambda name: qualities[name])
    low, high = (end / qualities[best] for end in point.quality_ci)
    return (
        f"That is {100 * point.quality / qualities[best]:.1f} % (95 % interval {100 * low:.1f} to"
        f" {100 * high:.1f} %) of the quality of {best}, the best single expert"
        f" ({100 * qualities[best]:.1f} %)."
    )


def _shares(point: OperatingPoint) -> str:
    shares = sorted(point.shares.items(), key=lambda pair: -pair[1])
    experts = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= 0.005)
    return f"Experts asked: {experts}." if experts else ""


def _seconds(router: Router, point: OperatingPoint) -> float:
    """Mean seconds per query of the experts that the point asks; NaN if any is unknown."""
    latency = dict(zip(router.experts, router.latency.tolist(), strict=False))
    asked = [share * latency.get(name, math.nan) for name, share in point.shares.items()]
    return sum(asked) if asked else math.nan


def _gain(point: OperatingPoint) -> str:
    if point.gain == 0 and point.gain_ci == (0.0, 0.0):
        return "A learned choice was not shown to pay here, so fixed experts serve this point."
    return (
        f"Its gain over a fixed mix at the same cost is {100 * point.gain:+.1f} percentage points"
        f" {_between(point.gain_ci, '+.1f')}."
    )


def _between(interval: tuple[float, float], form: str = ".1f") -> str:
    low, high = (100 * end for end in interval)
    return f"(95 % interval {low:{form}} to {high:{form}})"
