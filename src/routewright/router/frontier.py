"""The frontier: the operating points of a router, from the cheapest to the best.

Do no harm: a learned point is served only where its paired gain over mixing fixed experts at equal
cost (the zero router) is above zero with confidence; elsewhere the fixed mix itself is served. The
points of a frontier are one claim: where nothing can be learned, the chance that any of them is
served all the same is at most 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.metrics.sampling import POINTWISE, by_group
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, StandIn, run
from routewright.types import Array, Prediction

if TYPE_CHECKING:  # reading tables needs Polars, serving a router does not
    from routewright.data.outcomes import Outcomes

# Budgets between the cheapest (0) and the best (1) operating point: evenly spaced, and closer
# together at the cheap end, where quality rises fastest.
BUDGETS = tuple(sorted({*np.linspace(0, 1, 41).tolist(), 0.001, 0.002, 0.005, 0.01, 0.0175}))


# Standard deviation of real gains around those that a model of how experts agree expects
# (`python -m bench.agreement`).
DEVIATION = 0.02
ONE_SIDED = 1.645  # standard deviations above zero that a gain has with 95 % confidence


@dataclass(frozen=True)
class OperatingPoint:
    """A setting of the router: λ, its expected cost and quality, and the strategy to reach them.

    `cost` is US$ per query, `cost_fraction` relative to always asking the most expensive expert;
    `gain` is over the zero router at equal cost. `strategies.build` takes `spec`.
    """

    price: float  # λ, quality per US$
    cost: float
    cost_fraction: float
    quality: float
    quality_ci: tuple[float, float]
    gain: float
    gain_ci: tuple[float, float]
    spec: dict[str, Any]
    plan: str  # the strategy in words
    shares: dict[str, float] = field(default_factory=dict)  # of the queries that ask each expert
    unproven: bool = False  # cost is measured, quality follows from agreement alone

    @property
    def strategy(self) -> str:
        """The name of the strategy; of its first learned part, if it is a mix."""
        names = list(parts(self.spec))
        return next((name for name in names if name != "fixed"), names[0])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> OperatingPoint:
        fields: dict[str, Any] = {
            name: float("nan") if value is None else value for name, value in stored.items()
        }
        pairs = {name: tuple(stored[name]) for name in ("quality_ci", "gain_ci")}
        return cls(**{**fields, **pairs})


def parts(spec: Mapping[str, Any]) -> Iterator[str]:
    """The names of the strategies that a mix is made of, or that of the one strategy."""
    if "first" not in spec:
        yield str(spec["strategy"])
        return
    for part in (spec["first"], spec["second"]):
        yield from parts(part)


class PointStrategy(NamedTuple):
    """The strategy of an operating point: its spec, the spec in words, and shares per expert."""

    spec: dict[str, Any]  # for strategies.build
    plan: str  # the strategy in words
    shares: dict[str, float]  # of the queries that ask each expert


class Candidate(NamedTuple):
    """A strategy at one price of quality, with its score and cost on every row."""

    price: float  # λ, quality per US$
    score: Array  # (n,) of the returned answers, held out
    cost: Array  # (n,) US$, including everything spent on the way
    strategy: PointStrategy
    expected: float | None = None  # gain that was expected before these rows (see `_with_prior`)

    def rows(self, index: slice) -> Candidate:
        return self._replace(score=self.score[index], cost=self.cost[index])


def trace(
    candidates: Sequence[Candidate],
    outcomes: Outcomes,
    *,
    replicates: int = 400,
    seed: int = 0,
) -> tuple[OperatingPoint, ...]:
    """An operating point for each candidate.

    The point is the candidate itself if it is better than the zero router at the same cost with
    confidence; otherwise it is the fixed mix of that cost, or the best expert at λ = 0. Candidates
    must be held out: they were fitted without the scores of the rows in `outcomes`. Means leave out
    unknown costs.
    """
    weights = metrics.resample(len(outcomes), replicates, seed, outcomes.groups)
    weights = np.vstack([np.ones(len(outcomes)), weights])  # the first row is the sample itself
    fixed_cost = metrics.mean(outcomes.charges, weights)  # (b, e)
    quality_of_fixed = metrics.mean(outcomes.score, weights)
    raw_hull = policies.zero_router(quality_of_fixed[0], fixed_cost[0])
    # The best of several means is too high: fixed mixes are chosen by what is likely.
    shift = metrics.shrunk(outcomes.score, fixed_cost[0]) - quality_of_fixed[0]
    hulls = [
        policies.zero_router(q + shift, c)
        for q, c in zip(quality_of_fixed, fixed_cost, strict=True)
    ]
    highest_cost = float(np.nanmax(fixed_cost[0]))
    gains, margins = _gains(candidates, outcomes, raw_hull, replicates, seed)
    gains, margins = _with_prior(candidates, gains, margins)
    points = []
    for candidate, gain, margin in zip(candidates, gains, margins, strict=True):
        means = metrics.mean(np.column_stack([candidate.score, candidate.cost]), weights)
        quality, spent = means[:, 0], means[:, 1]
        strategy = candidate.strategy
        if not gain > margin:
            gain = margin = 0.0
            quality = np.array(
                [float(policies.hull_quality(h, c)) for h, c in zip(hulls, spent, strict=True)]
            )
            if candidate.price == 0:  # the best expert, whatever it costs
                spent = np.array([hull[-1].cost for hull in hulls])
                quality = np.array([hull[-1].quality for hull in hulls])
            strategy = fixed(policies.mix_at_cost(hulls[0], float(spent[0])), outcomes.experts)
        points.append(
            OperatingPoint(
                price=candidate.price,
                cost=float(spent[0]),
                cost_fraction=float(spent[0]) / highest_cost if highest_cost > 0 else float("nan"),
                quality=float(quality[0]),
                quality_ci=metrics.interval(quality[1:]),
                gain=float(gain),
                gain_ci=(float(gain - margin), float(gain + margin)),
                **strategy._asdict(),
            )
        )
    return tuple(points)


def gains_of(candidates: Sequence[Candidate], outcomes: Outcomes) -> list[float]:
    """The gain of each candidate over the zero router of these rows, at its own cost."""
    costs, qualities = curve(candidates)
    hull = policies.zero_router(metrics.mean(outcomes.score), metrics.mean(outcomes.charges))
    return [
        float(quality - policies.hull_quality(hull, cost))
        for cost, quality in zip(costs, qualities, strict=True)
    ]


def _gains(
    candidates: Sequence[Candidate],
    outcomes: Outcomes,
    hull: list[policies.Vertex],
    replicates: int,
    seed: int,
) -> tuple[Array, Array]:
    """The gain of each candidate over the zero router at its own cost, and its margin, (k,) each.

    A gain is a mean over rows: of the score less that of the fixed mix of the same cost, less what
    the difference in cost would buy.
    """
    if not candidates:
        return np.empty(0), np.empty(0)
    score, cost = metrics.influence(outcomes.score), metrics.influence(outcomes.charges)
    gains, influences = [], []
    for candidate in candidates:
        spent = float(metrics.mean(candidate.cost))
        gains.append(float(metrics.mean(candidate.score) - policies.hull_quality(hull, spent)))
        mix = policies.mix_at_cost(hull, spent)
        share = np.array([1 - mix.share, mix.share])
        pair = [mix.cheap, mix.expensive]
        more_score = metrics.influence(candidate.score) - score[:, pair] @ share
        more_cost = metrics.influence(candidate.cost) - cost[:, pair] @ share
        influences.append(more_score - _slope(hull, mix) * more_cost)
    margins = metrics.margins(
        np.column_stack(influences), outcomes.groups, replicates=replicates, seed=seed
    )
    return np.array(gains), margins


def _with_prior(
    candidates: Sequence[Candidate], gains: Array, margins: Array
) -> tuple[Array, Array]:
    """The gains and their margins, (k,) each. Where a gain was expected beforehand, they are the
    posterior of a normal prior around it with the standard deviation DEVIATION; the gain is above
    zero with 95 % confidence if it is greater than its margin."""
    prior = np.array([np.nan if c.expected is None else c.expected for c in candidates])
    with np.errstate(divide="ignore"):
        precision = (POINTWISE / margins) ** 2
    share = 1 / (1 + precision * DEVIATION**2)  # of the prior
    posterior = share * prior + (1 - share) * gains
    margin = ONE_SIDED * DEVIATION * np.sqrt(share)
    expected = np.isfinite(prior)
    return np.where(expected, posterior, gains), np.where(expected, margin, margins)


def _slope(hull: list[policies.Vertex], mix: policies.FixedMix) -> float:
    """The quality per US$ that the zero router gains where it mixes these two experts."""
    ends = {vertex.expert: vertex for vertex in hull}
    if mix.cheap == mix.expensive:
        return 0.0
    return policies.slope(ends[mix.cheap], ends[mix.expensive])


def tie(best: Candidate, outcomes: Outcomes) -> str | None:
    """The cheapest expert within noise of `best`, which is served at λ = 0; None if it saves
    nothing.

    Within noise is a mean score that is lower by at most one standard error of the paired
    difference, of rows that are no repetitions (the rule of one standard error; Breiman et al.
    1984, section 3.4.3).
    """
    spent, cost = float(metrics.mean(best.cost)), metrics.mean(outcomes.charges)
    by_cost = [m for m in np.argsort(cost).tolist() if cost[m] < spent]
    for m in by_cost:
        lead, error = lead_over(best.score, outcomes.score[:, m], outcomes.groups)
        if lead <= error:
            name: str = outcomes.experts[m]
            return name
    return None


def lead_over(score: Array, other: Array, groups: Sequence[str | None]) -> tuple[float, float]:
    """The mean difference of two columns of scores (n,), and its standard error, in which rows of
    a group count as one."""
    difference = score - other
    lead = float(metrics.mean(difference))
    sums = by_group(metrics.influence(difference)[:, None], groups)
    return lead, float(np.sqrt((sums**2).sum()) / len(difference))


def served_at_zero(
    candidates: Sequence[Candidate], points: Sequence[OperatingPoint], outcomes: Outcomes
) -> Candidate:
    """What is served at λ = 0: the candidate, or the best expert if its point is no learned one."""
    k = min(range(len(points)), key=lambda k: points[k].price)
    if points[k].gain > 0:
        return candidates[k]
    best = int(np.nanargmax(metrics.mean(outcomes.score)))
    strategy = fixed(policies.FixedMix(best, best, 0.0), outcomes.experts)
    return Candidate(0.0, outcomes.score[:, best], outcomes.charges[:, best], strategy)


def singles(prediction: Prediction, outcomes: Outcomes) -> list[Candidate]:
    """Single-shot routing at BUDGETS, λ = 0 first; `prediction` must be held out."""
    router = StandIn(prediction)
    rows = Recorded(outcomes, router)
    candidates = []
    for mixture in _mixtures(prediction):
        spec, plan = _spec_and_plan(mixture)
        ran = run(build(spec, router), rows)
        spec = with_budget(spec, float(metrics.mean(ran.cost)))
        strategy = PointStrategy(spec, plan, ran.shares(outcomes.experts))
        candidates.append(Candidate(mixture.price, ran.score, ran.cost, strategy))
    return candidates


def worth(costs: Array, qualities: Array, outcomes: Outcomes) -> float:
    """The worth of operating points (k,): their mean quality between the costs of the cheapest and
    the most expensive expert.

    Straight lines connect the points, because chance raises an upper hull more than lines.
    """
    price = metrics.mean(outcomes.charges)
    ends = float(np.nanmin(price)), float(np.nanmax(price))
    return metrics.aiq(costs, qualities, *ends, with_hull=False)


def curve(candidates: Sequence[Candidate]) -> tuple[Array, Array]:
    """Mean cost (US$) and quality of each candidate, (k,) each."""
    costs = np.array([float(metrics.mean(candidate.cost)) for candidate in candidates])
    return costs, np.array([float(metrics.mean(candidate.score)) for candidate in candidates])


def decision_value(prediction: Prediction, outcomes: Outcomes, prices: int = 60) -> float:
    """The decision value of predictions: worth of single-shot routing minus the zero router's."""
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
    """Prices of quality whose predicted costs are BUDGETS, the lowest first."""
    highest = _mean_cost(prediction, 0.0)
    lowest = _mean_cost(prediction, policies.STEEPEST)
    if highest <= lowest:
        return [policies.Mixture(0.0, 0.0, 0.0)]
    span = highest - lowest
    mixtures = [policies.meet_budget(prediction, lowest + share * span) for share in BUDGETS[::-1]]
    return [_simpler(mixture, prediction, span / len(BUDGETS)) for mixture in mixtures]


