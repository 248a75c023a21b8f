"""`routewright spend`: what requests have cost, by who asked or who answered."""

from __future__ import annotations

import json as json_module
import math
import time
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routewright.cli.records import (
    CONFIG,
    ConfigFile,
    Json,
    Since,
    dollars,
    existing,
    minute_of,
    say_nothing,
    seconds,
    time_of,
)

if TYPE_CHECKING:
    from routewright.gateway.forecasts import Forecast


class By(StrEnum):
    """What the sums are grouped by."""

    key = "key"
    expert = "expert"
    policy = "policy"
    day = "day"
    team = "team"
    owner = "owner"


def spend(
    by: Annotated[By, typer.Option(help="What to group the sums by.")] = By.key,
    since: Since = "7d",
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Show what requests have cost in US$, and what this month will cost.

    The sums are of all asks: failed tries, verifications and cut streams included. The forecast
    knows the usual requests of each hour and weekday, and what they cost lately. With --json it
    prints `{"total_usd": …, "rows": [{"key": …, "usd": …, "requests": …}, …], …}`.
    """
    from routewright.config import load
    from routewright.gateway import forecasts
    from routewright.records import decisions

    settings, now = load(config), time.time()
    start = now - seconds(since, "--since")
    rows: list[dict[str, Any]] = []
    forecast, pruned = None, -math.inf
    with existing(settings) as store:
        if store is None and not json:
            return say_nothing(settings)
        if store is not None:
            with store.read() as connection:
                rows = decisions.spend(connection, by.value, start)
                forecast = forecasts.of_month(connection, now)
                pruned = decisions.pruned_before(connection)
    if json:
        total = math.fsum(row["usd"] for row in rows)
        month = asdict(forecast) if forecast else None
        summary = {"total_usd": total, "rows": rows, "since": time_of(start), "forecast": month}
        typer.echo(json_module.dumps(summary, indent=2))
        return
    assert forecast is not None
    _print(by.value, rows, start, pruned, forecast)


def _print(
    by: str, rows: list[dict[str, Any]], start: float, pruned: float, forecast: Forecast
) -> None:
    console = Console(soft_wrap=True)
    if rows:
        console.print(_table(by, rows))
    else:
        typer.echo(f"No request since {minute_of(start)} UTC.")
    if pruned > start:
        typer.echo(f"Records from before {minute_of(pruned)} UTC were deleted (`db prune`).")
    typer.echo(
        f"{forecast.month}: US$ {dollars(forecast.usd)} so far, about"
        f" US$ {dollars(forecast.forecast_usd)} by its end"
    )


def _table(by: str, rows: list[dict[str, Any]]) -> Table:
    """The sums; the columns that are zero for all rows are left out."""
    titles = {"usd": "US$", "estimated_usd": "of it estimated", "unsure_usd": "perhaps US$ more"}
    titles = {
        name: title
        for name, title in titles.items()
        if name == "usd" or any(row.get(name) for row in rows)
    }
    table = Table(by if by != "day" else "day (UTC)", show_footer=len(rows) > 1)
    table.columns[0].footer = "together"
    for name, title in titles.items():
        total = math.fsum(row.get(name, 0.0) for row in rows)
        table.add_column(title, dollars(total), justify="right")
    requests = "" if by == "expert" else f"{sum(row['requests'] for row in rows):,}"
    table.add_column("requests", requests, justify="right")
    for row in rows:
        label = Text(row[by]) if row[by] is not None else Text("none", style="dim")
        sums = (dollars(row.get(name, 0.0)) for name in titles)
        table.add_row(label, *sums, f"{row['requests']:,}")
    return table
