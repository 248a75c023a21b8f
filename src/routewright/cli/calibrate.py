"""`routewright calibrate`: from a target in the user's units to an operating point."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def calibrate(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    max_cost: Annotated[float | None, typer.Option(help="US$ per query, on average.")] = None,
    max_cost_fraction: Annotated[
        float | None, typer.Option(help="Share (0..1) of always asking the dearest expert.")
    ] = None,
    min_quality: Annotated[float | None, typer.Option(help="Mean score (0..1) to reach.")] = None,
    json: Annotated[bool, typer.Option(help="Print the point as JSON.")] = False,
) -> None:
    """Find the operating point for a budget or for a quality."""
    from routewright.router import Router

    point = Router.load(router).at(
        max_cost=max_cost, max_cost_fraction=max_cost_fraction, min_quality=min_quality
    )
    if json:
        typer.echo(json_module.dumps(point.to_json()))
        return
    console = Console(soft_wrap=True)
    low, high = point.quality_ci
    console.print(f"λ = {point.price:.6g} quality per US$")
    console.print(
        f"expected cost    ${point.cost:.3g} per query, ${1000 * point.cost:.3g} per 1,000"
        f" ({point.cost_fraction:.0%} of always asking the dearest)"
    )
    console.print(f"expected quality {point.quality:.4f} (95 % interval {low:.4f} to {high:.4f})")
    console.print(f"over fixed mix   {point.gain:+.4f}")
    console.print(f"plan             {point.plan}")
