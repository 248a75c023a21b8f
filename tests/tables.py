"""Small outcome tables that the tests make themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from routewright.strategies._recorded import Recorded, Run, replayed, run

TOPICS = {
    "sums": ("add", "subtract", "multiply", "total", "number", "digits"),
    "words": ("reverse", "spell", "letter", "vowel", "word", "rhyme"),
}


def table(n: int = 400, seed: int = 0, *, signal: float = 1.0, costs: bool = True) -> pl.DataFrame:
    """Two cheap specialists and a dear generalist; `signal` 0 makes prompts say nothing."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, 2, n)
    names = list(TOPICS)
    prompts = [
        f"{' '.join(rng.choice(TOPICS[names[t]], 4))} {rng.integers(1000)} please" for t in topics
    ]
    own, other = 0.65 + 0.25 * signal, 0.65 - 0.45 * signal
    chance = {
        "adder": np.where(topics == 0, own, other),
        "speller": np.where(topics == 1, own, other),
        "sage": np.full(n, 0.85),
    }
    rows = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": prompts,
        "domain": [names[t] for t in topics],
        "split": ["train" if i % 4 else "dev" for i in range(n)],
    }
    for expert, p in chance.items():
        rows[f"score::{expert}"] = (rng.random(n) < p).astype(np.float32)
        rows[f"verify::{expert}"] = np.clip(p + rng.normal(0, 0.2, n), 0, 1)
        if costs:
            rows[f"cost::{expert}"] = (10.0 if expert == "sage" else 1.0) * (
                1e-5 + 1e-7 * np.array([len(p) for p in prompts])
            )
    return pl.DataFrame(rows)


def write(folder: Path, frame: pl.DataFrame, name: str = "outcomes.parquet") -> Path:
    path = folder / name
    frame.write_parquet(path)
    return path


def swept_as_replayed(strategy, outcomes, router=None) -> Run:
    """What a strategy does over a whole table, which is what its plan does row by row."""
    rows = Recorded(outcomes, router)
    swept, replays = run(strategy, rows), replayed(strategy, rows)
    np.testing.assert_array_equal(swept.score, replays.score, err_msg=repr(strategy)[-80:])
    np.testing.assert_allclose(swept.cost, replays.cost, rtol=1e-12)
    known = np.isfinite(replays.score)
    np.testing.assert_array_equal(swept.asked[known], replays.asked[known])
    return swept
