"""`routewright reward`: rates the answers of an outcome table."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routewright.cli.asking import journalled, trouble
from routewright.cli.fit import names

if TYPE_CHECKING:
    from routewright.interview.rewarding import Tally


def reward(
    table: Annotated[
        Path, typer.Argument(help="Outcome table (Parquet, JSONL or CSV) with answers.")
    ],
    model: Annotated[
        str,
        typer.Option(
            help="`classifier=NAME-OR-FOLDER`, `judge=EXPERT`, `pairwise=EXPERT` or"
            " `function=FILE.py:NAME`."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Outcome table to write (.parquet).")],
    config: Annotated[
        Path | None, typer.Option(help="Where a judge's expert is defined: routewright.yaml.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="Comma-separated: rate only their answers; default: all.")
    ] = None,
    answers: Annotated[
        str, typer.Option(help="Columns that hold whole answers, the first that knows one counts.")
    ] = "text,answer",
    budget: Annotated[
        float | None, typer.Option(help="US$ that a judge may cost, over all runs together.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="What was paid for; default: OUT with .journal.jsonl.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where a model runs: `local`, or `ray`: on a cluster.")
    ] = "local",
    json: Annotated[bool, typer.Option(help="Print the tally as JSON.")] = False,
) -> None:
    """Fill the reward:: columns of an outcome table; run it again to take up where it stopped."""
    from routewright.config import load
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.interview import rewarding

    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    frame = outcomes.table(table)
    known = [] if config is None else [entry.expert() for entry in load(config).experts]
    with journalled("rating answers", journal, out) as (paid, show):
        rated, tally = rewarding.rate(
            frame,
            model,
            paid,
            answers=answers,
            names=names(experts),
            experts=known,
            budget=budget,
            engine=engine,
            progress=show,
        )
    outcomes.save(rated, out)
    typer.echo(json_module.dumps(asdict(tally)) if json else _told(tally, out))


def _told(tally: Tally, out: Path) -> str:
    lines = [
        f"'{out}': {tally.rated} of {tally.answers} answers rated for ${tally.cost:.4g},"
        f" {tally.recalled} of the asks or ratings from the journal"
    ]
    if tally.unread:
        lines.append(f"{tally.unread} verdicts could not be read; their rewards are unknown")
    return "\n".join([*lines, *trouble(tally)])
