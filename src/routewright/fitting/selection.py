"""Chooses the experts worth keeping: universe construction (Routoo, arXiv 2401.13979).

F(S) = mean over queries of max_{e in S} score: the quality of a set of experts if every query
goes to the best of them. F is monotone and submodular, so adding the largest gain first
comes within 1 − 1/e of the best set of that size (Nemhauser, Wolsey and Fisher 1978).

F is the quality of an oracle, and grows with every lucky guess. So each expert is also measured by
what it adds to two feasible routers: the zero router, which mixes fixed experts, and a cross-fitted
table of means per domain.

Shapes: n queries, e experts, b bootstrap replicates; costs in US$, missing scores count 0 in F.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.errors import BadInput
from routewright.metrics.sampling import wilson
from routewright.prediction.predictors import folds
from routewright.types import Array, Indices, Prediction

if TYPE_CHECKING:  # reading tables needs Polars, choosing experts does not
    from routewright.data.outcomes import Outcomes

FOLDS = 5
PRICES = 21  # operating points of the table router
REPLICATES = 400
SOLVED = 0.5  # the least score of a right answer
FEWEST_OF_TOPIC, FEWEST_TO_CLUSTER = 5, 100  # rows of which something is said about topics
NOTICED = 0.001  # a smaller loss, below a tenth of a point, is no reason to keep an expert


# --- choosing ------------------------------------------------------------------------------


def coverage(score: Array, chosen: Sequence[int]) -> float:
    """F(S): the mean of the best score within the set; (n, e)."""
    return float(_best(_filled(score), chosen).mean())


def greedy(score: Array, cost: Array, size: int, *, lazy: bool = True) -> list[int]:
    """At most `size` experts, the largest gain in F first; ties go to the lower cost.

    Stops early when no expert adds anything. Lazy evaluation (Minoux 1978) recomputes only the
    gains that could still be the largest, and returns the same set. `cost` (e,) is in US$ per
    query; an unknown cost counts as the highest.
    """
    return _grow(_filled(score), cost, size=size, lazy=lazy)


def greedy_within(score: Array, cost: Array, budget: float, size: int | None = None) -> list[int]:
    """Experts whose costs add up to at most `budget`, the largest gain in F per US$ first.

    It is the better of two runs, from the empty set and from the best affordable single expert. So
    it is at least as good as the usual maximum of greedy and best single, which is within
    (1 − 1/e) / 2 of the best set of any size (Leskovec et al. 2007, CELF). `budget` is in US$ per
    query that asks every expert of the set. Raises BadInput if a cost is unknown or every expert
    costs more.
    """
    filled = _filled(score)
    if not np.isfinite(cost).all():
        raise BadInput("a budget needs the cost of every expert")
    affordable = [m for m in range(len(cost)) if cost[m] <= budget]
    if not affordable:
        raise BadInput(f"no expert costs ${budget:g} or less: the cheapest costs ${cost.min():.3g}")
    most = len(cost) if size is None else size
    single = min(affordable, key=lambda m: (-filled[:, m].sum(), cost[m]))
    runs = [_grow(filled, cost, size=most, budget=budget, start=start) for start in ([], [single])]
    return min(runs, key=lambda run: (-_best(filled, run).sum(), cost[run].sum()))


def _grow(
    score: Array,
    cost: Array,
    *,
    size: int,
    budget: float = np.inf,
    start: Sequence[int] = (),
    lazy: bool = True,
) -> list[int]:
    """Adds the expert with the best key until `size`, `budget` or gains are used up.

    A gain can only shrink as the set grows, so an old key is never too far back in the queue: an
    expert that is still first with its new key is first among all.
    """
    chosen, per_dollar = list(start), np.isfinite(budget)
    left = budget - cost[chosen].sum() if per_dollar else np.inf
    best = _best(score, chosen)
    others = [m for m in range(score.shape[1]) if m not in chosen]
    queue = [_key(score, cost, m, best, per_dollar) for m in others]
    heapq.heapify(queue)
    while queue and len(chosen) < size:
        stale = heapq.heappop(queue)
        if per_dollar and cost[stale.expert] > left:
            continue
        fresh = _key(score, cost, stale.expert, best, per_dollar)
        if not lazy:
            queue = [_key(score, cost, key.expert, best, per_dollar) for key in queue]
            heapq.heapify(queue)
        if queue and queue[0] < fresh:
            heapq.heappush(queue, fresh)
        elif fresh.loss >= 0:
            break
        else:
            chosen.append(fresh.expert)
            best = np.maximum(best, score[:, fresh.expert])
            left -= cost[fresh.expert] if per_dollar else 0.0
    return chosen


class _Key(NamedTuple):
    """A place in the queue, the smallest first: gain (per US$ under a budget), cost, column."""

    rate: float  # minus the gain per US$, or minus the gain
    loss: float  # minus the gain, summed over queries
    cost: float
    expert: int


def _key(score: Array, cost: Array, m: int, best: Array, per_dollar: bool) -> _Key:
    # Rounded, so that equal sums tie.
    gain = round(float(np.maximum(score[:, m] - best, 0.0).sum()), 9)
    price = float(cost[m]) if np.isfinite(cost[m]) else np.inf
    return _Key(-gain / max(price, 1e-300) if per_dollar else -gain, -gain, price, m)


def _filled(score: Array) -> Array:
    return np.where(np.isfinite(score), score, 0.0)


def _best(score: Array, chosen: Sequence[int]) -> Array:
    """The best score of the set per query, (n,); 0 for the empty set."""
    return np.asarray(score[:, list(chosen)].max(axis=1, initial=0.0))


# --- measuring -----------------------------------------------------------------------------


class Step(NamedTuple):
    """The set after one more expert; qualities 0..1."""

    expert: str
    cost: float  # US$ per query, of this expert
    quality: float  # mean score of this expert
    coverage: float  # F of the set so far
    gain: float  # in F
    best_single: float  # quality of the set's best expert
    table: float  # quality of a table of means per domain with the set at λ = 0


class Loss(NamedTuple):
    """The loss from leaving an expert out, with its paired 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Removal(NamedTuple):
    """Losses of leaving one expert out of the chosen set.

    `coverage` is the loss in F, the oracle's quality. The other two are losses in AIQ over the
    set's range of costs (without costs: in quality at λ = 0) of the zero router and of the table.
    """

    expert: str
    coverage: Loss
    zero_router: Loss
    table: Loss

    @property
    def missed(self) -> bool:
        """Whether one of the feasible routers is noticeably worse without this expert."""
        return max(self.zero_router.low, self.table.low) > NOTICED