def _simpler(mixture: policies.Mixture, prediction: Prediction, step: float) -> policies.Mixture:
    """A single price, if mixing two would move the cost by less than a tenth of a step."""
    if mixture.share <= 0:
        return mixture
    extra = _mean_cost(prediction, mixture.lower_price) - _mean_cost(prediction, mixture.price)
    return mixture if extra > step / 10 else mixture._replace(share=0.0)


def _mean_cost(prediction: Prediction, price: float) -> float:
    return float(policies.take(prediction.cost, policies.choose(prediction, price)).mean())


def _spec_and_plan(mixture: policies.Mixture) -> tuple[dict[str, Any], str]:
    """The spec of a strategy, and the strategy in words."""
    first = {"strategy": "single", "price": mixture.price}
    words = f"ask the expert with the best predicted quality − {mixture.price:.4g}/$ × cost"
    if mixture.share <= 0:
        return first, words
    second = {"strategy": "single", "price": mixture.lower_price}
    return (
        {"strategy": "mix", "first": first, "second": second, "share": mixture.share},
        f"{words}; {100 * mixture.share:.0f} % of queries at {mixture.lower_price:.4g}/$",
    )


def mixed(low: OperatingPoint, high: OperatingPoint, share: float) -> OperatingPoint:
    """The point that follows `high` for `share` of the queries, else `low`."""

    def between(a: float, b: float) -> float:
        return (1 - share) * a + share * b

    def ends(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
        return between(a[0], b[0]), between(a[1], b[1])

    cost = between(low.cost, high.cost)
    names = [*low.shares, *(name for name in high.shares if name not in low.shares)]
    strategy = PointStrategy(
        {
            "strategy": "mix",
            "first": with_budget(low.spec, cost),
            "second": with_budget(high.spec, cost),
            "share": share,
        },
        f"for {100 * share:.0f} % of queries: {high.plan}; for the others: {low.plan}",
        {n: between(low.shares.get(n, 0.0), high.shares.get(n, 0.0)) for n in names},
    )
    if (experts := _fixed_shares(strategy.spec)) is not None:
        strategy = fixed_mix(experts)
    return OperatingPoint(
        price=low.price,
        cost=cost,
        cost_fraction=between(low.cost_fraction, high.cost_fraction),
        quality=between(low.quality, high.quality),
        quality_ci=ends(low.quality_ci, high.quality_ci),
        gain=between(low.gain, high.gain),
        gain_ci=ends(low.gain_ci, high.gain_ci),
        **strategy._asdict(),
    )


def _fixed_shares(spec: Mapping[str, Any]) -> dict[str, float] | None:
    """The share of the queries that a mix of fixed experts sends to each; None for a strategy with
    any other part."""
    if spec["strategy"] == "fixed":
        return {spec["expert"]: 1.0}
    if spec["strategy"] != "mix":
        return None
    first, second = _fixed_shares(spec["first"]), _fixed_shares(spec["second"])
    if first is None or second is None:
        return None
    share = spec["share"]
    return {
        name: (1 - share) * first.get(name, 0.0) + share * second.get(name, 0.0)
        for name in {**first, **second}
    }


def with_budget(spec: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """A spec whose strategies hand queries unlike the training rows to the fixed mix of `budget`
    US$ per query."""
    if not np.isfinite(budget):
        return dict(spec)
    mixed = {key: with_budget(spec[key], budget) for key in ("first", "second") if key in spec}
    own = {"budget": budget} if spec["strategy"] in ("auto", "single") else {}
    return {**spec, **mixed, **own}


def budget_of(spec: Mapping[str, Any]) -> float | None:
    """The budget for queries unlike the training rows; None if the spec has none."""
    while "first" in spec:
        spec = spec["first"]
    return spec.get("budget") if spec["strategy"] in ("auto", "single") else None


def fixed(mix: policies.FixedMix, experts: Sequence[str]) -> PointStrategy:
    cheap, expensive = experts[mix.cheap], experts[mix.expensive]
    if mix.share <= 0:
        return fixed_mix({cheap: 1.0})
    return fixed_mix({cheap: 1 - mix.share, expensive: mix.share})


def fixed_mix(shares: Mapping[str, float]) -> PointStrategy:
    """The mix that sends these shares of the queries, with a sum of 1, to fixed experts."""
    rest, *others = shares
    words = [f"{name} for {100 * shares[name]:.0f} %" for name in reversed(others)]
    if words:
        words[0] += " of queries"
    plan = f"{', '.join(words)}, else {rest}" if words else f"always {rest}"
    return PointStrategy(_spec_of(shares), plan, dict(shares))


def _spec_of(shares: Mapping[str, float]) -> dict[str, Any]:
    expert, *others = shares
    first = {"strategy": "fixed", "expert": expert}
    if not others:
        return first
    share = sum(shares[name] for name in others)
    second = _spec_of({name: shares[name] / share for name in others})
    return {"strategy": "mix", "first": first, "second": second, "share": min(share, 1.0)}
