"""RouterBench's wide table, `routerbench_0shot.pkl` and `_5shot.pkl`, or the same as CSV.

Layout (withmartian/routerbench, `convertors/common.py`): `sample_id`, `prompt`, `eval_name`; for
each MODEL its mean performance in the column `MODEL`, `MODEL|model_response` and
`MODEL|total_cost` (US$); `oracle_model_to_route_to`. Prompts and responses are lists in Python
notation. Paper: arXiv 2403.12031.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import _files, _pickle
from routewright.errors import BadTable

REQUIRED = ("sample_id", "prompt", "eval_name")
COST, ANSWER = "|total_cost", "|model_response"


def read(path: Path) -> pl.DataFrame:
    """An outcome table with measured costs. A pickle is read without executing it."""
    columns = _columns(path)
    models = [name.removesuffix(COST) for name in columns if name.endswith(COST)]
    if not models:
        raise BadTable(f"'{path}' has no column MODEL{COST}: another format?")
    _files.demand(columns, models, path)
    table: dict[str, list[Any]] = {
        "id": [str(sample) for sample in columns["sample_id"]],
        "prompt": [unlist(prompt) for prompt in columns["prompt"]],
        "domain": columns["eval_name"],
    }
    for model in models:
        table[f"score::{model}"] = _numbers(columns, model, path)
        table[f"cost::{model}"] = _numbers(columns, model + COST, path)
        if model + ANSWER in columns:
            table[f"answer::{model}"] = [unlist(response) for response in columns[model + ANSWER]]
    return pl.DataFrame(table, schema={name: _type(name) for name in table})


def unlist(text: Any) -> str | None:
    """The items of a list in Python notation, one per line; any other text unchanged.

    >>> unlist("['Name a prime.', 'Be brief.']")
    'Name a prime.\\nBe brief.'
    """
    if not isinstance(text, str):
        return None
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        parts = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return "\n".join(parts) if all(isinstance(part, str) for part in parts) else text


def _columns(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".csv":
        return _files.csv(path, REQUIRED).to_dict(as_series=False)
    columns = _pickle.columns(path)
    _files.demand(columns, REQUIRED, path)
    return columns


def _numbers(columns: dict[str, list[Any]], name: str, path: Path) -> list[float | None]:
    return [
        _files.number(value, f"'{path}' row {row}: {name}")
        for row, value in enumerate(columns[name], start=1)
    ]


def _type(name: str) -> type[pl.DataType]:
    return pl.Float64 if name.startswith(("score::", "cost::")) else pl.String
