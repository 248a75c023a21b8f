"""RouterBench's wide table, `routerbench_0shot.pkl` and `_5shot.pkl`, or the same as CSV.

Layout (withmartian/routerbench, `convertors/common.py`): `sample_id`, `prompt`, `eval_name`; for
each MODEL its mean performance in the column `MODEL`, `MODEL|model_response` and
`MODEL|total_cost` (US$); `oracle_model_to_route_to`. Prompts and responses are lists in Python
notation. A `sample_id` may stand in several rows, with other wordings of its prompt: rows with the
same texts whose scores complete each other become one, all others stay rows of one group.
Paper: arXiv 2403.12031.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import endings
from routewright.data.formats import DEFAULTS, Options, _files, _pickle
from routewright.errors import BadTable

REQUIRED = ("sample_id", "prompt", "eval_name")
COST, ANSWER = "|total_cost", "|model_response"


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
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
    frame = pl.DataFrame(table, schema={name: _type(name) for name in table})
    return _one_row_each(frame, models) if frame["id"].is_duplicated().any() else frame


def _one_row_each(frame: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """The frame with a row per query: complementary rows are merged, others get ids of their own.

    Rows of one sample share a `stem_sha`.
    """
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        wordings = samples.setdefault(row["id"], [])
        partner = next((one for one in wordings if _complete(one, row, models)), None)
        if partner is None:
            wordings.append(row)
            continue
        for model in (m for m in models if row[f"score::{m}"] is not None):
            names = (f"{cell}::{model}" for cell in ("score", "cost", "answer"))
            partner |= {name: row[name] for name in names if name in row}
    rows = [
        {**row, "id": id if n == 1 else f"{id}#{n}", "stem_sha": _stem(id, wordings)}
        for id, wordings in samples.items()
        for n, row in enumerate(wordings, start=1)
    ]
    return pl.DataFrame(rows, schema={**frame.schema, "stem_sha": pl.String})


def _stem(id: str, wordings: Sequence[Mapping[str, Any]]) -> str:
    texts = "\0".join([id, *(str(row["prompt"]) for row in wordings)])
    return hashlib.sha256(texts.encode("utf-8", "replace")).hexdigest()


def _complete(one: Mapping[str, Any], other: Mapping[str, Any], models: Sequence[str]) -> bool:
    """Whether two rows hold the same texts, and no model has a score in both."""
    texts = [set((row["prompt"] or "").splitlines()) for row in (one, other)]
    return (texts[0] <= texts[1] or texts[1] <= texts[0]) and not any(
        one[f"score::{m}"] is not None and other[f"score::{m}"] is not None for m in models
    )


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
    if endings.ending(path) in endings.ENDINGS:
        return _files.table(path, REQUIRED).to_dict(as_series=False)
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
