"""The frontier: the operating points between the cheapest and the best that a router can do.

Do no harm: a learned point is kept only where its paired gain over mixing fixed experts at equal
cost (the zero router) is above zero with confidence; elsewhere the fixed mix itself is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, StandIn, run
from routewright.types import Array, Prediction

if TYPE_CHECKING:  # reading tables needs Polars, serving a router does not
    from routewright.data.outcomes import Outcomes

# Where the budgets lie between the cheapest (0) and the best that can be bought (1): evenly, and
# closer at the cheap end, where a little money buys most.
BUDGETS = tuple(sorted({*np.linspace(0, 1, 41).tolist(), 0.001, 0.002, 0.005, 0.01, 0.0175}))


@dataclass(frozen=True)
class OperatingPoint:
    """A setting of the router: λ, what it is expected to cost and reach, and how.

    `cost` is US$ per query, `cost_fraction` relative to always asking the dearest expert;
    `gain` is over the zero router at equal cost. `spec` is what `strategies.build` takes.
    """

    price: float  # λ, quality per US$
    cost: float
    cost_fraction: float
    quality: float
    quality_ci: tuple[float, float]
    gain: float
    gain_ci: tuple[float, float]
    spec: dict[str, Any]
    plan: str  # the same in words
    shares: dict[str, float] = field(default_factory=dict)  # of queries that ask an expert

    @property
    def strategy(self) -> str:
        """The name of the strategy; of what is mixed, if it is a mix."""
        part = self.spec
        while "first" in part:
            part = part["first"]
        return str(part["strategy"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> OperatingPoint:
        known: dict[str, Any] = {
            name: float("nan") if value is None else value for name, value in stored.items()
        }
        pairs = {name: tuple(stored[name]) for name in ("quality_ci", "gain_ci")}
        return cls(**{**known, **pairs})


class PointStrategy(NamedTuple):
    """What an operating point does: as a spec, in words, and the share of queries per expert."""

    spec: dict[str, Any]  # what strategies.build takes
    plan: str  # the same in words
    shares: dict[str, float]  # of queries that ask an expert


class Candidate(NamedTuple):
    """A way to answer every query at one price of quality, and what that gave, row by row."""

    price: float  # λ, quality per US$
    score: Array  # (n,) of the answers that it returned, held out
    cost: Array  # (n,) US$, everything spent on the way
    how: PointStrategy


def trace(
    candidates: Sequence[Candidate],
    outcomes: Outcomes,
    *,
    replicates: int = 400,
    seed: int = 0,
) -> tuple[OperatingPoint, ...]:
    """An operating point for each candidate: itself where it is better than the zero router at
    its cost with confidence, else the fixed mix of that cost; at λ = 0 the best expert.

    Candidates must be held out from `outcomes`: whatever made them did not see a row's own
    scores. Their costs that are unknown are left out of the means.
    """
    weights = metrics.resample(len(outcomes), replicates, seed)
    weights = np.vstack([np.ones(len(outcomes)), weights])  # the first row is the sample itself
    fixed_cost = metrics.mean(outcomes.charges, weights)  # (b, e)
    hulls = [
        policies.zero_router(q, c)
        for q, c in zip(metrics.mean(outcomes.score, weights), fixed_cost, strict=True)
    ]
    dearest = float(np.nanmax(fixed_cost[0]))
    found = []
    for candidate in candidates:
        both = metrics.mean(np.column_stack([candidate.score, candidate.cost]), weights)
        quality, spent = both[:, 0], both[:, 1]
        zero = [float(policies.hull_quality(h, c)) for h, c in zip(hulls, spent, strict=True)]
        gain = quality - np.array(zero)
        how = candidate.how
        if not metrics.interval(gain[1:])[0] > 0:
            if candidate.price == 0:  # the best there is, whatever it costs
                spent = np.array([hull[-1].cost for hull in hulls])
                zero = [hull[-1].quality for hull in hulls]
            quality, gain = np.array(zero), np.zeros_like(gain)
            how = fixed(policies.mix_at_cost(hulls[0], float(spent[0])), outcomes.experts)
        found.append(
            OperatingPoint(
                price=candidate.price,
                cost=float(spent[0]),
                cost_fraction=float(spent[0]) / dearest if dearest > 0 else float("nan"),
                quality=float(quality[0]),
                quality_ci=metrics.interval(quality[1:]),
                gain=float(gain[0]),
                gain_ci=metrics.interval(gain[1:]),
                **how._asdict(),
            )
        )
    return tuple(found)


def singles(prediction: Prediction, outcomes: Outcomes) -> list[Candidate]:
    """One call per query, at BUDGETS, dearest first (λ = 0); `prediction` must be held out."""
    router = StandIn(prediction)
    rows = Recorded(outcomes, router)
    ways = []
    for mixture in _mixtures(prediction):
        spec, plan = _learned(mixture)
        ran = run(build(spec, router), rows)
        how = PointStrategy(spec, plan, ran.shares(outcomes.experts))
        ways.append(Candidate(mixture.price, ran.score, ran.cost, how))
    return ways


def worth(costs: Array, qualities: Array, outcomes: Outcomes) -> float:
    """What operating points (k,) are worth: mean quality between the cheapest and the dearest
    expert's cost, by straight lines between the points, which luck cannot lift as it does a hull.
    """
    price = metrics.mean(outcomes.charges)
    ends = float(np.nanmin(price)), float(np.nanmax(price))
    return metrics.aiq(costs, qualities, *ends, with_hull=False)


def curve(ways: Sequence[Candidate]) -> tuple[Array, Array]:
    """Mean cost (US$) and quality of each way, (k,) each."""
    costs = np.array([float(metrics.mean(way.cost)) for way in ways])
    return costs, np.array([float(metrics.mean(way.score)) for way in ways])


def decision_value(prediction: Prediction, outcomes: Outcomes, prices: int = 60) -> float:
    """What forecasts are worth, one call per query, over the zero router's worth."""
    price = metrics.mean(outcomes.charges)
    grid = np.geomspace(1e-3, 1e4, prices) / max(float(np.nanmax(price)), 1e-300)
    choices = [policies.choose(prediction, at) for at in (0.0, *grid.tolist(), policies.STEEPEST)]
    costs, qualities = (
        np.array([float(metrics.mean(policies.take(table, choice))) for choice in choices])
        for table in (outcomes.charges, outcomes.score)
    )
    hull = policies.zero_router(metrics.mean(outcomes.score), price)
    zero = np.array([[v.cost, v.quality] for v in hull]).T
    return worth(costs, qualities, outcomes) - worth(zero[0], zero[1], outcomes)


