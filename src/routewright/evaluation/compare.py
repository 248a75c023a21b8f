"""Two routers or policies on the same rows: paired differences along the curve, with intervals.

Both sides and the experts are measured anew on the same resampled rows, so that what the rows have
in common cancels. Rows of one question, or of one domain, are drawn together (see `drawn_whole`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from routewright import metrics
from routewright.data.outcomes import Outcomes
from routewright.data.text import TOO_FEW
from routewright.errors import BadTable
from routewright.evaluation import figures
from routewright.evaluation.figures import FRACTIONS, HALF, Evaluation
from routewright.strategies._recorded import Mask
from routewright.types import Array

GRID = 25  # costs along the curve


@dataclass(frozen=True)
class Side:
    """A router with all its operating points, or a policy with one."""

    name: str
    evaluation: Evaluation
    asked_for: str = ""
    warnings: tuple[str, ...] = ()  # what the reader must know first

    @property
    def is_curve(self) -> bool:
        return len(self.evaluation.points) > 1

    @property
    def served(self) -> Evaluation:
        """What is served, as one point."""
        return self.evaluation.as_served

    @property
    def goal(self) -> str:
        if self.is_curve and self.evaluation.at_half is not None:
            return f"max_cost_fraction {HALF:g}"
        return self.asked_for


@dataclass(frozen=True)
class Comparison:
    """Two sides, measured on the same n rows; the first of b replicates is the sample itself."""

    a: Side
    b: Side
    outcomes: Outcomes  # of the experts of both sides

    @classmethod
    def of(cls, a: Side, b: Side, outcomes: Outcomes) -> Comparison:
        """Compares two sides that were evaluated on rows of `outcomes` with the same seed.

        Costs are at the prices that a side was fitted at. Raises BadTable if the table knows no
        row on which both sides get a score.
        """
        pools = [side.evaluation.outcomes for side in (a, b)]
        names = list(dict.fromkeys(name for pool in pools for name in pool.experts))
        table = outcomes.pool(names).costed()
        for pool in reversed(pools):
            columns = [names.index(name) for name in pool.experts]
            cost = table.cost.copy()
            cost[:, columns] = pool.cost
            table = replace(table, measures={**table.measures, "cost": cost})
        comparison = cls(a, b, table)
        if not comparison.scored.any():
            raise BadTable(f"on none of {len(table)} rows both {a.name} and {b.name} get a score")
        return comparison

    @cached_property
    def scored(self) -> Mask:
        """(n,) rows on which every operating point of both sides has a score."""
        tables = [side.evaluation.scores for side in (self.a, self.b)]
        return np.asarray(np.isfinite(np.vstack(tables)).all(axis=0))

    @cached_property
    def rows(self) -> Outcomes:
        """The rows that both sides have a score for."""
        return self.outcomes.rows(self.scored)

    @cached_property
    def priced(self) -> bool:
        return bool(np.nansum(self.outcomes.cost) > 0)

    @cached_property
    def weights(self) -> Array:
        """(b, n); rows that one side has no score for count for neither."""
        n = len(self.outcomes)
        drawn = np.vstack([np.ones(n), self.a.evaluation.weights])
        return np.asarray(drawn * self.scored)

    @cached_property
    def dearest(self) -> Array:
        """The mean cost of the most expensive expert of both sides, (b,) in US$."""
        price = metrics.mean(self.outcomes.charges, self.weights)
        return np.asarray(price[:, int(np.nanargmax(price[0]))])

    def means(self, side: Side) -> tuple[Array, Array]:
        """Cost (US$) and quality of the side's operating points, (b, k) each."""
        e = side.evaluation
        return metrics.mean(e.costs.T, self.weights), metrics.mean(e.scores.T, self.weights)

    def reached(self, side: Side, costs: Array) -> Array:
        """The quality of a side at costs (b, c): of a mix of two neighbouring operating points; NaN
        below its cheapest one."""
        spent, quality = self.means(side)
        found = np.empty_like(costs)
        for b in range(len(costs)):
            order = np.lexsort((quality[b], spent[b]))
            found[b] = np.interp(costs[b], spent[b][order], quality[b][order], left=np.nan)
        return found

    def point(self, side: Side) -> tuple[Array, Array, Array]:
        """Cost, quality, and gain over mixing fixed experts, of what the side serves: (b,) each."""
        one = replace(side.served, outcomes=self.outcomes)
        costs, scores = (metrics.mean(t.T, self.weights)[:, 0] for t in (one.costs, one.scores))
        gain = figures.over_fixed_mix(one, self.weights)[:, 0] if self.priced else scores
        return costs, scores, gain

    def to_json(self) -> dict[str, Any]:
        """What `routewright compare --json` writes; differences are B − A."""
        return {
            "a": self._served(self.a),
            "b": self._served(self.b),
            "as_served": self._as_served(),
            "at_cost_fraction": self._at_fractions(),
            "at_cost_of": self._at_cost_of(),
            "along": self._along(),
            "aiq": self._aiq(),
            "choices": self._choices(),
            "experts": figures.experts(self.rows),
            "references": figures.references(self.rows),
            "n": len(self.rows),
            "questions": figures.questions(self.rows),
            "warnings": [*figures.warnings(self.rows), *self._warnings()],
        }

    def _served(self, side: Side) -> dict[str, Any]:
        cost, quality, gain = self.point(side)
        share = cost / self.dearest if self.priced else None
        return {
            "name": side.name,
            "asked_for": side.goal,
            "operating_points": len(side.evaluation.points),
            "quality": float(quality[0]),
            "quality_ci": list(metrics.interval(quality[1:])),
            "cost": float(cost[0]) if self.priced else None,
            "cost_fraction": None if share is None else float(share[0]),
            "gain_over_zero_router": float(gain[0]) if self.priced else None,
            "gain_ci": list(metrics.interval(gain[1:])) if self.priced else None,
        }

    def _as_served(self) -> dict[str, Any]:
        names = ("cost", "quality", "gain_over_zero_router")
        pairs = zip(names, self.point(self.a), self.point(self.b), strict=True)
        known = names if self.priced else ("quality",)
        return {name: self._difference(a, b) for name, a, b in pairs if name in known}

    def _at(self, costs: Array) -> list[dict[str, Any]]:
        """Both sides and their difference at costs (b, c)."""
        qualities = [self.reached(side, costs) for side in (self.a, self.b)]
        return [
            {
                "cost": float(costs[0, c]),
                "cost_fraction": float(costs[0, c] / self.dearest[0]),
                "a": _number(qualities[0][0, c]),
                "b": _number(qualities[1][0, c]),
                **self._difference(qualities[0][:, c], qualities[1][:, c]),
            }
            for c in range(costs.shape[1])
        ]

    def _at_fractions(self) -> dict[str, Any]:
        if not (self.priced and self.a.is_curve and self.b.is_curve):
            return {}
        at = self._at(np.outer(self.dearest, FRACTIONS))
        return {f"{fraction:g}": row for fraction, row in zip(FRACTIONS, at, strict=True)}

    def _at_cost_of(self) -> dict[str, Any] | None:
        """A router at the cost of a policy; None for two routers or two policies."""
        if not self.priced or self.a.is_curve == self.b.is_curve:
            return None
        single = self.b if self.a.is_curve else self.a
        costs, _ = self.means(single)
        return {"name": single.name, **self._at(costs)[0]}

    def _along(self) -> list[dict[str, Any]]:
        """The difference at costs that both routers can reach."""
        if not (self.priced and self.a.is_curve and self.b.is_curve):
            return []
        spent = [self.means(side)[0][0] for side in (self.a, self.b)]
        low, high = max(costs.min() for costs in spent), max(costs.max() for costs in spent)
        if not 0 < low < high:
            return []
        grid = np.geomspace(low * (1 + 1e-9), high, GRID) / self.dearest[0]  # not below by rounding
        return self._at(np.outer(self.dearest, grid))

    def _aiq(self) -> dict[str, Any] | None:
        """The mean quality over the range of costs, on straight lines between the points."""
        if not (self.priced and self.a.is_curve and self.b.is_curve):
            return None
        price = metrics.mean(self.outcomes.charges, self.weights)
        spans = list(zip(np.nanmin(price, axis=1), np.nanmax(price, axis=1), strict=True))
        areas = []
        for side in (self.a, self.b):
            points = zip(*self.means(side), spans, strict=True)
            areas.append(
                np.array([metrics.aiq(c, q, *span, with_hull=False) for c, q, span in points])
            )
        a, b = areas
        return {"a": float(a[0]), "b": float(b[0]), **self._difference(a, b)}

    def _choices(self) -> dict[str, Any]:
        """On how many rows what is served asks other experts, and who is right there."""
        names = self.outcomes.experts
        asked = [_asked(side, names)[self.scored] for side in (self.a, self.b)]
        other = np.abs(asked[0] - asked[1]).sum(axis=1) > 1e-9
        scores = [side.served.scores[0][self.scored][other] for side in (self.a, self.b)]
        return {
            "different": float(other.mean()),
            "rows": int(other.sum()),
            "a": _number(float(scores[0].mean())) if other.any() else None,
            "b": _number(float(scores[1].mean())) if other.any() else None,
        }

    def _difference(self, a: Array, b: Array) -> dict[str, Any]:
        """B − A with its paired interval; `proven` where the interval excludes 0, and there are
        questions enough to prove anything."""
        gap = b - a
        if not np.isfinite(gap[0]):
            return {"difference": None, "difference_ci": None, "proven": False}
        low, high = metrics.interval(gap[1:])
        groups = self.outcomes.groups or range(len(self.outcomes))
        questions = len(
            {group for group, scored in zip(groups, self.scored, strict=True) if scored}
        )
        return {
            "difference": float(gap[0]),
            "difference_ci": [low, high],
            "proven": questions >= TOO_FEW and bool(low > 0 or high < 0),
        }

    def _warnings(self) -> list[str]:
        found = list(dict.fromkeys((*self.a.warnings, *self.b.warnings)))
        if missing := int((~self.scored).sum()):
            has, are = ("row has", "is") if missing == 1 else ("rows have", "are")
            found.append(f"{missing} {has} no score for one side, and {are} left out.")
        prices = [
            side.evaluation.router.prices for side in (self.a, self.b) if side.evaluation.router
        ]
        if len(prices) == 2 and prices[0] != prices[1]:
            found.append(
                "The routers were fitted at different prices, and each is judged at its own."
            )
        return found


