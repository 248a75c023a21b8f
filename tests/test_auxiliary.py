"""Other experts teach what is hard: keep or defer where the pool itself tells little."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright import metrics
from routewright.cli.main import app
from routewright.data import outcomes
from routewright.fitting import fit as fitting
from routewright.fitting.fit import Assumed
from routewright.router.router import Router
from tables import write

OTHERS = tuple(f"other{i}" for i in range(6))
ASSUMED = {"large": Assumed(0.95, 0.01)}


def memorised(
    n: int = 500, seed: int = 0, *, fresh: bool = False, share: float = 0.5
) -> pl.DataFrame:
    """Long questions are hard. On its own training rows `small` is right wherever it once was
    told, on a `share` of them, which the prompt does not say; `large` was never scored there."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 9, n)
    hard = (steps - 1) / 7
    told = rng.random(n) < (0.0 if fresh else share)
    rows = {
        "id": [f"q{seed}.{i}" for i in range(n)],
        "prompt": [" then ".join(f"add {rng.integers(99)} to it" for _ in range(s)) for s in steps],
        "score::small": np.where(told, 1.0, rng.random(n) < 0.9 - 0.6 * hard),
        "cost::small": np.full(n, 1e-4),
        "score::large": (rng.random(n) < 0.9).astype(float) if fresh else np.full(n, np.nan),
        "cost::large": np.full(n, 0.01) if fresh else np.full(n, np.nan),
    }
    for i, name in enumerate(OTHERS):
        rows[f"score::{name}"] = (rng.random(n) < 0.85 - 0.6 * hard - 0.02 * i).astype(float)
        rows[f"cost::{name}"] = np.full(n, 1e-4)
    return pl.DataFrame(rows)


@pytest.fixture
def everyone(tmp_path: Path):
    return outcomes.read(write(tmp_path, memorised(300)))


def foresight(router: Router, folder: Path) -> float:
    """AUC of what the router expects of `small` on questions that it was never told."""
    fresh = outcomes.read(write(folder, memorised(800, 9, fresh=True), "fresh.parquet"))
    expected = router.predict(fresh.queries).quality[:, 0]
    return metrics.auc(expected, fresh.score[:, fresh.experts.index("small")])


def test_what_others_find_hard_tells_when_to_defer(everyone, tmp_path: Path):
    pool, others = everyone.pool(["small", "large"]), everyone.pool(OTHERS)
    alone = fitting.fit(pool, assume=ASSUMED)
    taught = fitting.fit(pool, assume=ASSUMED, auxiliary=others)
    assert taught.card["auxiliary"] == list(OTHERS)
    assert foresight(taught, tmp_path) > foresight(alone, tmp_path) + 0.015


def test_what_is_assumed_of_an_expert_does_not_move_with_the_question(everyone):
    pool, others = everyone.pool(["small", "large"]), everyone.pool(OTHERS)
    router = fitting.fit(pool, assume=ASSUMED, auxiliary=others)
    believed = router.predictor.predict(router.encoder.encode(pool.queries))
    assert np.allclose(believed.mean[:, 1], 0.95)
    assert believed.mean[:, 0].std() > 0.02


def test_others_that_say_nothing_are_not_learnt_from(everyone):
    pool, noise = everyone.pool(["small", "large"]), everyone.pool(OTHERS)
    rng = np.random.default_rng(1)
    noise.measures["score"] = rng.integers(0, 2, noise.score.shape).astype(float)
    assert "auxiliary" not in fitting.fit(pool, assume=ASSUMED, auxiliary=noise).card


def test_a_router_taught_by_others_is_saved_whole(everyone, tmp_path: Path):
    pool, others = everyone.pool(["small", "large"]), everyone.pool(OTHERS)
    router = fitting.fit(pool, assume=ASSUMED, auxiliary=others)
    router.save(tmp_path / "r")
    again, first = (r.predict(pool.queries) for r in (Router.load(tmp_path / "r"), router))
    assert np.array_equal(again.quality, first.quality)
    assert again.quality.shape == (len(pool), 2)


def test_many_others_are_learnt_from_by_kind():
    rng = np.random.default_rng(0)
    difficulty = rng.random((300, 2))
    scores = np.hstack([rng.random((300, 20)) < difficulty[:, [k]] for k in (0, 1)]).astype(float)
    cluster_means = fitting.cluster_means(scores)
    assert cluster_means.shape == (300, fitting.CLUSTERS)
    mixed = np.abs(np.corrcoef(cluster_means.T, difficulty.T)[:-2, -2:])
    assert (mixed.max(axis=1) > 0.6).all(), "each kind finds the same hard"
    assert (mixed.min(axis=1) < 0.4).all(), "kinds are not mixed up"


def test_the_command_line_learns_from_the_rest_of_the_table(tmp_path: Path):
    table = str(write(tmp_path, memorised(300, share=0.2)))
    command = ["fit", table, "--experts", "small,large", "--assume", "large=0.95@0.01", "--json"]

    def fitted(*wish: str):
        return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "r"), *wish])

    assert json.loads(fitted().stdout)["card"]["auxiliary"] == list(OTHERS)
    assert "auxiliary" not in json.loads(fitted("--auxiliary", "none").stdout)["card"]
    few = json.loads(fitted("--auxiliary", "other1,other2,other3,small").stdout)["card"]
    assert few["auxiliary"] == ["other1", "other2", "other3"]
    assert "did you mean 'other1'?" in str(fitted("--auxiliary", "othr1").exception)
