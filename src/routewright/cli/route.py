"""`routewright route`: shows which expert the router would ask, and why."""

from __future__ import annotations

import json as json_module
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from routewright.cli.fit import DropDuplicates
from routewright.data import text

if TYPE_CHECKING:
    import polars as pl

    from routewright.router.frontier import OperatingPoint


def route(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    text: Annotated[str | None, typer.Argument(help="The query; `-` reads standard input.")] = None,
    queries: Annotated[
        str | None, typer.Option(help="A query set in place of the query; needs --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Table to write with a decision for each of --queries.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where --queries are routed: `local`, or `ray` (on a cluster).")
    ] = "local",
    explain: Annotated[bool, typer.Option(help="Show the prediction for every expert.")] = False,
    price: Annotated[
        float | None,
        typer.Option("--lambda", min=0.0, help="Quality that one US$ must buy; default 0."),
    ] = None,
    latency_price: Annotated[
        float, typer.Option(help="Quality that one second less must be worth.", min=0.0)
    ] = 0.0,
    max_cost_fraction: Annotated[
        str | None,
        typer.Option(
            help="In place of λ: share of the cost of always asking the most expensive expert,"
            " 0.5 or 50%."
        ),
    ] = None,
    domain: Annotated[str | None, typer.Option(help="The query's domain, if known.")] = None,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print everything as JSON.")] = False,
) -> None:
    """Route one query, or a query set, without asking any expert."""
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
        fraction = targets.cost_fraction(max_cost_fraction)
        point = loaded.within(max_cost_fraction=fraction)
    else:
        point = loaded.nearest(price or 0.0)
    if queries is not None:
        _write_decisions(
            router, point, queries, drop_duplicates, out, engine, latency_price, text, json
        )
        return
    if out is not None:
        raise BadInput("--out needs --queries")
    if text is None:
        raise BadInput("give the query's text, or a query set with --queries and --out")
    query = Query.of(sys.stdin.read() if text == "-" else text, domain=domain)
    facts = explanation.explain(loaded, point, query, latency_price)
    if json:
        typer.echo(json_module.dumps(facts))
    elif explain:
        _show(facts)
    else:
        typer.echo(facts["expert"])


def _write_decisions(
    router: Path,
    point: OperatingPoint,
    queries: str,
    drop_duplicates: bool,
    out: Path | None,
    engine: str,
    latency_price: float,
    text: str | None,
    json: bool,
) -> None:
    """Writes a table with one row per query: the expert to ask and all predictions."""
    from collections import Counter

    from routewright.data import outcomes, tasks
    from routewright.errors import BadInput
    from routewright.router import query_sets
    from routewright.router.router import Router

    if out is None or out.suffix != ".parquet" or text is not None:
        raise BadInput("--queries needs --out FILE.parquet and no text")
    shares: Counter[str] = Counter()
    with _progress() as show:

        def parts() -> Iterator[pl.DataFrame]:
            items = tasks.stream(queries, drop_duplicates=drop_duplicates)
            asked = (item.query for item in items)
            for part in query_sets.route(router, point, asked, latency_price, engine):
                shares.update(part["expert"].to_list())
                show(shares.total())
                yield part

        outcomes.save_parts(parts(), query_sets.schema(Router.load(router)), out)
    asked_first = dict(shares.most_common())
    if json:
        typer.echo(json_module.dumps({"queries": shares.total(), "asked_first": asked_first}))
        return
    summary = ", ".join(f"{name} {count}" for name, count in asked_first.items())
    typer.echo(f"'{out}': {shares.total()} queries; asked first: {summary}")


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Shows how many queries are routed, and how many in a second; yields a function to call with
    the number so far."""
    import time

    console, began = Console(stderr=True), time.monotonic()
    with console.status("routing queries") as status:

        def show(count: int) -> None:
            rate = count / (time.monotonic() - began)
            status.update(f"{count:,} queries routed, {rate:,.0f} a second")

        yield show


def _show(facts: dict[str, Any]) -> None:
    has_latency = any(row["latency"] is not None for row in facts["experts"])
    table = Table()
    for heading in (
        "expert",
        "quality, %",
        "±",
        "US$ per 1,000",
        *(["seconds"] if has_latency else []),
        "value",
    ):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for row in facts["experts"]:
        mark = "[bold]" if row["expert"] == facts["expert"] else ""
        quality, spread = _percent(row["quality"]), _percent(row["spread"])
        numbers = [quality, spread, text.dollars(row["cost"])]
        seconds = [_form(row["latency"], ".2f")] if has_latency else []
        table.add_row(f"{mark}{row['expert']}", *numbers, *seconds, _percent(row["value"]))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"asks  [bold]{facts['expert']}[/]{_deciding(facts)}", highlight=False)
    latency_price = facts["latency_price"]
    term = f" − {latency_price:g} × seconds" if latency_price else ""
    console.print(f"λ     {facts['lambda']:.6g} per US$ (value = quality − λ × cost{term})")
    console.print(f"plan  {facts['plan']}")
    if facts["familiarity"] < 1:
        console.print(
            "note  The query differs from the training queries:"
            f" {text.share(facts['familiarity'])} of each prediction counts, the rest is the"
            " expert's mean."
        )


def _deciding(facts: dict[str, Any]) -> str:
    """The number that decided: the value of the expert that is asked, less the next best one's."""
    asked = next((row for row in facts["experts"] if row["expert"] == facts["expert"]), None)
    others = [row for row in facts["experts"] if row["expert"] != facts["expert"]]
    if facts["strategy"] == "fixed" or asked is None or not others:
        return ", whatever the query is: this point asks fixed experts"
    lead = asked["value"] - others[0]["value"]
    if lead < 0:
        return ", as the plan says: its value at this λ is not the highest"
    next_best = f"{others[0]['expert']}'s {_percent(others[0]['value'])}"
    return f", whose value {_percent(asked['value'])} is {100 * lead:+.1f} points from {next_best}"


def _percent(number: float | None) -> str:
    return "?" if number is None else f"{100 * number:.1f}"


def _form(number: float | None, form: str) -> str:
    return "?" if number is None else f"{number:{form}}"
