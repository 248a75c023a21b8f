"""`routewright diversify`: a varied training set that does not give the test away."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


def diversify(
    table: Annotated[
        Path, typer.Argument(help="Outcome table or set of queries (Parquet, JSONL or CSV).")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .parquet or .jsonl.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Test set whose runs of words no kept query may share; may be repeated."),
    ] = None,
    against_split: Annotated[
        str | None, typer.Option(help="Split of the table itself to hold out, e.g. dev.")
    ] = None,
    per_tag: Annotated[int, typer.Option(min=1, help="Queries of each tag, at most.")] = 10,
    tags: Annotated[
        str, typer.Option(help="`table`: its tags, where it has none its `domain`.")
    ] = "table",
    words: Annotated[int, typer.Option(min=1, help="How many in a row count as shared.")] = 6,
    cosine: Annotated[
        float,
        typer.Option(min=0, help="Of two queries' letters, from which one of them goes."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same choice.")] = 0,
    json: Annotated[bool, typer.Option(help="Print what was dropped as JSON.")] = False,
) -> None:
    """Keep at most so many queries per tag, without near-duplicates or overlaps with test sets.

    Rows of the split that is held out stay in the table, untouched.
    """
    import polars as pl

    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.interview import diversity

    outcomes.check_ending(out)
    frame = outcomes.table(table)
    rest = frame.clear()
    if against_split is not None:
        if "split" not in frame.columns:
            raise BadInput(f"'{table}' has no column split, so --against-split names nothing")
        rest = frame.filter(pl.col("split") == against_split)
        frame = frame.filter(pl.col("split").ne_missing(against_split))
        if not len(rest) or not len(frame):
            few = "no" if not len(rest) else "every"
            raise BadInput(f"'{table}': {few} row has split '{against_split}'")
    held_out = outcomes.queries_of(rest)
    for path in against or []:
        held_out += outcomes.queries_of(outcomes.table(path))
    queries = outcomes.queries_of(frame)
    kept = diversity.diversify(
        queries,
        outcomes.tags_of(queries, tags),
        held_out,
        per_tag=per_tag,
        words=words,
        cosine=cosine,
        seed=seed,
    )
    outcomes.save(pl.concat([frame[list(kept.rows)], rest]), out)
    if json:
        typer.echo(json_module.dumps(kept.told()))
        return
    typer.echo(
        f"'{out}': {len(kept.rows)} of {len(frame)} queries kept; {kept.overlapping} share"
        f" {words} words in a row with a test query, {kept.duplicates} are duplicates,"
        f" {kept.crowded} had no place left in a tag"
        + (f"; {kept.untagged} have no tag, so none was limited" if kept.untagged else "")
        + (f"; {len(rest)} rows of split '{against_split}' as they were" if len(rest) else "")
    )
