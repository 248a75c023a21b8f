"""Measures how good a router is: pure functions on arrays, one file per subject.

Shapes: n queries, e experts, k operating points, b bootstrap replicates. Costs are in US$ per
query, qualities between 0 and 1. A value that is unknown or undefined is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from routewright.metrics.arena import Optimality, arena_score, optimality
from routewright.metrics.cascades import ibc_lift, ibc_lifts, ibc_undefined, mean_ibc_lift
from routewright.metrics.choices import best_single_value, oracle, reference_value, regret
from routewright.metrics.controls import domain_means, domain_table, over_shuffled, shuffled
from routewright.metrics.curves import aiq, apgr, cpt, hull, pgr, quality_at
from routewright.metrics.deferral import deferred, ownership
from routewright.metrics.forecasts import auc, average_ranks, brier, ece, routing_entropy
from routewright.metrics.sampling import influence, interval, margins, mean, resample, shrunk
from routewright.metrics.tasks import task_rank, uplift

__all__ = [
    "METRICS",
    "Optimality",
    "aiq",
    "apgr",
    "arena_score",
    "auc",
    "average_ranks",
    "best_single_value",
    "brier",
    "cpt",
    "deferred",
    "domain_means",
    "domain_table",
    "ece",
    "hull",
    "ibc_lift",
    "ibc_lifts",
    "ibc_undefined",
    "influence",
    "interval",
    "margins",
    "mean",
    "mean_ibc_lift",
    "optimality",
    "oracle",
    "over_shuffled",
    "ownership",
    "pgr",
    "quality_at",
    "reference_value",
    "regret",
    "resample",
    "routing_entropy",
    "shrunk",
    "shuffled",
    "task_rank",
    "uplift",
]

METRICS: dict[str, Callable[..., Any]] = {  # published name ▶ definition
    "AIQ": aiq,
    "quality at cost": quality_at,
    "APGR": apgr,
    "PGR": pgr,
    "CPT": cpt,
    "AUC": auc,
    "Brier score": brier,
    "ECE": ece,
    "E_p": routing_entropy,
    "regret": regret,
    "V_R": reference_value,
    "V_B": best_single_value,
    "arena score": arena_score,
    "Opt.Sel, Opt.Acc, Opt.Cost": optimality,
    "mean task rank": task_rank,
    "uplift": uplift,
    "ΔIBC": ibc_lift,
    "mean ΔIBC": mean_ibc_lift,
    "gain over the shuffled control": over_shuffled,
    "quality at ρ": deferred,
    "ownership": ownership,
}
