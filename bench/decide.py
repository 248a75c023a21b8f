"""How long a decision takes at batch 1 on one core, and how fast a router loads."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from bench._data import read
from routewright.fitting import fit
from routewright.router import Router
from routewright.types import Query


def main() -> None:
    train, dev = read("mmlu_experts", "train"), read("mmlu_experts", "dev")
    if train is None or dev is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router"
        began = time.perf_counter()
        fit(train).save(path)
        print(f"fit on {len(train):,} × {len(train.experts)}: {time.perf_counter() - began:.1f} s")
        print(f"load in a new process: {_load_ms(path):.0f} ms (wanted: under 200 ms)")
        router = Router.load(path)
        for domain in (True, False):
            queries = [q if domain else Query(q.messages) for q in dev.queries[:300]]
            median = _median_ms(router, queries)
            print(f"decision, domain {'known' if domain else 'unknown'}: {median:.2f} ms median")


def _median_ms(router: Router, queries: list[Query]) -> float:
    """With BLAS on one thread, as the gateway runs it."""
    router.predict(queries[:20])
    times = []
    with threadpool_limits(1, user_api="blas"):
        for query in queries:
            strategy = router.strategy(100.0)
            began = time.perf_counter()
            next(strategy.plan(query))
            times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e3


def _load_ms(path: Path) -> float:
    """After the interpreter and NumPy are up: our own imports and reading the folder."""
    script = (
        "import time, numpy; t = time.perf_counter();"
        f"from routewright.router import Router; Router.load({str(path)!r});"
        "print(1e3 * (time.perf_counter() - t))"
    )
    runs = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True).stdout)
        for _ in range(5)
    ]
    return float(np.median(runs))
