"""What a dedicated model learns from: where its base fails, and what a larger model answered.

Its folder remembers the queries, so that it is neither taught nor judged by them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from routewright.data import outcomes as tables
from routewright.data.outcomes import Outcomes, fingerprints
from routewright.data.queries import Item
from routewright.errors import BadInput, BadTable
from routewright.types import Array

TAUGHT = "taught.safetensors"  # fingerprints of the queries, in a model's folder


def lessons(frame: pl.DataFrame, expert: str, *, taught: Any = ()) -> list[Item]:
    """What an outcome table says about where `expert` fails, as a query set.

    The fact `failure` is the share of its answers that were wrong (1 − `soft::`, else 1 −
    `score::`); `reference` is its own answer, where that was right. Queries whose fingerprints are
    among `taught` are left out: on what it has learnt from, a model does not fail as elsewhere.
    """
    failure = 1 - _score(frame, expert, soft=True)
    right = _score(frame, expert) >= 1
    said = _texts(frame, expert)
    items = []
    for query, split, share, good, text in zip(
        tables.queries_of(frame), _splits(frame), failure, right, said, strict=True
    ):
        if np.isnan(share):
            continue
        answer = text if good and share < 1 else None
        items.append(Item(query, answer, split, facts={"failure": round(float(share), 6)}))
    return _unseen(items, taught)


def answers(
    frame: pl.DataFrame, teacher: str, *, pupil: str | None = None, at_least: float = 1.0
) -> list[Item]:
    """The teacher's answers that scored `at_least` so much, as lessons in answering.

    With `pupil`, what it already says right is kept in its own words, so that it forgets nothing.
    Raises BadTable where the table holds no such answer.
    """
    good = _score(frame, teacher) >= at_least
    said = _texts(frame, teacher)
    own = _score(frame, pupil) >= 1 if pupil else np.zeros(len(frame), bool)
    told = _texts(frame, pupil) if pupil else said
    items = []
    for i, (query, split) in enumerate(zip(tables.queries_of(frame), _splits(frame), strict=True)):
        text = told[i] if own[i] else said[i] if good[i] else None
        if text:
            items.append(Item(query, text, split))
    if not items:
        raise BadTable(f"no answer of '{teacher}' scored {at_least:g} or more: nothing to learn")
    return items


def _score(frame: pl.DataFrame, expert: str, *, soft: bool = False) -> Array:
    """Scores (n,), NaN where unknown; with `soft` the mean of samples goes before."""
    experts = [c.removeprefix("score::") for c in frame.columns if c.startswith("score::")]
    tables.check_names([expert], experts)
    names = [f"soft::{expert}"] * soft + [f"score::{expert}"]
    known = [pl.col(name) for name in names if name in frame.columns]
    return (
        frame.select(pl.coalesce(known).fill_nan(None).alias("x"))["x"].cast(pl.Float64).to_numpy()
    )


def _texts(frame: pl.DataFrame, expert: str) -> list[str | None]:
    known = [pl.col(f"{c}::{expert}") for c in ("text", "answer") if f"{c}::{expert}" in frame]
    if not known:
        return [None] * len(frame)
    return frame.select(pl.coalesce(known).cast(pl.String).alias("x"))["x"].to_list()


def _splits(frame: pl.DataFrame) -> list[str]:
    return frame["split"].to_list() if "split" in frame.columns else ["train"] * len(frame)


def _unseen(items: Sequence[Item], taught: Any) -> list[Item]:
    known = set(np.asarray(taught, dtype=np.uint64).tolist())
    return [item for item in items if int(fingerprints([item.query])[0]) not in known]


def taught(folder: str | Path) -> Any:
    """Fingerprints of every query that a model was trained on, as far as its folder says."""
    path = Path(folder) / TAUGHT
    if not path.exists():
        return np.empty(0, np.uint64)
    from safetensors.numpy import load_file

    return load_file(path)["queries"]


def held_out(outcomes: Outcomes, folder: Path) -> Outcomes:
    """The rows that the model in a folder has not learnt from; raises BadInput if none is left."""
    known = set(taught(folder).tolist())
    marks = [int(fingerprints([query])[0]) for query in outcomes.queries]
    kept = outcomes.rows([i for i, mark in enumerate(marks) if mark not in known])
    if not len(kept):
        raise BadInput(f"'{folder}' has learnt from every row of this table: name held-out ones")
    return kept


def sign(out: Path, base: str, items: Sequence[Item]) -> None:
    """Notes what was learnt from, here and by the base."""
    from safetensors.numpy import save_file

    own = fingerprints([item.query for item in items])
    save_file({"queries": np.union1d(own, taught(base))}, out / TAUGHT)
