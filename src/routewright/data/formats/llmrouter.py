"""LLMRouter's routing data, such as `default_routing_train_data.jsonl`.

Layout (ulab-uiuc/LLMRouter, `llmrouter/data/README.md`): one line per query and model with
`task_name`, `query`, `ground_truth`, `metric`, `model_name`, `response`, `performance` (0..1),
`input_tokens`, `output_tokens`, `response_time` (s) and perhaps `user_id`. A query is what has the
same task, text, truth, metric and user. No costs, but tokens: `--prices` tells the costs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import _files
from routewright.data.formats._wide import Cell, long, wide

NEED = ("query", "model_name", "performance")
SAME = ("task_name", "query", "ground_truth", "metric", "user_id")


def read(path: Path) -> pl.DataFrame:
    """An outcome table with tokens and latency; the split is told by the name of the file."""
    split = _files.split(path)
    cells = [_cell(row, split, place) for place, row in _files.jsonl(path, NEED)]
    return wide(long(cells), path)


def _cell(row: dict[str, Any], split: str | None, place: str) -> Cell:
    def number(name: str) -> float | None:
        return _files.number(row.get(name), f"{place}: {name}")

    score = number("performance")
    return Cell(
        id=_id(row),
        expert=str(row["model_name"]),
        prompt=str(row["query"]),
        domain=row.get("task_name"),
        split=split,
        score=float("nan") if score is None else score,
        answer=row.get("response"),
        latency=number("response_time"),
        in_tokens=number("input_tokens"),
        out_tokens=number("output_tokens"),
    )


def _id(row: dict[str, Any]) -> str:
    same = json.dumps([row.get(name) for name in SAME])
    digest = hashlib.blake2b(same.encode(), digest_size=8).hexdigest()
    return f"{row.get('task_name') or 'query'}/{digest}"
