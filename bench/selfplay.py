"""Self-play on the sandbox: 50 graded queries, then 400 of its own, against 400 drawn at random.

Both are measured on the same 1,200 questions, which none of them saw, and beside a router fitted
on 2,000 random queries. Random ones are drawn without regard to their kind, as traffic would bring
them; 400 with every kind equally often are measured too: so much of a gain is balance alone.
`python -m bench selfplay`; about ten minutes on two cores.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.data.queries import Item
from routewright.demo import ENCODER, sandbox_experts
from routewright.evaluation.evaluate import evaluate
from routewright.experts.client import Client
from routewright.fitting.fit import fit
from routewright.grading.graders import Graders
from routewright.interview import interview, selfplay
from routewright.router.router import Router

SEEDS = range(int(os.environ.get("SEEDS", 5)))
START, MORE, FULL, HELD_OUT = 50, 400, 2000, 1200
ROUNDS = 4
SETTINGS = {"queries": MORE // ROUNDS, "cosine": 0.99}  # most of the sandbox's sums look alike
FIGURES = ("quality at 50 % cost", "AIQ", "AIQ, straight lines")


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory(prefix="routewright-selfplay-") as folder:
        held_out = _asked(_fresh(HELD_OUT, 10_000), Path(folder) / "held-out.parquet")
        found = np.array([_seed(seed, held_out, Path(folder) / str(seed)) for seed in SEEDS])
    arms = ("start, 50", "and 400 random", "and 400 by self-play", "2,000 random", "and 400 evenly")
    table = Table(title=f"mean of {len(SEEDS)} seeds (standard deviation)")
    for heading in ("fitted on", *FIGURES):
        table.add_column(heading)
    for arm, rows in zip(arms, found.transpose(1, 0, 2), strict=True):
        cells = zip(rows.mean(axis=0), rows.std(axis=0, ddof=1), strict=True)
        table.add_row(arm, *(f"{mean:.4f} ({sd:.4f})" for mean, sd in cells))
    console.print(table)
    for k, figure in enumerate(FIGURES):
        start, random, played, full, evenly = found[:, :, k].T
        gap = full.mean() - start.mean()
        print(
            f"{figure}: self-play closes {(played.mean() - start.mean()) / gap:.0%} of the gap,"
            f" random {(random.mean() - start.mean()) / gap:.0%}; self-play − random"
            f" {_interval(played - random)}, by seed {np.round(played - random, 4).tolist()};"
            f" self-play − evenly {_interval(played - evenly)}"
        )


def _seed(seed: int, held_out: Outcomes, folder: Path) -> list[list[float]]:
    """The figures of the arms for one seed."""
    folder.mkdir()
    secret = {query.text for query in held_out.queries}
    pool = [item for item in _fresh(2 * FULL, seed) if item.query.text not in secret]
    lots = np.random.default_rng(seed).permutation(len(pool))[:FULL]
    drawn = [pool[place] for place in lots.tolist()]
    table = folder / "random.parquet"
    rows = _asked(drawn, table)
    start = folder / "start.parquet"
    _asked(drawn[:START], start)
    routers = [_fit(outcomes.read(start), seed), _fit(rows.rows(slice(START + MORE)), seed)]
    routers += [_played(routers[0], start, held_out, folder / "play", seed), _fit(rows, seed)]
    routers.append(_fit(rows.rows(_evenly(drawn)), seed))
    figures = [_figures(router, held_out) for router in routers]
    print(f"seed {seed}: {np.round(figures, 4).tolist()}", flush=True)
    return figures


def _played(router: Router, start: Path, held_out: Outcomes, folder: Path, seed: int) -> Router:
    async def run() -> Router:
        experts = sandbox_experts()
        async with Client(experts) as client:
            play = selfplay.Play(
                folder,
                router,
                [start],
                selfplay.templates("sandbox"),
                selfplay.Settings(**SETTINGS, seed=100 + seed),
                ask=lambda items: interview.Interview(items, experts, client, Graders(["exact"])),
                held_out=held_out,
                strategy="single",
            )
            for _ in range(ROUNDS + 1):
                await play.next()
            return play.router

    return asyncio.run(run())


def _evenly(drawn: Sequence[Item]) -> np.ndarray:
    """The start, and of what was drawn after it every kind equally often."""
    turns: Counter[str | None] = Counter()
    order = []
    for place, item in enumerate(drawn[START:], START):
        order.append((turns[item.query.domain], place))
        turns[item.query.domain] += 1
    return np.array([*range(START), *(place for _, place in sorted(order)[:MORE])])


def _fresh(n: int, seed: int) -> list[Item]:
    return selfplay.sandbox(n, seed)


def _asked(drawn: Sequence[Item], path: Path) -> Outcomes:
    """What the three models say to these questions."""

    async def run() -> None:
        experts = sandbox_experts()
        async with Client(experts) as client:
            asked = interview.Interview(drawn, experts, client, Graders(["exact"]))
            interview.write(drawn, await asked.run(), path)

    asyncio.run(run())
    return outcomes.read(path)


def _fit(rows: Outcomes, seed: int) -> Router:
    return fit(rows, encoder=ENCODER, strategy="single", seed=seed)


def _figures(router: Router, held_out: Outcomes) -> list[float]:
    figures = evaluate(router, held_out, replicates=1).to_json()
    half = figures["at_cost_fraction"]["0.5"]["quality"]
    return [float(half), float(figures["aiq"]), float(figures["aiq_no_hull"])]


def _interval(values: np.ndarray) -> str:
    """Mean and normal 95 % interval over seeds."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.4f} ({values.mean() - half:+.4f} … {values.mean() + half:+.4f})"


if __name__ == "__main__":
    main()