def _mixtures(prediction: Prediction) -> list[policies.Mixture]:
    """Prices of quality whose predicted costs are BUDGETS, the gentlest first."""
    dear = _mean_cost(prediction, 0.0)
    cheap = _mean_cost(prediction, policies.STEEPEST)
    if dear <= cheap:
        return [policies.Mixture(0.0, 0.0, 0.0)]
    span = dear - cheap
    found = [policies.meet_budget(prediction, cheap + share * span) for share in BUDGETS[::-1]]
    return [_simpler(mixture, prediction, span / len(BUDGETS)) for mixture in found]


def _simpler(mixture: policies.Mixture, prediction: Prediction, step: float) -> policies.Mixture:
    """One price where mixing two would move the cost by less than a tenth of a step."""
    if mixture.share <= 0:
        return mixture
    extra = _mean_cost(prediction, mixture.lower_price) - _mean_cost(prediction, mixture.price)
    return mixture if extra > step / 10 else mixture._replace(share=0.0)


def _mean_cost(prediction: Prediction, price: float) -> float:
    return float(policies.take(prediction.cost, policies.choose(prediction, price)).mean())


def _learned(mixture: policies.Mixture) -> tuple[dict[str, Any], str]:
    """The spec of a strategy, and the same in words."""
    first = {"strategy": "single", "price": mixture.price}
    words = f"ask the expert with the best predicted quality − {mixture.price:.4g}/$ × cost"
    if mixture.share <= 0:
        return first, words
    second = {"strategy": "single", "price": mixture.lower_price}
    return (
        {"strategy": "mix", "first": first, "second": second, "share": mixture.share},
        f"{words}; {mixture.share:.0%} of queries at {mixture.lower_price:.4g}/$",
    )


def fixed(mix: policies.FixedMix, experts: Sequence[str]) -> PointStrategy:
    cheap, dear = experts[mix.cheap], experts[mix.dear]
    first = {"strategy": "fixed", "expert": cheap}
    if mix.share <= 0:
        return PointStrategy(first, f"always {cheap}", {cheap: 1.0})
    second = {"strategy": "fixed", "expert": dear}
    return PointStrategy(
        {"strategy": "mix", "first": first, "second": second, "share": mix.share},
        f"{dear} for {mix.share:.0%} of queries, else {cheap}",
        {cheap: 1 - mix.share, dear: mix.share},
    )
