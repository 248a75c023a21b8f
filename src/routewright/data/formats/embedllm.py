"""EmbedLLM's correctness tables, `train.csv`, `val.csv` and `test.csv`.

Layout (richardzhuang0412/EmbedLLM, `algorithm/knn.py`; data set RZ412/EmbedLLM): one row per
model and prompt with `prompt_id`, `model_id`, `label` (0 or 1), `prompt` or `question`, and
perhaps `model_name`, `category` or `category_id`. If a model has several rows for a prompt, the
highest label counts, as in that code. The files have no costs. Paper: arXiv 2410.02223.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import wide
from routewright.data.outcomes import check_questions
from routewright.errors import BadTable


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table without costs; the file's name gives the split."""
    frame = _files.table(path, ["prompt_id", "label"])
    rows = frame.select(
        pl.col("prompt_id").alias("id"),
        _either(frame, path, "model_name", "model_id").alias("expert"),
        _either(frame, path, "prompt", "question").alias("prompt"),
        _domain(frame),
        pl.lit(_files.split(path), pl.String).alias("split"),
        _labels(frame, path),
    )
    check_questions([rows], f"'{path}'")
    keys, rest = ("id", "expert"), ("prompt", "domain", "split")
    best = rows.group_by(keys, maintain_order=True).agg(pl.col(rest).first(), pl.col("score").max())
    return wide(best, path)


def _either(frame: pl.DataFrame, path: Path, first: str, second: str) -> pl.Expr:
    if first not in frame.columns:
        _files.demand(frame.columns, [second], path)
    return pl.col(first if first in frame.columns else second)


def _domain(frame: pl.DataFrame) -> pl.Expr:
    columns = [name for name in ("category", "category_id") if name in frame.columns]
    return (pl.col(columns[0]) if columns else pl.lit(None, pl.String)).alias("domain")


def _labels(frame: pl.DataFrame, path: Path) -> pl.Series:
    score = frame["label"].cast(pl.Float64, strict=False).alias("score")
    invalid = (score.is_null() & frame["label"].is_not_null()).arg_true()
    if len(invalid):
        row = int(invalid[0])
        raise BadTable(
            f"'{path}' row {row + 1}: label is {frame['label'][row][:40]!r} and must be 0 or 1"
        )
    return score
