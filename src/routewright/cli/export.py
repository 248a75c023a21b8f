"""`routewright export`: recorded decisions as an outcome table."""

from __future__ import annotations

import json as json_module
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from routewright.cli.records import (
    CONFIG,
    Json,
    Since,
    dollars,
    existing,
    nothing,
    seconds,
)
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.config import Config


def export(
    out: Annotated[Path, typer.Option(help="Outcome table to write (.parquet or .jsonl).")],
    config_: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The config whose store to use.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The same as CONFIG; default: routewright.yaml.")
    ] = None,
    since: Since = "30d",
    json: Json = False,
) -> None:
    """Write recorded decisions as an outcome table for `fit` and `evaluate`.

    A row is a decision whose prompt was kept (`server.records.prompts`). Scores are those that
    clients gave with /v1/feedback; `propensity::EXPERT` is the chance with which the policy would
    have asked an expert. The file holds texts of clients.
    """
    from routewright.config import load
    from routewright.data import outcomes
    from routewright.records import export

    if config_ is not None and config is not None and config_ != config:
        raise BadInput(f"two configs are named, '{config_}' and '{config}': name one of them")
    outcomes.check_ending(out)
    path = config_ or config or CONFIG
    settings = load(path)
    start = time.time() - seconds(since, "--since")
    console = Console(stderr=True)
    with existing(settings) as store:
        if store is None:
            raise nothing(settings)
        with store.read() as connection, console.status("reading decisions") as status:
            total = export.count(connection, start)
            if not total:
                raise _no_prompts(settings, path, since)

            def progress(rows: int) -> None:
                status.update(f"{rows:,} of {total:,} decisions")

            experts = [entry.name for entry in settings.experts]
            summary = export.write(connection, start, out, experts, progress)
    if json:
        typer.echo(json_module.dumps(asdict(summary)))
        return
    typer.echo(f"'{out}': {summary.rows:,} decisions, which cost US$ {dollars(summary.usd)}")
    if summary.unanswered:
        typer.echo(f"{summary.unanswered:,} that nobody answered are left out.")
    if summary.scored:
        typer.echo(f"{summary.scored:,} have a score.")
    else:
        typer.echo(
            "None has a score: send scores to /v1/feedback, or grade the answers with `routewright"
            " regrade`, before `routewright fit`."
        )


def _no_prompts(config: Config, path: Path, since: str) -> BadInput:
    kept = config.server.records.prompts
    if kept == "none":
        way_out = (
            "set `server.records.prompts` to `redacted` or `full` in"
            f" '{path}', start the gateway again, and export what it answers from then on"
        )
    else:
        way_out = (
            f"`server.records.prompts` is `{kept}`, so requests that the gateway answers from now"
            " on will have one; or ask for a longer time with --since"
        )
    return BadInput(f"no decision of the last {since} has its prompt recorded: {way_out}")
