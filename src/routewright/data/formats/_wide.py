"""Turns one cell per query and expert into the wide outcome table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from routewright.data.outcomes import check_questions
from routewright.errors import BadTable
from routewright.types import Outcome

FACTS = ("prompt", "messages", "domain", "split", "stem_sha")  # of the query
CELLS = ("score", "cost", "answer", "latency", "in_tokens", "out_tokens")  # of query and expert
TEXT = ("id", "expert", *FACTS, "answer")


@dataclass(frozen=True)
class Cell(Outcome):
    """An outcome with its input tokens, from which a cost can be computed.

    `messages` (JSON) stand in place of the prompt where one text is not the whole question;
    `stem_sha` identifies the question where the text that was sent does not.
    """

    in_tokens: float | None = None
    messages: str | None = None
    stem_sha: str | None = None


def long(cells: Sequence[Cell]) -> pl.DataFrame:
    """The cells as a table, one row each; NaN becomes null."""
    names = [f.name for f in fields(Cell) if f.name in (*TEXT, *CELLS)]
    schema = {name: pl.String if name in TEXT else pl.Float64 for name in names}
    columns = {name: [getattr(cell, name) for cell in cells] for name in names}
    return pl.DataFrame(columns, schema=schema).with_columns(pl.col(pl.Float64).fill_nan(None))


def wide(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    """One row per query. Raises BadTable if there are no rows, or two for one query and expert."""
    if not len(rows):
        raise BadTable(f"'{path}' has no rows")
    _refuse_doubles(rows, path)
    check_questions([rows], f"'{path}'")
    filled = [c for c in rows.columns if c == "score" or rows[c].null_count() < len(rows)]
    facts = [pl.col(c).drop_nulls().first() for c in FACTS if c in filled]
    table = rows.group_by("id", maintain_order=True).agg(facts)
    for cell in (c for c in CELLS if c in filled):
        spread = rows.pivot("expert", index="id", values=cell)
        spread = spread.rename({c: f"{cell}::{c}" for c in spread.columns if c != "id"})
        table = table.join(spread, on="id", how="left", maintain_order="left")
    return table


def _refuse_doubles(rows: pl.DataFrame, path: Path) -> None:
    doubles = rows.filter(pl.struct("id", "expert").is_duplicated())
    if len(doubles):
        double = doubles.row(0, named=True)
        raise BadTable(f"'{path}': query '{double['id']}' has two rows for '{double['expert']}'")
