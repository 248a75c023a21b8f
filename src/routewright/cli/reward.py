"""`routewright reward`: rates the answers of an outcome table with a reward model."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routewright.cli.asking import check_answered, end, open_journal, tell_withheld
from routewright.cli.fit import DropDuplicates, names
from routewright.data.endings import READABLE

if TYPE_CHECKING:
    from routewright.interview.rewarding import Tally


def reward(
    table: Annotated[Path, typer.Argument(help=f"Outcome table with answers ({READABLE}).")],
    model: Annotated[
        str,
        typer.Option(
            help="`classifier=NAME-OR-FOLDER`, `judge=EXPERT`, `pairwise=EXPERT` or"
            " `function=FILE.py:NAME`."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Outcome table to write (.parquet).")],
    config: Annotated[
        Path | None, typer.Option(help="The config with the judge's expert: routewright.yaml.")
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(help="Comma-separated experts whose answers to rate; default: all."),
    ] = None,
    answers: Annotated[
        str, typer.Option(help="Columns with whole answers; the first one with a text counts.")
    ] = "text,answer",
    budget: Annotated[
        float | None, typer.Option(help="US$ that a judge may cost, over all runs together.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="File of paid asks; default: OUT with .journal.jsonl.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where a model runs: `local`, or `ray` (on a cluster).")
    ] = "local",
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the tally as JSON.")] = False,
) -> None:
    """Fill the reward:: columns of an outcome table; run it again to continue after a stop."""
    from routewright.config import load
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.interview import rewarding

    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    frame = outcomes.table(table, drop_duplicates=drop_duplicates)
    loaded = None if config is None else load(config)
    pool = [] if loaded is None else list(loaded.experts_by_name().values())
    data_class = "public" if loaded is None else loaded.server.default_data_class
    if (judge := rewarding.judge_of(model, pool)) is not None:
        tell_withheld(judge, outcomes.queries_of(frame, data_class))
    with open_journal("rating answers", journal, out) as (paid, show, watch):
        result, tally = rewarding.rate(
            frame,
            model,
            paid,
            answers=answers,
            names=names(experts),
            experts=pool,
            budget=budget,
            engine=engine,
            data_class=data_class,
            progress=show,
            watch=watch,
        )
    check_answered(tally, tally.rated)
    outcomes.save(result, out)
    typer.echo(json_module.dumps(asdict(tally)) if json else _summary(tally, out))
    end(tally)


def _summary(tally: Tally, out: Path) -> str:
    messages = [
        f"'{out}': {tally.rated} of {tally.answers} answers rated for US${tally.cost:.4g},"
        f" {tally.recalled} of the asks or ratings from the journal"
    ]
    if tally.unread:
        messages.append(f"{tally.unread} verdicts could not be read; their rewards are unknown")
    return "\n".join(messages)
