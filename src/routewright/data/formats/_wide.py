"""Turns one cell per query and expert into the wide outcome table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from routewright.data.formats import _files
from routewright.data.outcomes import check_questions, first_rows
from routewright.errors import BadTable
from routewright.types import Outcome

FACTS = ("prompt", "messages", "domain", "split", "stem_sha", "group")  # of the query
CELLS = (  # of query and expert
    *("score", "cost", "answer", "text", "latency", "in_tokens", "out_tokens"),
)
TEXT = ("id", "expert", *FACTS, "answer", "text")


@dataclass(frozen=True)
class Cell(Outcome):
    """An outcome with its input tokens, from which a cost can be computed.

    `messages` (JSON) stand in place of the prompt where one text is not the whole question;
    `stem_sha` identifies the question where the text that was sent does not. `text` is the whole
    reply where `answer` is a part of it. Without an `expert` it tells of the query alone.
    """

    in_tokens: float | None = None
    text: str | None = None
    messages: str | None = None
    stem_sha: str | None = None
    group: str | None = None


def long(cells: Sequence[Cell]) -> pl.DataFrame:
    """The cells as a table, one row each; NaN and an empty prompt become null."""
    names = [f.name for f in fields(Cell) if f.name in (*TEXT, *CELLS)]
    schema = {name: pl.String if name in TEXT else pl.Float64 for name in names}
    columns = {name: [getattr(cell, name) for cell in cells] for name in names}
    columns |= {name: list(map(_files.cell, columns[name])) for name in names if name in TEXT}
    columns["prompt"] = [text or None for text in columns["prompt"]]
    return pl.DataFrame(columns, schema=schema).with_columns(pl.col(pl.Float64).fill_nan(None))


def averaged(cells: pl.DataFrame) -> pl.DataFrame:
    """One row per query and expert, with the means over its rows and the first of their texts."""
    keys = ("id", "expert")
    texts = [c for c, kind in cells.schema.items() if kind == pl.String and c not in keys]
    return cells.group_by(keys, maintain_order=True).agg(
        pl.col(texts).drop_nulls().first(), pl.col(pl.Float64).mean()
    )


def wide(rows: pl.DataFrame, path: Path, drop_duplicates: bool = False) -> pl.DataFrame:
    """One row per query. Raises BadTable if there are no rows, or two for one query and expert
    unless the first of them is to be kept."""
    if not len(rows):
        raise BadTable(f"'{path}' has no rows")
    check_questions([rows], f"'{path}'")
    filled = [c for c in rows.columns if c == "score" or rows[c].null_count() < len(rows)]
    facts = [pl.col(c).drop_nulls().first() for c in FACTS if c in filled]
    table = rows.group_by("id", maintain_order=True).agg(facts)
    answers = first_rows(rows.filter(pl.col("expert") != ""), path, drop_duplicates)
    for cell in (c for c in CELLS if c in filled and len(answers)):
        spread = answers.pivot("expert", index="id", values=cell)
        spread = spread.rename({c: f"{cell}::{c}" for c in spread.columns if c != "id"})
        table = table.join(spread, on="id", how="left", maintain_order="left")
    return table
