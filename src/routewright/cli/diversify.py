"""`routewright diversify`: selects a varied training set without overlaps with a test set."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from routewright.cli.fit import DropDuplicates
from routewright.data.endings import READABLE


def diversify(
    table: Annotated[Path, typer.Argument(help=f"Outcome table or set of queries ({READABLE}).")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet or .jsonl.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Test set that no kept query may overlap with; may be repeated."),
    ] = None,
    against_split: Annotated[
        str | None, typer.Option(help="Split of the table itself to hold out, e.g. dev.")
    ] = None,
    per_tag: Annotated[int, typer.Option(min=1, help="Most queries to keep of each tag.")] = 10,
    tags: Annotated[
        str, typer.Option(help="`table`: the column `tags`, or `domain` in rows without tags.")
    ] = "table",
    words: Annotated[
        int, typer.Option(min=1, help="Words in a row that count as overlap when shared.")
    ] = 6,
    cosine: Annotated[
        float,
        typer.Option(min=0, help="Similarity of two queries' letters that makes them duplicates."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same choice.")] = 0,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the counts as JSON.")] = False,
) -> None:
    """Limit the queries per tag; drop near-duplicates and overlaps with test sets.

    Rows of the held-out split stay in the table unchanged.
    """
    import polars as pl

    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.interview import diversity

    outcomes.check_ending(out)
    frame = outcomes.table(table, drop_duplicates=drop_duplicates)
    rest = frame.clear()
    if against_split is not None:
        if "split" not in frame.columns:
            raise BadInput(f"'{table}' has no column `split`: leave --against-split out")
        rest = frame.filter(pl.col("split") == against_split)
        frame = frame.filter(pl.col("split").ne_missing(against_split))
        if not len(rest) or not len(frame):
            number = "no" if not len(rest) else "every"
            raise BadInput(
                f"'{table}': {number} row has split '{against_split}': name another --against-split"
            )
    held_out = outcomes.queries_of(rest)
    for path in against or []:
        other = outcomes.table(path, drop_duplicates=drop_duplicates)
        held_out += outcomes.queries_of(other)
    queries = outcomes.queries_of(frame)
    picks = diversity.diversify(
        queries,
        outcomes.tags_of(queries, tags),
        held_out,
        per_tag=per_tag,
        words=words,
        cosine=cosine,
        seed=seed,
    )
    outcomes.save(pl.concat([frame[list(picks.rows)], rest]), out)
    if json:
        typer.echo(json_module.dumps(picks.to_json()))
        return
    typer.echo(
        f"'{out}': {len(picks.rows)} of {len(frame)} queries kept; {picks.overlapping} share"
        f" {words} words in a row with a test query, {picks.duplicates} are duplicates,"
        f" {picks.crowded} exceed the limit of a tag"
        + (f"; {picks.untagged} have no tag and no limit" if picks.untagged else "")
        + (f"; {len(rest)} rows of split '{against_split}' are unchanged" if len(rest) else "")
    )
