"""Compares systems task by task, as Zooter does (arXiv 2311.08692).

Shapes: s systems (experts, routers), t tasks; `quality` is (s, t). A task on which any system's
quality is unknown is left out for all systems.
"""

from __future__ import annotations

import numpy as np

from routewright.metrics.forecasts import average_ranks
from routewright.types import Array


def task_rank(quality: Array) -> Array:
    """Mean task rank per system, (s,): 1 means best on every task; ties share their mean rank."""
    ranks = [average_ranks(-column) for column in _complete(quality).T]
    return np.mean(ranks, axis=0) if ranks else np.full(len(quality), np.nan)


def uplift(quality: Array) -> Array:
    """Share of tasks on which each system is best, (s,); ties are split, so the shares sum to 1."""
    complete = _complete(quality)
    if not complete.size:
        return np.full(len(quality), np.nan)
    best = complete >= complete.max(axis=0)
    return np.asarray((best / best.sum(axis=0)).mean(axis=1))


def _complete(quality: Array) -> Array:
    return quality[:, np.isfinite(quality).all(axis=0)]