def _asked(side: Side, experts: Sequence[str]) -> Array:
    """(n, e) whether, or how likely, the query asks each expert of the union."""
    (run,), names = side.served.runs, side.evaluation.outcomes.experts
    asked = np.zeros((len(run.score), len(experts)))
    for m, name in enumerate(names):
        asked[:, experts.index(name)] = run.asked[:, m]
    return asked


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def in_words(figures: Mapping[str, Any]) -> str:
    """The difference that decides, as a sentence: at the same cost where a side is a router, else
    as served."""
    a, b = figures["a"]["name"], figures["b"]["name"]
    at, where = decisive(figures)
    if at is None or at["difference"] is None:
        return f"No cost can be reached by both {a} and {b}, so they are compared as served."
    low, high = (f"{100 * end:+.1f}" for end in at["difference_ci"])
    gap = f"{100 * at['difference']:+.1f} percentage points ({low} … {high})"
    claim = verdict(at)
    return (
        f"{where}, {b} reaches {100 * at['b']:.1f} % and {a} {100 * at['a']:.1f} %: {gap}, {claim}."
    )


def verdict(at: Mapping[str, Any]) -> str:
    if not at["proven"]:
        return "which proves no difference"
    return "a proven gain" if at["difference"] > 0 else "a proven loss"


def decisive(figures: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """The difference that a reader looks for first, and where it is measured: at half the cost, at
    the cost of the policy, or as served."""
    if figures["at_cost_of"] is not None:
        at = figures["at_cost_of"]
        return at, f"At the cost of {at['name']}"
    half = figures["at_cost_fraction"].get(f"{HALF:g}")
    if half is not None and half["difference"] is not None:
        return half, "At half the cost of always asking the most expensive expert"
    reached = [at for at in figures["along"] if at["difference"] is not None]
    if figures["at_cost_fraction"] and reached:
        at = min(reached, key=lambda at: abs(at["cost_fraction"] - HALF))
        share = f"{100 * at['cost_fraction']:.0f} %"
        return at, f"At {share} of the cost of always asking the most expensive expert"
    served = figures["as_served"]["quality"]
    sides = {key: figures[key]["quality"] for key in ("a", "b")}
    return {**sides, **served}, "As served"
