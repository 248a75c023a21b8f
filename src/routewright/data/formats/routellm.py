"""RouteLLM's evaluation files, such as `mmlu_anatomy.csv` and `gsm8k_responses.csv`.

Layout (lm-sys/RouteLLM, `routellm/evals/benchmarks.py`): a column `prompt`, for each model a
column of True and False, sometimes `MODEL_response`. The files have no costs and no ids: file and
row identify a query. Paper: arXiv 2406.18665.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from routewright.data import endings
from routewright.data.formats import DEFAULTS, Options, _files
from routewright.errors import BadTable

RESPONSE = "_response"


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table without costs; the file's name gives the domain."""
    frame = _files.table(path, ["prompt"])
    models = [name for name in frame.columns if _is_model(name)]
    if not models:
        raise BadTable(f"'{path}' has no column of True and False beside 'prompt'")
    name = endings.stem(path)
    columns = [
        pl.concat_str(pl.lit(f"{name}/"), pl.int_range(1, pl.len() + 1)).alias("id"),
        pl.col("prompt"),
        pl.lit(name.removesuffix("_responses")).alias("domain"),
        *(_scores(frame, model, path) for model in models),
        *(
            pl.col(model + RESPONSE).alias(f"answer::{model}")
            for model in models
            if model + RESPONSE in frame.columns
        ),
    ]
    return frame.select(columns)


def _is_model(column: str) -> bool:
    index = not column or column.startswith("Unnamed:") or column == "_duplicated_0"
    return not index and column != "prompt" and not column.endswith(RESPONSE)


def _scores(frame: pl.DataFrame, model: str, path: Path) -> pl.Series:
    truth = frame[model].str.strip_chars().str.to_lowercase()
    score = truth.replace_strict(_files.TRUTH, default=None, return_dtype=pl.Float64)
    invalid = (score.is_null() & frame[model].is_not_null()).arg_true()
    if len(invalid):
        row = int(invalid[0])
        raise BadTable(
            f"'{path}' row {row + 1}: {model} is {frame[model][row][:40]!r} and must be"
            " True or False: another format?"
        )
    return score.alias(f"score::{model}")
