"""`routewright route`: whom would the router ask, and why?"""

from __future__ import annotations

import json as json_module
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from routewright.router.frontier import OperatingPoint


def route(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    text: Annotated[str | None, typer.Argument(help="The query; `-` reads standard input.")] = None,
    queries: Annotated[
        str | None, typer.Option(help="Instead: a query set, all of it; needs --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Table of the decisions about --queries (.parquet).")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where that is worked out: `local`, or `ray`: on a cluster.")
    ] = "local",
    explain: Annotated[bool, typer.Option(help="Show every expert's forecast.")] = False,
    price: Annotated[
        float | None,
        typer.Option("--lambda", min=0.0, help="Price of quality, per US$; default 0."),
    ] = None,
    latency_price: Annotated[
        float, typer.Option(help="Quality that one second less must be worth.", min=0.0)
    ] = 0.0,
    max_cost_fraction: Annotated[
        str | None,
        typer.Option(help="Instead of λ: of always asking the dearest expert, 0.5 or 50%."),
    ] = None,
    domain: Annotated[str | None, typer.Option(help="The query's domain, if known.")] = None,
    json: Annotated[bool, typer.Option(help="Print everything as JSON.")] = False,
) -> None:
    """Decide about a query, or about many, without asking anybody."""
    from routewright.errors import BadInput
    from routewright.router import explanation, targets
    from routewright.router.router import Router
    from routewright.types import Query

    loaded = Router.load(router)
    if price is not None and max_cost_fraction is not None:
        raise BadInput("give --lambda or --max-cost-fraction, not both")
    if price is not None and not math.isfinite(price):
        raise BadInput(f"--lambda must be a finite number, not {price}")
    if max_cost_fraction is not None:
        fraction = targets.share(max_cost_fraction, "cost fraction", math.inf)
        point = loaded.at(max_cost_fraction=fraction)
    else:
        point = loaded.nearest(price or 0.0)
    if queries is not None:
        _all(router, point, queries, out, engine, latency_price, text, json)
        return
    if out is not None:
        raise BadInput("--out goes with --queries")
    if text is None:
        raise BadInput("give the query's text, or a query set with --queries and --out")
    query = Query.of(sys.stdin.read() if text == "-" else text, domain=domain)
    explained = explanation.explain(loaded, point, query, latency_price)
    if json:
        typer.echo(json_module.dumps(explained))
    elif explain:
        _show(explained)
    else:
        typer.echo(explained["expert"])


def _all(
    router: Path,
    point: OperatingPoint,
    queries: str,
    out: Path | None,
    engine: str,
    latency_price: float,
    text: str | None,
    json: bool,
) -> None:
    """Writes a table: a row per query, whom to ask, and what is believed of everybody."""
    from collections import Counter

    import polars as pl

    from routewright.data import outcomes, tasks
    from routewright.errors import BadInput
    from routewright.router import explanation

    if out is None or out.suffix != ".parquet" or text is not None:
        raise BadInput("--queries goes with --out FILE.parquet, and without a text")
    asked = [item.query for item in tasks.read(queries)]
    rows = explanation.explain_all(router, point, asked, latency_price, engine)
    outcomes.save(pl.DataFrame(rows, infer_schema_length=None), out)
    shares = dict(Counter(row["expert"] for row in rows).most_common())
    if json:
        typer.echo(json_module.dumps({"queries": len(rows), "asked_first": shares}))
        return
    told = ", ".join(f"{name} {count}" for name, count in shares.items())
    typer.echo(f"'{out}': {len(rows)} queries; asked first: {told}")


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
