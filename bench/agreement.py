"""How experts agree on tables with answers: what the prior of `fitting.agreement` rests on.

    python -m bench.agreement

Per table, the mean of the fitted difficulty and scatter over random pools of six experts, and what
the other tables together would have said of it; and how far the gains of ladders that are fitted on
fifty rows are from those that were expected of them (`frontier.DEVIATION`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench._data import P1, REAL
from bench.auto import GSM8K
from routewright import metrics
from routewright.answers import equivalence
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.fitting import agreement, ladder
from routewright.fitting.ladder import kind_of
from routewright.prediction.predictors import folds
from routewright.router.frontier import gains_of
from routewright.strategies._recorded import Recorded, StandIn
from routewright.strategies.auto import Auto
from routewright.types import Array, Prediction

TABLES = {"mmlu_pro": "train", "gsm8k_dedicated": "dev", "lineage_2024": "train"}
LINEAGE = (
    "llama-3.3-70b-instruct",
    "deepseek-r1-distill-qwen-32b",
    "qwq-32b-preview",
    "deepseek-v3",
    "llama-3.1-tulu-3-405b",
    "o1",
)
POOLS, EXPERTS, ROWS = 8, 6, 800
FEW, DRAWS, LEAST = 50, 3, 0.01  # labels, draws, expected gain that counts
VAGUE = agreement.Prior(
    agreement.Normal(0.5, 1.5), agreement.Normal(0.4, 0.7), agreement.Normal(0.7, 0.8)
)


def parameters(table: str, split: str) -> Array:
    """The logarithms of difficulty and scatter of each pool, (POOLS, 2)."""
    rows = outcomes.read(REAL / f"{table}.parquet", split=split)
    kind = kind_of(rows)
    assert kind is not None
    rng = np.random.default_rng(0)
    scored = np.flatnonzero(np.isfinite(rows.score).mean(axis=0) > 0.9)
    fitted = []
    for _ in range(POOLS):
        pool = rows.pool([rows.experts[m] for m in rng.choice(scored, EXPERTS, replace=False)])
        pool = pool.rows(rng.permutation(len(pool))[:ROWS])
        assert pool.answers is not None
        model = agreement.fit(equivalence.labels(kind, pool.answers), pool.score, prior=VAGUE)
        fitted.append([np.log(model.difficulty), np.log(model.scatter)])
    return np.array(fitted)


def surprises(table: str, split: str, experts: Sequence[str] | None) -> Array:
    """Real less expected gains over the zero router, of ladders on FEW rows without forecasts."""
    rows = outcomes.read(REAL / f"{table}.parquet", split=split, experts=experts)
    found = []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(rows))
        few, rest = rows.rows(np.sort(order[:FEW])).costed(), rows.rows(order[FEW:2000]).costed()
        beliefs = [constant(part, few) for part in (few, rest)]
        built = ladder.build(few, beliefs[0], folds(FEW, 5, seed), seed=seed)
        if built is None or built.candidates[0].expected is None:
            continue
        router = StandIn(beliefs[1], built.evidence)
        recorded = Recorded(rest, router)
        runs = [Auto(router, float(price)).over(recorded) for price in built.evidence.prices]
        real = gains_of(
            [
                candidate._replace(score=run.score, cost=run.cost)
                for candidate, run in zip(built.candidates, runs, strict=True)
            ],
            rest,
        )
        expected = np.array([candidate.expected for candidate in built.candidates])
        found.append((np.array(real) - expected)[expected > LEAST])
    return np.concatenate([np.empty(0), *found])


def constant(rows: Outcomes, few: Outcomes) -> Prediction:
    """Forecasts that say nothing of a query."""
    quality, cost = (
        np.tile(metrics.mean(cells), (len(rows), 1)) for cells in (few.score, few.charges)
    )
    return Prediction(
        rows.experts, quality, np.full_like(quality, 0.1), cost, np.full_like(cost, np.nan)
    )


def main() -> None:
    present = {t: split for t, split in TABLES.items() if (REAL / f"{t}.parquet").exists()}
    logs = {table: parameters(table, split) for table, split in present.items()}
    for table, log in logs.items():
        own = np.exp(log.mean(axis=0))
        others = [other.mean(axis=0) for name, other in logs.items() if name != table]
        rest = np.exp(np.mean(others, axis=0)) if others else np.full(2, np.nan)
        print(
            f"{table}: difficulty {own[0]:.2f} (others {rest[0]:.2f}),"
            f" scatter {own[1]:.2f} (others {rest[1]:.2f})"
        )
    if logs:
        means = np.array([log.mean(axis=0) for log in logs.values()])
        spread = np.vstack([*logs.values()]).std(axis=0)
        print(f"all: difficulty {np.exp(means[:, 0].mean()):.2f}, log sd {spread[0]:.2f};", end="")
        print(f" scatter {np.exp(means[:, 1].mean()):.2f}, log sd {spread[1]:.2f}")

    pools = {"mmlu_pro": P1, "gsm8k_dedicated": GSM8K, "lineage_2024": LINEAGE}
    errors = []
    for table in present:
        error = surprises(table, present[table], pools[table])
        errors.append(error)
        bias, size = (error.mean(), np.sqrt((error**2).mean())) if len(error) else (0.0, 0.0)
        print(f"{table}: real less expected gain {bias:+.3f} on average, {size:.3f} in size")
    size = np.sqrt((np.concatenate(errors) ** 2).mean())
    print(f"all: {size:.3f} in size")


if __name__ == "__main__":
    main()