class Gap(NamedTuple):
    """How far the whole pool gets on one topic: a domain, or a cluster of similar prompts."""

    topic: str
    rows: int
    best: str  # the best single expert there
    best_single: float  # its quality
    oracle: float  # quality if every query went to its best expert
    unsolved: float  # share of the rows on which no expert scores at least SOLVED
    unsolved_ci: tuple[float, float]
    missing: bool  # whether that is more than on the other rows, with confidence

    @property
    def gain(self) -> float:
        """By how much the oracle beats the best single expert."""
        return self.oracle - self.best_single


@dataclass(frozen=True)
class Selection:
    """The experts to keep, in the order of their choice, with the contribution of each."""

    experts: tuple[str, ...]
    coverage: float  # F of the set
    coverage_of_all: float  # F of the whole pool
    cost: float  # US$ per query for asking all of them; NaN: unknown
    rows: int
    domains: int  # of the rows; with fewer than two, the domain table cannot show a loss
    steps: tuple[Step, ...]
    removals: tuple[Removal, ...]
    notes: tuple[str, ...]  # warnings about the figures
    gaps: tuple[Gap, ...] = ()  # the whole pool by topic, the one with most unsolved rows first

    def to_json(self) -> dict[str, Any]:
        """Plain data; unknown numbers are None instead of NaN."""
        return {
            **{k: v for k, v in asdict(self).items() if k not in ("steps", "removals", "gaps")},
            "cost": _number(self.cost),
            "steps": [{k: _number(v) for k, v in step._asdict().items()} for step in self.steps],
            "removals": [_removal(removal) for removal in self.removals],
            "gaps": [{**gap._asdict(), "unsolved_ci": list(gap.unsolved_ci)} for gap in self.gaps],
        }


