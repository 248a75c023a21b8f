"""`routewright decisions`: what the gateway decided, newest first."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

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
from routewright.errors import BadInput

ROWS = 500  # of one table; more decisions get another one


def decisions(
    key: Annotated[str | None, typer.Option(help="Only those of this key.")] = None,
    since: Since = "1h",
    status: Annotated[
        str | None, typer.Option(help="Only those of this status, such as ok or interrupted.")
    ] = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """List the decisions of the gateway, newest first, without the texts of prompts and answers.

    With --json it prints a list with everything that was recorded of each: its id, the forecasts
    and the propensity of every expert, and more.
    """
    from routewright.config import load
    from routewright.records import decisions, keys

    settings = load(config)
    start = time.time() - seconds(since, "--since")
    with existing(settings) as store:
        if store is None:
            return typer.echo("[]") if json else say_nothing(settings)
        with store.read() as connection:
            if key is not None:
                keys.named(connection, key)
            statuses = decisions.statuses(connection, start) if status is not None else []
            if status is not None and statuses and status not in statuses:
                raise BadInput(
                    f"no decision of that time has the status '{status[:60]}': there are"
                    f" {', '.join(statuses)}"
                )
            rows = decisions.recent(connection, start, key, status)
            if json:
                _print_json(rows)
            else:
                _print_tables(rows, start)


def _print_json(rows: Iterator[dict[str, Any]]) -> None:
    """A list, written while it is read."""
    before = "[\n"
    for row in rows:
        typer.echo(f"{before} {json_module.dumps({**row, 'at': time_of(row['at'])})}", nl=False)
        before = ",\n"
    typer.echo("[]" if before == "[\n" else "\n]")


def _print_tables(rows: Iterator[dict[str, Any]], start: float) -> None:
    console = Console(soft_wrap=True)
    count = 0
    while some := tuple(islice(rows, ROWS)):
        console.print(_table(some))
        count += len(some)
    end = f"since {minute_of(start)} UTC"
    typer.echo(f"{count:,} decisions {end}" if count else f"No decision {end}.")


def _table(rows: tuple[dict[str, Any], ...]) -> Table:
    table = Table()
    table.add_column("at (UTC)", no_wrap=True)
    for heading in ("key", "policy", "expert", "status", "path"):
        table.add_column(heading, overflow="fold")
    for heading in ("US$", "s", "score"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        texts = (row["key"], row["policy"], row["expert"], row["status"], row["path"])
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        score = "" if row["score"] is None else f"{row['score']:g}"
        cells = (Text(text or "") for text in texts)
        table.add_row(minute_of(row["at"])[5:], *cells, dollars(row["usd"]), seconds, score)
    return table
