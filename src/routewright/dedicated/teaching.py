"""The lessons of a dedicated model: the base's failures, and the answers of a larger model.

A model's folder records the queries that it was trained on, so that later lessons and calibrations
leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from routewright import files
from routewright.data import outcomes as tables
from routewright.data.outcomes import Outcomes, fingerprints
from routewright.data.queries import Item
from routewright.errors import BadInput, BadTable
from routewright.prediction.stored import Arrays
from routewright.types import Array

TRAINING_QUERIES = "taught.safetensors"  # fingerprints, in a model's folder


def lessons(frame: pl.DataFrame, expert: str, *, exclude: Any = ()) -> list[Item]:
    """Turns an outcome table into a query set that teaches when `expert` fails.

    The fact `failure` is the share of its answers that were wrong (1 − `soft::`, else 1 −
    `score::`); `reference` is its own answer if that was right. Queries without a score are left
    out, and so are those whose fingerprints are in `exclude`: a model fails less often on queries
    that it was trained on. Raises BadInput if the table has no such expert.
    """
    failure = 1 - _score(frame, expert, soft=True)
    right = _score(frame, expert) >= 1
    texts = _texts(frame, expert)
    items = []
    for query, split, share, is_right, text in zip(
        tables.queries_of(frame), _splits(frame), failure, right, texts, strict=True
    ):
        if np.isnan(share):
            continue
        answer = text if is_right and share < 1 else None
        items.append(Item(query, answer, split, facts={"failure": round(float(share), 6)}))
    return _without(items, exclude)


def answers(
    frame: pl.DataFrame, teacher: str, *, pupil: str | None = None, at_least: float = 1.0
) -> list[Item]:
    """Turns the teacher's answers with a score of `at_least` (0..1) into lessons in answering.

    Where the `pupil` was right, its own answer is the lesson, so that it forgets nothing. Raises
    BadTable if the table has no such answer, and BadInput if it has no such expert.
    """
    good = _score(frame, teacher) >= at_least
    teacher_texts = _texts(frame, teacher)
    own = _score(frame, pupil) >= 1 if pupil else np.zeros(len(frame), bool)
    pupil_texts = _texts(frame, pupil) if pupil else teacher_texts
    items = []
    for i, (query, split) in enumerate(zip(tables.queries_of(frame), _splits(frame), strict=True)):
        text = pupil_texts[i] if own[i] else teacher_texts[i] if good[i] else None
        if text:
            items.append(Item(query, text, split))
    if not items:
        raise BadTable(
            f"no answer of '{teacher}' scored {at_least:g} or more, so there is nothing to learn:"
            " lower at_least, or interview more queries"
        )
    return items


def _score(frame: pl.DataFrame, expert: str, *, soft: bool = False) -> Array:
    """Scores (n,), NaN if unknown; with `soft`, the mean score of samples if there is one."""
    experts = [c.removeprefix("score::") for c in frame.columns if c.startswith("score::")]
    tables.check_names([expert], experts)
    names = [f"soft::{expert}"] * soft + [f"score::{expert}"]
    columns = [pl.col(name) for name in names if name in frame.columns]
    return (
        frame.select(pl.coalesce(columns).fill_nan(None).alias("x"))["x"]
        .cast(pl.Float64)
        .to_numpy()
    )


def _texts(frame: pl.DataFrame, expert: str) -> list[str | None]:
    columns = [pl.col(f"{c}::{expert}") for c in ("text", "answer") if f"{c}::{expert}" in frame]
    if not columns:
        return [None] * len(frame)
    return frame.select(pl.coalesce(columns).cast(pl.String).alias("x"))["x"].to_list()


def _splits(frame: pl.DataFrame) -> list[str]:
    return frame["split"].to_list() if "split" in frame.columns else ["train"] * len(frame)


def _without(items: Sequence[Item], exclude: Any) -> list[Item]:
    excluded = set(np.asarray(exclude, dtype=np.uint64).tolist())
    return [item for item in items if int(fingerprints([item.query])[0]) not in excluded]


def training_queries(folder: str | Path) -> Any:
    """The fingerprints (n,) of the queries that the model in `folder` was trained on.

    There are none if the folder does not record them, or if `folder` is a Hugging Face name.
    """
    path = Path(folder) / TRAINING_QUERIES
    if not path.exists():
        return np.empty(0, np.uint64)
    return Arrays(f"'{path}'", files.read_arrays(path)).take(
        "queries", "queries", kind="u", least=0, most=np.inf
    )


def held_out(outcomes: Outcomes, folder: Path) -> Outcomes:
    """The rows that the model in `folder` was not trained on. Raises BadInput if there are none."""
    excluded = set(training_queries(folder).tolist())
    marks = [int(fingerprints([query])[0]) for query in outcomes.queries]
    rows = outcomes.rows([i for i, mark in enumerate(marks) if mark not in excluded])
    if not len(rows):
        raise BadInput(
            f"'{folder}' was trained on every one of these rows: choose a table or a split with"
            " other queries"
        )
    return rows


def record_queries(out: Path, base: str, items: Sequence[Item]) -> None:
    """Records in `out` the queries of `items` and those that the base was trained on."""
    from safetensors.numpy import save

    own = fingerprints([item.query for item in items])
    queries = np.union1d(own, training_queries(base))
    files.write(out / TRAINING_QUERIES, save({"queries": queries}))
