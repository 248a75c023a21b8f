"""RouterArena's prediction files (`router_inference/predictions/*.json`) and cached results.

Layout (RouteWorks/RouterArena, README and those files): a list of entries with `global index`,
`prompt`, `prediction` (the model that was asked), `generated_result` with `generated_answer` and
`token_usage`, `accuracy` (0..1) and `cost` (US$); or `cached_results/MODEL.jsonl` with
`global_index`, `question`, `llm_selected` and `evaluation_result`. The expert is the model that was
asked, so one router's file has one expert per query, plus those marked `for_optimality`: give
several files to fill the table. Paper: arXiv 2510.00202.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import endings
from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import Cell, long, wide
from routewright.data.outcomes import ROUNDING
from routewright.errors import BadTable, DataWarning

OPTIONS = ("drop_duplicates", "metric")

REQUIRED = ("global index", "prompt", "prediction", "accuracy")
REQUIRED_CACHED = ("global_index", "question", "llm_selected", "evaluation_result")


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table with measured costs; the query's index gives the domain (its data set)."""
    entries = list(_entries(path))
    is_cached = any("global_index" in row for _, row in entries)
    cell = _cached if is_cached else _prediction
    cells = [_not_negative(cell(row, place, options.metric)) for place, row in entries]
    if raised := sum(negative for _, negative in cells):
        warnings.warn(
            f"'{path}': {raised} scores just below 0 (METEOR's penalty can exceed 1) are read as 0",
            DataWarning,
            stacklevel=2,
        )
    rows = long([cell for cell, _ in cells])
    rows = rows.unique(maintain_order=True)  # optimality rows repeat the router's own
    return wide(rows, path, options.drop_duplicates)


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, which may be a JSON list."""
    if endings.ending(path) != ".json":
        yield from _files.records(path)
        return
    entries = _files.json(path)
    if not isinstance(entries, list):
        raise BadTable(f"'{path}' is not a list of predictions: another format?")
    for number, entry in enumerate(entries, start=1):
        place = f"'{path}' entry {number}"
        yield place, _files.record(entry, (), place)


def _not_negative(cell: Cell) -> tuple[Cell, bool]:
    """The cell with a score of 0 if it is between -1 and 0, and whether it was.

    -1 and less are no scores, and are refused later; rounding is corrected later, too.
    """
    negative = -1 < cell.score < -ROUNDING
    return (replace(cell, score=0.0) if negative else cell), negative


def _prediction(row: dict[str, Any], place: str, metric: str | None) -> Cell:
    _files.record(row, REQUIRED, place)
    return _cell(
        index=row["global index"],
        prompt=row["prompt"],
        expert=row["prediction"],
        score=_files.score(row["accuracy"], f"{place}: accuracy", metric),
        cost=_files.number(row.get("cost"), f"{place}: cost"),
        result=row.get("generated_result"),
        place=place,
    )


def _cached(row: dict[str, Any], place: str, metric: str | None) -> Cell:
    _files.record(row, REQUIRED_CACHED, place)
    evaluation = row["evaluation_result"] or {}
    metric = metric or evaluation.get("metric")
    return _cell(
        index=row["global_index"],
        prompt=row["question"],
        expert=row["llm_selected"],
        score=_files.score(evaluation.get("score"), f"{place}: score", metric),
        cost=_files.number(evaluation.get("inference_cost"), f"{place}: inference_cost"),
        result=row,
        place=place,
    )


def _cell(
    index: Any,
    prompt: Any,
    expert: Any,
    score: float | None,
    cost: float | None,
    result: Any,
    place: str,
) -> Cell:
    result = result if isinstance(result, dict) else {}
    usage = result.get("token_usage") or {}
    return Cell(
        id=str(index),
        expert=str(expert),
        prompt=str(prompt),
        domain=str(index).rpartition("_")[0] or None,
        score=float("nan") if score is None else score,
        cost=float("nan") if cost is None else cost,
        answer=result.get("generated_answer"),
        in_tokens=_files.number(usage.get("input_tokens"), f"{place}: input_tokens"),
        out_tokens=_files.number(usage.get("output_tokens"), f"{place}: output_tokens"),
    )
