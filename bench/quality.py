"""The main job on real tables: fit on `train`, evaluate on `dev`, against every reference."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from bench._data import POOLS, read
from routewright.evaluation import evaluate
from routewright.fitting import fit


def main() -> None:
    table = Table()
    heads = "pool,fit s,predictor,at 0.1,at 0.25,at 0.5,at 0.75,gain at 0.5,AIQ,no hull,zero router"
    for head in heads.split(","):
        table.add_column(head)
    for pool in POOLS:
        train, dev = read(pool, "train"), read(pool, "dev")
        if train is None or dev is None:
            continue
        began = time.perf_counter()
        router = fit(train)
        seconds = time.perf_counter() - began
        figures = evaluate(router, dev).to_json()
        at = figures["at_cost_fraction"]
        half = at["0.5"]
        table.add_row(
            pool,
            f"{seconds:.0f}",
            router.card["predictor"],
            *(f"{at[f]['quality']:.3f}" for f in ("0.1", "0.25", "0.5", "0.75")),
            f"{half['gain_over_zero_router']:+.3f}"
            f" ({half['gain_ci'][0]:+.3f} … {half['gain_ci'][1]:+.3f})",
            *(f"{figures[k]:.4f}" for k in ("aiq", "aiq_no_hull", "aiq_zero_router")),
        )
    Console(width=160).print(table)
