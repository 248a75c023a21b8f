"""`routewright tag`: tags the queries of a table by topic."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routewright.cli.asking import check_answered, end, open_journal, tell_withheld
from routewright.cli.fit import DropDuplicates
from routewright.data.endings import READABLE

if TYPE_CHECKING:
    from routewright.interview.tagging import Tally


def tag(
    table: Annotated[Path, typer.Argument(help=f"Outcome table or set of queries ({READABLE}).")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet or .jsonl.")],
    expert: Annotated[
        str | None, typer.Option(help="Expert of --config that writes the tags, in its own words.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The config with the expert: routewright.yaml.")
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(min=2, help="In place of --expert: number of clusters to tag by."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Encoder whose vectors are clustered.")] = "lexical",
    min_count: Annotated[
        int, typer.Option(min=1, help="Drop tags of fewer queries than this.")
    ] = 2,
    budget: Annotated[
        float | None, typer.Option(min=0, help="US$ that the expert may cost, over all runs.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="File of paid asks; default: OUT with .journal.jsonl.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clusters.")] = 0,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the tally as JSON.")] = False,
) -> None:
    """Write a `tags` column: by an expert with an open vocabulary, or by clusters."""
    import polars as pl

    from routewright.config import load
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.interview import tagging

    outcomes.check_ending(out)
    if (clusters is None) == (expert is None):
        raise BadInput("give either --expert (and --config) or --clusters")
    if expert is not None and config is None:
        raise BadInput(f"--expert {expert} needs the config that defines it: add --config FILE")
    frame = outcomes.table(table, drop_duplicates=drop_duplicates)
    loaded = None if config is None else load(config)
    data_class = "public" if loaded is None else loaded.server.default_data_class
    queries = outcomes.queries_of(frame, data_class)
    if clusters is not None:
        tags = tagging.by_cluster(queries, clusters, encoder, seed)
        tally = tagging.Tally(queries=len(queries), tagged=len(queries), tags=len(set(tags)))
    else:
        assert expert is not None
        assert loaded is not None
        experts = loaded.experts_by_name()
        if expert in experts:
            tell_withheld(experts[expert], queries)
        with open_journal("tagging queries", journal, out) as (paid, show, watch):
            tags, tally = tagging.by_expert(
                queries,
                expert,
                list(experts.values()),
                paid,
                min_count=min_count,
                budget=budget,
                progress=show,
                watch=watch,
            )
        check_answered(tally, tally.done)
    column = pl.Series("tags", [list(row) for row in tags], dtype=pl.List(pl.String))
    outcomes.save(frame.with_columns(column), out)
    typer.echo(json_module.dumps(asdict(tally)) if json else _summary(tally, out))
    end(tally)


def _summary(tally: Tally, out: Path) -> str:
    messages = [
        f"'{out}': {tally.tagged} of {tally.queries} queries carry {tally.tags} tags,"
        f" for US${tally.cost:.4g}; {tally.recalled} replies from the journal"
    ]
    if tally.unread:
        messages.append(f"{tally.unread} replies had no list of tags; their queries have none")
    return "\n".join(messages)
