"""The quantities of an evaluation that several sections of the page share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from routewright import metrics
from routewright.evaluation import figures as measures
from routewright.evaluation import plots
from routewright.evaluation.figures import HALF, Evaluation
from routewright.types import Array

MORE_THAN_ONE = 1 + 1e-9


@dataclass(frozen=True)
class Study:
    """An evaluation, its figures, and quantities derived from both.

    Shapes: k operating points, n queries, e experts, b bootstrap replicates; the first
    replicate is the sample itself.
    """

    evaluation: Evaluation
    figures: Mapping[str, Any]

    @property
    def priced(self) -> bool:
        return plots.priced(self.figures)

    @property
    def experts(self) -> tuple[str, ...]:
        return self.evaluation.outcomes.experts

    @property
    def chance(self) -> Array:
        """The predicted scores, (n, e)."""
        assert self.evaluation.prediction is not None, "a router has a prediction"
        return self.evaluation.prediction.chance

    @cached_property
    def best(self) -> int:
        """The operating point with the lowest λ."""
        return int(np.argmin([point.price for point in self.evaluation.points]))

    @cached_property
    def best_figures(self) -> Mapping[str, Any]:
        figures: Mapping[str, Any] = self.figures["curve"][self.best]
        return figures

    @cached_property
    def most_expensive(self) -> str:
        """The expert to whose cost the fractions refer; of several, the best one."""
        facts = self.figures["experts"]
        return max(
            self.experts, key=lambda m: (plots.or_zero(facts[m]["cost"]), facts[m]["quality"])
        )

    @cached_property
    def asked(self) -> Array:
        """The expected number of asks of each expert for each query, (k, n, e)."""
        return np.array([run.asked[:, : len(self.experts)] for run in self.evaluation.runs])

    @cached_property
    def shares(self) -> Array:
        """The mean number of asks of each expert per query, (k, e)."""
        return np.array([metrics.mean(asked) for asked in self.asked])

    @cached_property
    def several(self) -> bool:
        """Whether any query is sent to more than one expert."""
        totals = np.array([run.asked.sum(axis=1) for run in self.evaluation.runs])
        return bool((totals > MORE_THAN_ONE).any())

    @cached_property
    def mean_costs(self) -> Array:
        return metrics.mean(self.evaluation.costs.T)

    @cached_property
    def half(self) -> tuple[tuple[int, float], ...]:
        """The operating points and weights whose mix costs half of the most expensive expert."""
        facts = self.figures["experts"][self.most_expensive]
        return _neighbours(self, HALF * facts["cost"]) if self.priced else ((self.best, 1.0),)

    @property
    def half_label(self) -> str:
        """A phrase for `half`."""
        if not self.priced:
            return "at λ = 0"
        least, most = self.span
        if least > HALF:
            return "at its lowest cost"
        return "at its highest cost" if most < HALF else "at half cost"

    @property
    def served(self) -> Evaluation:
        """What is served, as one point."""
        return self.evaluation.as_served

    @cached_property
    def gains(self) -> Array:
        """The gain of every operating point over the fixed mix at its cost, and the ends of its
        interval, (3, k)."""
        return measures.gains(self.evaluation)

    @cached_property
    def weights(self) -> Array:
        e = self.evaluation
        return np.vstack([np.ones(len(e.outcomes)), e.weights])

    @cached_property
    def control(self) -> tuple[Array, Array] | None:
        """Costs (US$) and qualities of the shuffled control, each (b, k); None if unknown."""
        if self.several:
            return None
        outcomes = self.evaluation.outcomes
        tables = (outcomes.charges, outcomes.score)
        costs, qualities = (metrics.shuffled(t, self.asked, self.weights) for t in tables)
        finite = np.isfinite(costs[0]).all() and np.isfinite(qualities[0]).all()
        return (costs, qualities) if finite else None

    @cached_property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest cost of the router, as cost fractions."""
        fractions = [point["cost_fraction"] for point in self.figures["curve"]]
        return min(fractions), max(fractions)

    @cached_property
    def by_cost(self) -> list[int]:
        """The experts, cheapest first; the better one last at ties."""
        facts = [self.figures["experts"][name] for name in self.experts]
        numbers = [(plots.or_zero(f["cost"]), plots.or_zero(f["quality"])) for f in facts]
        return sorted(range(len(facts)), key=lambda m: numbers[m])

    @cached_property
    def colours(self) -> list[str]:
        """The colours of the experts, in the order of `by_cost`."""
        return plots.palette(self.shares.max(axis=0)[self.by_cost].tolist())

    def at_half(self, per_point: Mapping[int, float] | Array) -> float:
        """The value of a quantity (k,) at half cost."""
        return float(sum(weight * per_point[k] for k, weight in self.half))


def _neighbours(study: Study, cost: float) -> tuple[tuple[int, float], ...]:
    """The operating points on both sides of a cost, weighted as in `metrics.quality_at`."""
    costs, qualities = study.mean_costs, metrics.mean(study.evaluation.scores.T)
    order = np.lexsort((qualities, costs))
    right = int(np.searchsorted(costs[order], cost))
    if right == 0 or right == len(order):
        return ((int(order[min(right, len(order) - 1)]), 1.0),)
    low, high = int(order[right - 1]), int(order[right])
    share = float((cost - costs[low]) / (costs[high] - costs[low]))
    return ((low, 1 - share), (high, share))
