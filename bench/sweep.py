"""100 prices of quality over 100,000 queries and 10 experts."""

from __future__ import annotations

import time

import numpy as np

from routewright.policies import choose, take
from routewright.types import Prediction

QUERIES, EXPERTS, PRICES = 100_000, 10, 100


def main() -> None:
    rng = np.random.default_rng(0)
    shape = (QUERIES, EXPERTS)
    cost = rng.uniform(0.1, 1, shape) * np.geomspace(1e-5, 1e-2, EXPERTS)
    prediction = Prediction(
        tuple(f"m{i}" for i in range(EXPERTS)),
        rng.random(shape),
        np.zeros(shape),
        cost,
        np.full(shape, np.nan),
    )
    began = time.perf_counter()
    for price in np.geomspace(1, 1e5, PRICES):
        choice = choose(prediction, float(price))
        take(prediction.quality, choice).mean()
        take(prediction.cost, choice).mean()
    seconds = time.perf_counter() - began
    print(f"{PRICES} λ over {QUERIES:,} × {EXPERTS}: {seconds:.2f} s (wanted: under 10 s)")
