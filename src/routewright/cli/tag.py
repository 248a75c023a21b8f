"""`routewright tag`: what the queries of a table are about."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routewright.cli.asking import journalled, trouble

if TYPE_CHECKING:
    from routewright.interview.tagging import Tally


def tag(
    table: Annotated[
        Path, typer.Argument(help="Outcome table or set of queries (Parquet, JSONL or CSV).")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .parquet or .jsonl.")],
    expert: Annotated[
        str | None, typer.Option(help="Expert of --config that names the tags, in its own words.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Where the expert is defined: routewright.yaml.")
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(min=2, help="Tag by so many clusters of vectors instead.")
    ] = None,
    encoder: Annotated[str, typer.Option(help="What makes the vectors of clusters.")] = "lexical",
    min_count: Annotated[int, typer.Option(min=1, help="Drop tags that fewer queries carry.")] = 2,
    budget: Annotated[
        float | None, typer.Option(min=0, help="US$ that the expert may cost, over all runs.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="What was paid for; default: OUT with .journal.jsonl.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same clusters.")] = 0,
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
        raise BadInput("name either --expert (and --config) or --clusters")
    if expert is not None and config is None:
        raise BadInput(f"where is expert '{expert}' defined? Name --config routewright.yaml")
    frame = outcomes.table(table)
    queries = outcomes.queries_of(frame)
    if clusters is not None:
        found = tagging.by_cluster(queries, clusters, encoder, seed)
        tally = tagging.Tally(queries=len(queries), tagged=len(queries), tags=len(set(found)))
    else:
        assert expert is not None
        assert config is not None
        with journalled("tagging queries", journal, out) as (paid, show):
            found, tally = tagging.by_expert(
                queries,
                expert,
                [entry.expert() for entry in load(config).experts],
                paid,
                min_count=min_count,
                budget=budget,
                progress=show,
            )
    tags = pl.Series("tags", [list(row) for row in found], dtype=pl.List(pl.String))
    outcomes.save(frame.with_columns(tags), out)
    typer.echo(json_module.dumps(asdict(tally)) if json else _told(tally, out))


def _told(tally: Tally, out: Path) -> str:
    lines = [
        f"'{out}': {tally.tagged} of {tally.queries} queries carry {tally.tags} tags,"
        f" for ${tally.cost:.4g}; {tally.recalled} replies from the journal"
    ]
    if tally.unread:
        lines.append(f"{tally.unread} replies held no list of tags; their queries have none")
    return "\n".join([*lines, *trouble(tally)])