def select(
    outcomes: Outcomes,
    size: int | None = None,
    *,
    budget: float | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Selection:
    """Chooses at most `size` experts, within `budget` US$ per query for asking all of them.

    Raises BadInput for a size or a budget that cannot be met, and if costs are known for some
    experts only.
    """
    outcomes = outcomes.pool(sorted(outcomes.experts))  # the order of columns must not matter
    score, cost = outcomes.score, metrics.mean(outcomes.cost)
    _check(outcomes.experts, cost, size)
    if budget is None:
        chosen = greedy(score, cost, len(cost) if size is None else size)
    else:
        chosen = greedy_within(score, cost, budget, size)
    if not chosen:
        raise BadInput("no expert has a score above 0, so none can be chosen")
    subset = outcomes.pool([outcomes.experts[m] for m in chosen])
    measurer = _Measurer.of(subset, replicates, seed)
    return Selection(
        experts=subset.experts,
        coverage=coverage(score, chosen),
        coverage_of_all=coverage(score, range(len(cost))),
        cost=float(cost[chosen].sum()),
        rows=len(outcomes),
        domains=len(set(outcomes.domains) - {None}),
        steps=_steps(subset, measurer),
        removals=measurer.removals(subset.experts),
        notes=_notes(subset),
        gaps=gaps(outcomes, seed),
    )


def gaps(outcomes: Outcomes, seed: int = 0) -> tuple[Gap, ...]:
    """Where experts are missing: the topics of the rows, by the share that no expert solves.

    Topics are domains, or clusters of prompts where a row has none; none are told apart in tables
    with fewer than FEWEST_TO_CLUSTER rows. Rows of one group count as one.
    """
    topic = _topics(outcomes, seed)
    best = _filled(outcomes.score).max(axis=1)
    unsolved = (best < SOLVED).astype(np.float64)
    groups = np.asarray(outcomes.groups or range(len(outcomes)))
    found = []
    for name in sorted(set(topic)):
        there = np.array([one == name for one in topic])
        quality = metrics.mean(outcomes.score[there])
        if there.sum() < FEWEST_OF_TOPIC or not np.isfinite(quality).any():
            continue
        share, count = unsolved[there].mean(), len(set(groups[there].tolist()))
        low, high = (float(end[0]) for end in wilson(np.array([share]), np.array([count])))
        elsewhere = float(unsolved[~there].mean()) if (~there).any() else 0.0
        m = int(np.nanargmax(quality))
        found.append(
            Gap(
                topic=name,
                rows=int(there.sum()),
                best=outcomes.experts[m],
                best_single=float(quality[m]),
                oracle=float(best[there].mean()),
                unsolved=float(share),
                unsolved_ci=(low, high),
                missing=low > elsewhere,
            )
        )
    return tuple(sorted(found, key=lambda gap: -gap.unsolved_ci[0]))


def _topics(outcomes: Outcomes, seed: int) -> list[str]:
    if all(outcomes.domains):
        return [str(domain) for domain in outcomes.domains]
    if len(outcomes) < FEWEST_TO_CLUSTER:
        return [""] * len(outcomes)
    from routewright.fitting import left_out
    from routewright.prediction.encoders import build

    encoder = build("lexical").fit(outcomes.queries, seed=seed)
    x = encoder.encode(outcomes.queries)
    clusters = left_out.topics(outcomes, x, encoder.blocks, seed)
    return _named(clusters, [query.excerpt for query in outcomes.queries])


def _named(clusters: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The clusters, each with the words that are frequent in it and rare elsewhere."""
    words = [set(re.findall(r"[^\W\d_]{4,}", text.lower())) for text in texts]
    everywhere = Counter(word for each in words for word in each)
    names = {}
    for cluster in set(clusters):
        own = [each for each, name in zip(words, clusters, strict=True) if name == cluster]
        inside = Counter(word for each in own for word in each)

        def excess(word: str, inside: Counter[str] = inside, size: int = len(own)) -> float:
            return inside[word] / size - everywhere[word] / len(texts)

        typical = sorted(inside, key=lambda word: (-excess(word), word))[:3]
        names[cluster] = f"{cluster} ({', '.join(typical)})"
    return [names[cluster] for cluster in clusters]


def _check(experts: Sequence[str], cost: Array, size: int | None) -> None:
    if size is not None and not 1 <= size <= len(experts):
        raise BadInput(f"size {size} cannot be chosen: the table has {len(experts)} experts")
    without_cost = [name for name, c in zip(experts, cost, strict=True) if np.isnan(c)]
    if 0 < len(without_cost) < len(experts):
        raise BadInput(
            f"no cost is known for {', '.join(without_cost)}: add cost::NAME columns, or leave them"
            " out with --experts"
        )


def _steps(subset: Outcomes, measurer: _Measurer) -> tuple[Step, ...]:
    """The contribution of each further expert, in the order of the choice."""
    quality, cost = metrics.mean(subset.score), metrics.mean(subset.cost)
    steps: list[Step] = []
    for m, name in enumerate(subset.experts):
        coverage_so_far = coverage(subset.score, range(m + 1))
        before = steps[-1].coverage if steps else 0.0
        steps.append(
            Step(
                expert=name,
                cost=float(cost[m]),
                quality=float(quality[m]),
                coverage=coverage_so_far,
                gain=coverage_so_far - before,
                best_single=float(np.nanmax(quality[: m + 1])),
                table=float(metrics.mean(policies.take(measurer.score, measurer.best(m + 1)))),
            )
        )
    return tuple(steps)


@dataclass(frozen=True)
class _Measurer:
    """Measures subsets of the chosen experts on the same bootstrap replicates."""

    score: Array  # (n, e)
    cost: Array
    belief: Prediction  # of the table, cross-fitted
    weights: Array  # (b + 1, n); the first row is the sample itself
    prices: Array  # (k,)

    @classmethod
    def of(cls, subset: Outcomes, replicates: int, seed: int) -> _Measurer:
        cost = subset.charges
        replicate_weights = metrics.resample(len(subset), replicates, seed, subset.groups)
        belief = _cross_fitted(subset, cost, seed)
        return cls(
            score=subset.score,
            cost=cost,
            belief=belief,
            weights=np.vstack([np.ones(len(subset)), replicate_weights]),
            prices=_prices(belief),
        )

    def best(self, first: int) -> Indices:
        """The table's choices among the `first` experts, whatever they cost."""
        return _choose(self.belief, range(first), 0.0)

    def removals(self, experts: Sequence[str]) -> tuple[Removal, ...]:
        """The removals of each expert; none for a set of one."""
        if len(experts) < 2:
            return ()
        measures = (self._coverage, self._zero_router, self._table)
        all_experts = list(range(len(experts)))
        whole = [measure(all_experts) for measure in measures]
        removals = []
        for m, name in enumerate(experts):
            rest = [other for other in all_experts if other != m]
            losses = [whole[i] - measure(rest) for i, measure in enumerate(measures)]
            removals.append(Removal(name, *map(_loss, losses)))
        return tuple(removals)

    def _coverage(self, chosen: Sequence[int]) -> Array:
        return metrics.mean(_best(_filled(self.score), chosen)[:, None], self.weights)[:, 0]

    def _zero_router(self, chosen: Sequence[int]) -> Array:
        """AIQ of mixing fixed experts, per replicate, (b + 1,)."""
        columns = list(chosen)
        quality = metrics.mean(self.score[:, columns], self.weights)
        cost = metrics.mean(self.cost[:, columns], self.weights)
        return self._aiq(cost, quality, with_hull=True)

    def _table(self, chosen: Sequence[int]) -> Array:
        """AIQ of the table router, straight lines between its points, per replicate."""
        choices = [_choose(self.belief, chosen, price) for price in self.prices]
        score = np.column_stack([policies.take(self.score, choice) for choice in choices])
        cost = np.column_stack([policies.take(self.cost, choice) for choice in choices])
        quality, spent = metrics.mean(score, self.weights), metrics.mean(cost, self.weights)
        return self._aiq(spent, quality, with_hull=False)

    def _aiq(self, cost: Array, quality: Array, *, with_hull: bool) -> Array:
        """AIQ per replicate over the chosen set's range of costs; (b + 1, k) gives (b + 1,)."""
        price = metrics.mean(self.cost)
        span = float(np.nanmin(price)), float(np.nanmax(price))
        finite = np.isfinite(cost) & np.isfinite(quality)
        values = np.full(len(cost), np.nan)
        for b in np.flatnonzero(finite.any(axis=1)):
            x, y = cost[b][finite[b]], quality[b][finite[b]]
            values[b] = metrics.aiq(x, y, *span, with_hull=with_hull)
        return values


def _choose(belief: Prediction, chosen: Sequence[int], price: float) -> Indices:
    admissible = np.isin(np.arange(len(belief.experts)), list(chosen))
    return policies.choose(belief, price, admissible=admissible)


def _cross_fitted(subset: Outcomes, cost: Array, seed: int) -> Prediction:
    """Held-out predictions of a table of means per domain."""
    domains = np.array([str(domain) for domain in subset.domains])
    fold = folds(len(subset), FOLDS, seed, subset.groups)
    quality, dollars = np.full_like(cost, np.nan), np.full_like(cost, np.nan)
    for k in np.unique(fold):
        inside, outside = fold != k, fold == k
        if not inside.any():
            inside = outside
        for belief, table in ((quality, subset.score), (dollars, cost)):
            belief[outside] = metrics.domain_means(table[inside], domains[inside], domains[outside])
    unknown = np.full_like(cost, np.nan)
    return Prediction(
        subset.experts, np.nan_to_num(quality, nan=-1.0), unknown, np.nan_to_num(dollars), unknown
    )


def _prices(belief: Prediction) -> Array:
    """Prices of quality, from 0 to the highest, at which choices change."""
    rows = np.unique(np.hstack([belief.quality, belief.cost]), axis=0)
    quality, cost = np.hsplit(rows, 2)
    better = quality[:, :, None] - quality[:, None, :]  # (rows, e, e)
    extra_cost = cost[:, :, None] - cost[:, None, :]
    trade_offs = (better > 0) & (extra_cost > 0)
    if not trade_offs.any():
        return np.array([0.0, policies.STEEPEST])
    slopes = np.quantile(better[trade_offs] / extra_cost[trade_offs], np.linspace(0, 1, PRICES - 2))
    return np.array([0.0, *slopes * (1 + 1e-9), policies.STEEPEST])


def _loss(difference: Array) -> Loss:
    return Loss(float(difference[0]), *metrics.interval(difference[1:]))


def _notes(subset: Outcomes) -> tuple[str, ...]:
    notes = []
    missing = 1 - np.isfinite(subset.score).mean(axis=0)
    for name, share in zip(subset.experts, missing.tolist(), strict=True):
        if share > 0:
            notes.append(f"{name} has no score on {100 * share:.1f} % of the rows; they count as 0")
    if len(set(subset.domains)) < 2:
        notes.append("the rows have no domains, so the table router is a table of one row")
    if not np.isfinite(subset.cost).any():
        notes.append("no costs are known: losses are in quality, and ties are decided by name")
    return tuple(notes)


def _removal(removal: Removal) -> dict[str, Any]:
    losses = {
        name: {k: _number(v) for k, v in getattr(removal, name)._asdict().items()}
        for name in ("coverage", "zero_router", "table")
    }
    return {"expert": removal.expert, **losses, "missed": removal.missed}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
