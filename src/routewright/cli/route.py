"""`routewright route`: whom would the router ask, and why?"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def route(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    text: Annotated[str, typer.Argument(help="The query; `-` reads standard input.")],
    explain: Annotated[bool, typer.Option(help="Show every expert's forecast.")] = False,
    price: Annotated[
        float | None, typer.Option("--lambda", help="Price of quality, per US$; default 0.")
    ] = None,
    latency_price: Annotated[
        float, typer.Option(help="Quality that one second less must be worth.", min=0.0)
    ] = 0.0,
    max_cost_fraction: Annotated[
        float | None, typer.Option(help="Instead of λ: a point of the frontier by its cost.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="The query's domain, if known.")] = None,
    json: Annotated[bool, typer.Option(help="Print everything as JSON.")] = False,
) -> None:
    """Decide about one query without asking anybody."""
    from routewright import explanation
    from routewright.errors import BadInput
    from routewright.router import Router
    from routewright.types import Query

    loaded = Router.load(router)
    if price is not None and max_cost_fraction is not None:
        raise BadInput("give --lambda or --max-cost-fraction, not both")
    if max_cost_fraction is not None:
        point = loaded.at(max_cost_fraction=max_cost_fraction)
    else:
        point = loaded.nearest(price or 0.0)
    query = Query.of(sys.stdin.read() if text == "-" else text, domain=domain)
    explained = explanation.explain(loaded, point, query, latency_price)
    if json:
        typer.echo(json_module.dumps(explained))
    elif explain:
        _show(explained)
    else:
        typer.echo(explained["expert"])


def _show(explained: dict[str, Any]) -> None:
    timed = any(row["latency"] is not None for row in explained["experts"])
    table = Table()
    for heading in ("expert", "quality", "±", "US$", *(["seconds"] if timed else []), "value"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for row in explained["experts"]:
        mark = "[bold]" if row["expert"] == explained["expert"] else ""
        numbers = [f"{row['quality']:.3f}", _form(row["spread"], ".3f"), f"{row['cost']:.3g}"]
        seconds = [_form(row["latency"], ".2f")] if timed else []
        table.add_row(f"{mark}{row['expert']}", *numbers, *seconds, f"{row['value']:.3f}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"asks  [bold]{explained['expert']}[/]")
    hurry = explained["latency_price"]
    also = f" − {hurry:g} × seconds" if hurry else ""
    console.print(f"λ     {explained['lambda']:.6g} per US$ (value = quality − λ × cost{also})")
    console.print(f"plan  {explained['plan']}")
    if explained["familiarity"] < 1:
        console.print(
            "note  unlike the queries that were learnt from:"
            f" {explained['familiarity']:.0%} of each forecast is kept, the rest is the mean"
        )


def _form(number: float | None, form: str) -> str:
    return "?" if number is None else f"{number:{form}}"
