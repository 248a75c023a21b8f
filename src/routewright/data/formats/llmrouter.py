"""LLMRouter's routing data, such as `default_routing_train_data.jsonl`.

Layout (ulab-uiuc/LLMRouter, `llmrouter/data/README.md`): one line per query and model with
`task_name`, `query`, `ground_truth`, `metric`, `model_name`, `response`, `performance` (0..1),
`input_tokens`, `output_tokens`, `response_time` (s) and perhaps `user_id`, as JSONL or CSV. Lines
with the same task, text, truth, metric and user are one query. The file has tokens and no costs:
give `--prices` to compute them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import Cell, long, wide

OPTIONS = ("drop_duplicates", "metric")
REQUIRED = ("query", "model_name", "performance")
IDENTITY = ("task_name", "query", "ground_truth", "metric", "user_id")


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table with tokens and latency; the file's name gives the split."""
    split = _files.split(path)
    cells = [
        _cell(row, split, place, options.metric) for place, row in _files.records(path, REQUIRED)
    ]
    return wide(long(cells), path, options.drop_duplicates)


def _cell(row: dict[str, Any], split: str | None, place: str, metric: str | None) -> Cell:
    def number(name: str) -> float | None:
        return _files.number(row.get(name), f"{place}: {name}")

    metric = metric or row.get("metric")
    score = _files.score(row["performance"], f"{place}: performance", metric)
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
    identity = json.dumps([row.get(name) for name in IDENTITY])
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    return f"{row.get('task_name') or 'query'}/{digest}"
