"""RouterArena's prediction files (`router_inference/predictions/*.json`) and cached results.

Layout (RouteWorks/RouterArena, README and those files): a list of entries with `global index`,
`prompt`, `prediction` (the model that was asked), `generated_result` with `generated_answer` and
`token_usage`, `accuracy` (0..1) and `cost` (US$); or `cached_results/MODEL.jsonl` with
`global_index`, `question`, `llm_selected` and `evaluation_result`. The expert is the model that was
asked, so one router's file has one expert per query, plus those marked `for_optimality`: give
several files to fill the table. Paper: arXiv 2510.00202.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import _files
from routewright.data.formats._wide import Cell, long, wide
from routewright.errors import BadTable

REQUIRED = ("global index", "prompt", "prediction", "accuracy")
REQUIRED_CACHED = ("global_index", "question", "llm_selected", "evaluation_result")


def read(path: Path) -> pl.DataFrame:
    """An outcome table with measured costs; the query's index gives the domain (its data set)."""
    cells = list(_cached(path) if path.suffix == ".jsonl" else _predictions(path))
    rows = long(cells).unique(maintain_order=True)  # optimality rows repeat the router's own
    return wide(rows, path)


def _predictions(path: Path) -> Iterator[Cell]:
    entries = _files.json(path)
    if not isinstance(entries, list):
        raise BadTable(f"'{path}' is not a list of predictions: another format?")
    for number, entry in enumerate(entries, start=1):
        place = f"'{path}' entry {number}"
        row = _files.record(entry, REQUIRED, place)
        yield _cell(
            index=row["global index"],
            prompt=row["prompt"],
            expert=row["prediction"],
            score=_files.number(row["accuracy"], f"{place}: accuracy"),
            cost=_files.number(row.get("cost"), f"{place}: cost"),
            result=row.get("generated_result"),
            place=place,
        )


def _cached(path: Path) -> Iterator[Cell]:
    for place, row in _files.jsonl(path, REQUIRED_CACHED):
        evaluation = row["evaluation_result"] or {}
        yield _cell(
            index=row["global_index"],
            prompt=row["question"],
            expert=row["llm_selected"],
            score=_files.number(evaluation.get("score"), f"{place}: score"),
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
