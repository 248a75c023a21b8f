"""A new expert with a hundred answers: how much of what all labels give, and does choosing pay?

Fitted on `train`, measured on `dev`. AIQ counts from the cheapest to the dearest expert, which
are the same with and without the newcomer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import BY_DOMAIN, P1, REAL
from routewright import metrics
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.fitting import add_expert
from routewright.fitting.fit import fit
from routewright.router.router import Router

EXPERT = "Meta-Llama-3_1-70B-Instruct"
OTHERS = (
    *("DeepSeek-Coder-V2", "Meta-Llama-3-70B", "Meta-Llama-3_1-70B", "Qwen1.5-72B-Chat"),
    *("gemini-1.5-flash-002", "gemini-1.5-pro-002", "jamba-1.5-large", "deepseek-v2-chat"),
)
SEEDS = 20
ANSWERS = (25, 50, 100, 200)


def main() -> None:
    path = REAL / "mmlu_pro.parquet"
    if not path.exists():
        print(f"skipped: {path} is not here")
        return
    train, dev = (outcomes.read(path, split=split) for split in ("train", "dev"))
    router = fit(train.pool(P1), encoder=BY_DOMAIN)
    study = add_expert.study(router, train)
    full = fit(train.pool([*P1, EXPERT]), encoder=BY_DOMAIN)
    report(study, train.pool([EXPERT]), dev, without=router, everything=full)
    compare(study, train, dev)


def report(
    study: add_expert.Study, column: Outcomes, dev: Outcomes, *, without: Router, everything: Router
) -> None:
    floor, ceiling = area(without, dev), area(everything, dev)
    console = Console()
    console.print(f"AIQ on {len(dev)} rows: {floor:.4f} without {EXPERT}, {ceiling:.4f} with")
    console.print("all its labels. Share of that gain, mean of 20 seeds (95 % interval):")
    table = Table()
    for head in ("answers", "chosen", "random", "difference", "least", "error told"):
        table.add_column(head)
    table.add_column("error made")
    for answers in ANSWERS:
        shares, told, made = [], [], []
        for seed in range(SEEDS):
            picked = add_expert.join(study, column, answers=answers, seed=seed)
            drawn = add_expert.join(study, some(column, answers, seed), answers=answers)
            areas = np.array([area(joined.router, dev) for joined in (picked, drawn)])
            shares.append((areas - floor) / (ceiling - floor))
            told.append(picked.errors.mean)
            made.append(picked.quality - float(metrics.mean(column.score[:, 0])))
        share = np.array(shares)
        table.add_row(
            str(answers),
            *(interval(share[:, k]) for k in (0, 1)),
            interval(share[:, 0] - share[:, 1]),
            f"{share[:, 0].min():.3f}, {share[:, 1].min():.3f}",
            f"{np.mean(told):.3f}",
            f"{np.sqrt(np.mean(np.square(made))):.3f}",
        )
    console.print(table)


def compare(study: add_expert.Study, train: Outcomes, dev: Outcomes, answers: int = 100) -> None:
    """Chosen against random answers for other newcomers, a few seeds each."""
    differences = []
    for expert in OTHERS:
        column = train.pool([expert])
        for seed in range(SEEDS // 5):
            picked = add_expert.join(study, column, answers=answers, seed=seed)
            drawn = add_expert.join(study, some(column, answers, seed), answers=answers)
            differences.append(area(picked.router, dev) - area(drawn.router, dev))
    points = interval(100 * np.array(differences))
    print(f"{len(OTHERS)} other newcomers, {answers} answers, chosen − random, AIQ × 100: {points}")


def area(router: Router, rows: Outcomes) -> float:
    """AIQ of a router's operating points."""
    e = evaluate(router, rows, replicates=1)
    prices = metrics.mean(e.outcomes.cost)
    span = float(prices.min()), float(prices.max())
    return metrics.aiq(metrics.mean(e.costs.T), metrics.mean(e.scores.T), *span)


def some(column: Outcomes, answers: int, seed: int) -> Outcomes:
    """The column with as many answers, at random."""
    rng = np.random.default_rng(1000 + seed)
    asked = rng.choice(np.flatnonzero(np.isfinite(column.score[:, 0])), answers, replace=False)
    keep = np.isin(np.arange(len(column)), asked)[:, None]
    hidden = {name: np.where(keep, values, np.nan) for name, values in column.measures.items()}
    return replace(column, measures=hidden)


def interval(values: np.ndarray) -> str:
    """Mean and normal 95 % interval over seeds."""
    middle, half = values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{middle:.3f} ({middle - half:.3f} … {middle + half:.3f})"


if __name__ == "__main__":
    main()
