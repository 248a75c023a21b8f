"""What the prompt tells, what answers tell, and what both tell: `docs/evidence.md`.

    python -m bench.evidence [POOL …]

Fitted on `train`, measured on `dev`, as a Markdown table in points of quality. `single` decides by
prediction alone; "answers alone" is `auto` that knows nothing of the prompt but the experts' means,
so it is a learned cascade; `auto` uses both. Gains are over the fixed mix of the same cost, chosen
in hindsight on the rows of `dev`, with paired 95 % intervals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench import prose
from bench._data import POOLS, REAL
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit, fit_each
from routewright.router.router import Router

FRACTIONS = ("0.25", "0.5")
TABLES = {
    **POOLS,
    **{name: (table, experts) for name, (table, experts, _) in prose.POOLS.items()},
}


def main(pools: Sequence[str] = ()) -> None:
    if unknown := [pool for pool in pools if pool not in TABLES]:
        sys.exit(f"no pool {', '.join(unknown)}: choose among {', '.join(TABLES)}")
    print("| pool (rows) | at | fixed mix | prompt alone | answers alone | both |")
    print("|---|---|---|---|---|---|")
    for pool in pools or TABLES:
        table, experts = TABLES[pool]
        path = REAL / f"{table}.parquet"
        if not path.exists():
            print(f"{pool}: skipped, {path} is not here", file=sys.stderr)
            continue
        train, dev = (outcomes.read(path, experts=experts, split=s) for s in ("train", "dev"))
        began = time.perf_counter()
        for line in lines(f"{pool} ({len(train):,} + {len(dev)})", routers(train), dev):
            print(line, flush=True)
        print(f"{pool}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


def routers(train: Outcomes) -> dict[str, Router]:
    """The router of each column; without answers there is one."""
    if train.answers is None:
        return {"prompt": fit(train, strategy="single")}
    both = fit_each(train, ["single", "auto"])
    alone = fit(train, predictor="prior")
    return {"prompt": both["single"], "answers": alone, "both": both["auto"]}


def lines(name: str, routers: dict[str, Router], dev: Outcomes) -> Iterator[str]:
    figures = {column: evaluate(router, dev).to_json() for column, router in routers.items()}
    for fraction in FRACTIONS:
        at = {column: one["at_cost_fraction"][fraction] for column, one in figures.items()}
        zero = next(
            (
                100 * (one["quality"] - one["gain_over_zero_router"])
                for one in at.values()
                if one["quality"] is not None
            ),
            None,
        )
        mix = "–" if zero is None else f"{zero:.1f}"
        cells = (gain(at.get(column)) for column in ("prompt", "answers", "both"))
        yield f"| {name} | {100 * float(fraction):.0f} % | {mix} | {' | '.join(cells)} |"


def gain(at: dict[str, Any] | None) -> str:
    """A gain in points with its interval, in bold if it is proven."""
    if at is None or at["gain_ci"] is None:
        return "–"
    low, high = at["gain_ci"]
    words = f"{100 * at['gain_over_zero_router']:+.1f}"
    words = f"**{words}**" if low > 0 else words
    return f"{words} ({100 * low:+.1f} … {100 * high:+.1f})"


if __name__ == "__main__":
    main(sys.argv[1:])
