"""Which experts are worth keeping? Universe construction (Routoo, arXiv 2401.13979).

F(S) = mean over queries of max_{e in S} score, what a set of experts could reach if every query
went to the right one of them. F is monotone and submodular, so adding the largest gain first
comes within 1 − 1/e of the best set of that size (Nemhauser, Wolsey and Fisher 1978).

F is an oracle's number, and grows with every lucky guess. So each expert is also judged by what
it adds to two routers that can really be had: mixing fixed experts without looking at the query
(the zero router) and a table of means per domain, cross-fitted.

Shapes: n queries, e experts, b bootstrap replicates; costs in US$, missing scores count 0 in F.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.errors import BadInput
from routewright.prediction.predictors import folds
from routewright.types import Array, Indices, Prediction

if TYPE_CHECKING:  # reading tables needs Polars, choosing experts does not
    from routewright.data.outcomes import Outcomes

FOLDS = 5
PRICES = 21  # operating points of the table router
REPLICATES = 400
NOTICED = 0.001  # a loss below a tenth of a point is no reason to keep an expert


# --- choosing ------------------------------------------------------------------------------


def coverage(score: Array, chosen: Sequence[int]) -> float:
    """F(S): the mean of the best score within the set; (n, e)."""
    return float(_best(_known(score), chosen).mean())


def greedy(score: Array, cost: Array, size: int, *, lazy: bool = True) -> list[int]:
    """At most `size` experts, the largest gain in F first; ties go to the lower cost.

    Stops early when nobody adds anything. Lazy evaluation (Minoux 1978) asks only those again
    whose last known gain could still win, and gives the same set as asking everyone. `cost`
    (e,) is what an expert costs per query; unknown is dearest.
    """
    return _grow(_known(score), cost, size=size, lazy=lazy)


def greedy_within(score: Array, cost: Array, budget: float, size: int | None = None) -> list[int]:
    """Experts whose costs add up to at most `budget`, the largest gain in F per US$ first.

    The better of two runs, from nothing and from the best affordable single expert, so at least
    as good as the usual maximum of greedy and best single, which is within (1 − 1/e) / 2 of the
    best set of any size (Leskovec et al. 2007, CELF). The sum is what asking every one of them
    costs. Raises BadInput if a cost is unknown or nobody is affordable.
    """
    known = _known(score)
    if not np.isfinite(cost).all():
        raise BadInput("a budget needs the cost of every expert")
    affordable = [m for m in range(len(cost)) if cost[m] <= budget]
    if not affordable:
        raise BadInput(f"no expert costs ${budget:g} or less: the cheapest costs ${cost.min():.3g}")
    most = len(cost) if size is None else size
    single = min(affordable, key=lambda m: (-known[:, m].sum(), cost[m]))
    runs = [_grow(known, cost, size=most, budget=budget, start=start) for start in ([], [single])]
    return min(runs, key=lambda run: (-_best(known, run).sum(), cost[run].sum()))


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

    A gain can only shrink as the set grows, so an old key never overstates its place in the
    queue: one that is still first after being renewed is first among all.
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
    gain = round(float(np.maximum(score[:, m] - best, 0.0).sum()), 9)  # else sums tie by rounding
    price = float(cost[m]) if np.isfinite(cost[m]) else np.inf
    return _Key(-gain / max(price, 1e-300) if per_dollar else -gain, -gain, price, m)


def _known(score: Array) -> Array:
    return np.where(np.isfinite(score), score, 0.0)


def _best(score: Array, chosen: Sequence[int]) -> Array:
    """The best score of the set per query, (n,); nobody scores 0."""
    return np.asarray(score[:, list(chosen)].max(axis=1, initial=0.0))


# --- judging -------------------------------------------------------------------------------


class Step(NamedTuple):
    """The set after one more expert; qualities 0..1."""

    expert: str
    cost: float  # US$ per query, of this expert
    quality: float  # mean known score of this expert
    coverage: float  # F of the set so far
    gain: float  # in F
    best_single: float  # quality of the set's best expert
    table: float  # what a table of means per domain reaches with the set at λ = 0


class Loss(NamedTuple):
    """What leaving an expert out costs, with its paired 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Removal(NamedTuple):
    """Losses of leaving one expert out of the chosen set.

    `coverage` is in F, the oracle's quality. The other two are in AIQ over the set's range of
    costs (without costs: in quality at its best), of mixing fixed experts and of the table.
    """

    expert: str
    coverage: Loss
    zero_router: Loss
    table: Loss

    @property
    def missed(self) -> bool:
        """Whether a router that can really be had is noticeably worse without this expert."""
        return max(self.zero_router.low, self.table.low) > NOTICED


@dataclass(frozen=True)
class Selection:
    """The experts to keep in the order of their choice, and what each one is good for."""

    experts: tuple[str, ...]
    coverage: float  # F of the set
    coverage_of_all: float  # F of the whole pool
    cost: float  # US$ per query for asking every one of them; NaN unknown
    rows: int
    domains: int  # of the rows; with fewer than two a domain table cannot tell who is missed
    steps: tuple[Step, ...]
    removals: tuple[Removal, ...]
    notes: tuple[str, ...]  # what a reader has to know before believing the figures

    def to_json(self) -> dict[str, Any]:
        """Plain data without NaN; what is unknown is None."""
        return {
            **{k: v for k, v in asdict(self).items() if k not in ("steps", "removals")},
            "cost": _number(self.cost),
            "steps": [{k: _number(v) for k, v in step._asdict().items()} for step in self.steps],
            "removals": [_removal(removal) for removal in self.removals],
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

    Raises BadInput for a size or a budget that cannot be met, and where costs are known for
    some experts only.
    """
    outcomes = outcomes.pool(sorted(outcomes.experts))  # the order of columns decides nothing
    score, cost = outcomes.score, metrics.mean(outcomes.cost)
    _check(outcomes.experts, cost, size)
    if budget is None:
        chosen = greedy(score, cost, len(cost) if size is None else size)
    else:
        chosen = greedy_within(score, cost, budget, size)
    if not chosen:
        raise BadInput("no expert ever scores above 0: there is nothing to choose by")
    kept = outcomes.pool([outcomes.experts[m] for m in chosen])
    judge = _Judge.of(kept, replicates, seed)
    return Selection(
        experts=kept.experts,
        coverage=coverage(score, chosen),
        coverage_of_all=coverage(score, range(len(cost))),
        cost=float(cost[chosen].sum()),
        rows=len(outcomes),
        domains=len(set(outcomes.domains) - {None}),
        steps=_steps(kept, judge),
        removals=judge.removals(kept.experts),
        notes=_notes(kept),
    )


def _check(experts: Sequence[str], cost: Array, size: int | None) -> None:
    if size is not None and not 1 <= size <= len(experts):
        raise BadInput(f"size {size} cannot be chosen: the table has {len(experts)} experts")
    unknown = [name for name, c in zip(experts, cost, strict=True) if np.isnan(c)]
    if 0 < len(unknown) < len(experts):
        raise BadInput(
            f"no cost is known for {', '.join(unknown)}: add cost::NAME columns, or leave them"
            " out with --experts"
        )


def _steps(kept: Outcomes, judge: _Judge) -> tuple[Step, ...]:
    """What each further expert brings, in the order of the choice."""
    quality, cost = metrics.mean(kept.score), metrics.mean(kept.cost)
    steps: list[Step] = []
    for m, name in enumerate(kept.experts):
        reached = coverage(kept.score, range(m + 1))
        before = steps[-1].coverage if steps else 0.0
        steps.append(
            Step(
                expert=name,
                cost=float(cost[m]),
                quality=float(quality[m]),
                coverage=reached,
                gain=reached - before,
                best_single=float(np.nanmax(quality[: m + 1])),
                table=float(metrics.mean(policies.take(judge.score, judge.best(m + 1)))),
            )
        )
    return tuple(steps)


@dataclass(frozen=True)
class _Judge:
    """Measures subsets of the chosen experts on the same bootstrap replicates."""

    score: Array  # (n, e)
    cost: Array
    belief: Prediction  # the table's, each row from other folds
    weights: Array  # (b + 1, n); the first row is the sample itself
    prices: Array  # (k,)

    @classmethod
    def of(cls, kept: Outcomes, replicates: int, seed: int) -> _Judge:
        cost = kept.charges
        drawn = metrics.resample(len(kept), replicates, seed, kept.groups)
        belief = _cross_fitted(kept, cost, seed)
        return cls(
            score=kept.score,
            cost=cost,
            belief=belief,
            weights=np.vstack([np.ones(len(kept)), drawn]),
            prices=_prices(belief),
        )

    def best(self, first: int) -> Indices:
        """The table's choices among the `first` experts, whatever they cost."""
        return _choose(self.belief, range(first), 0.0)

    def removals(self, experts: Sequence[str]) -> tuple[Removal, ...]:
        """Nobody can be left out of a set of one."""
        if len(experts) < 2:
            return ()
        measures = (self._coverage, self._zero_router, self._table)
        everyone = list(range(len(experts)))
        whole = [measure(everyone) for measure in measures]
        found = []
        for m, name in enumerate(experts):
            rest = [other for other in everyone if other != m]
            losses = [whole[i] - measure(rest) for i, measure in enumerate(measures)]
            found.append(Removal(name, *map(_loss, losses)))
        return tuple(found)

    def _coverage(self, chosen: Sequence[int]) -> Array:
        return metrics.mean(_best(_known(self.score), chosen)[:, None], self.weights)[:, 0]

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
        known = np.isfinite(cost) & np.isfinite(quality)
        found = np.full(len(cost), np.nan)
        for b in np.flatnonzero(known.any(axis=1)):
            x, y = cost[b][known[b]], quality[b][known[b]]
            found[b] = metrics.aiq(x, y, *span, with_hull=with_hull)
        return found


def _choose(belief: Prediction, chosen: Sequence[int], price: float) -> Indices:
    admissible = np.isin(np.arange(len(belief.experts)), list(chosen))
    return policies.choose(belief, price, admissible=admissible)


def _cross_fitted(kept: Outcomes, cost: Array, seed: int) -> Prediction:
    """What a table of means per domain says about rows it has not seen."""
    domains = np.array([str(domain) for domain in kept.domains])
    fold = folds(len(kept), FOLDS, seed, kept.groups)
    quality, dollars = np.full_like(cost, np.nan), np.full_like(cost, np.nan)
    for k in np.unique(fold):
        seen, asked = fold != k, fold == k
        if not seen.any():
            seen = asked
        for belief, table in ((quality, kept.score), (dollars, cost)):
            belief[asked] = metrics.domain_means(table[seen], domains[seen], domains[asked])
    unknown = np.full_like(cost, np.nan)
    return Prediction(
        kept.experts, np.nan_to_num(quality, nan=-1.0), unknown, np.nan_to_num(dollars), unknown
    )


def _prices(belief: Prediction) -> Array:
    """Prices of quality between "whatever it costs" and "the cheapest", where choices change."""
    rows = np.unique(np.hstack([belief.quality, belief.cost]), axis=0)
    quality, cost = np.hsplit(rows, 2)
    better = quality[:, :, None] - quality[:, None, :]  # (rows, e, e)
    dearer = cost[:, :, None] - cost[:, None, :]
    real = (better > 0) & (dearer > 0)
    if not real.any():
        return np.array([0.0, policies.STEEPEST])
    slopes = np.quantile(better[real] / dearer[real], np.linspace(0, 1, PRICES - 2))
    return np.array([0.0, *slopes * (1 + 1e-9), policies.STEEPEST])


def _loss(difference: Array) -> Loss:
    return Loss(float(difference[0]), *metrics.interval(difference[1:]))


def _notes(kept: Outcomes) -> tuple[str, ...]:
    notes = []
    missing = 1 - np.isfinite(kept.score).mean(axis=0)
    for name, share in zip(kept.experts, missing.tolist(), strict=True):
        if share > 0:
            notes.append(f"{name} has no score on {share:.1%} of the rows; they count 0 for it")
    if len(set(kept.domains)) < 2:
        notes.append("the rows have no domains, so the table router is a table of one row")
    if not np.isfinite(kept.cost).any():
        notes.append("no costs are known: losses are in quality, ties went by name")
    return tuple(notes)


def _removal(removal: Removal) -> dict[str, Any]:
    losses = {
        name: {k: _number(v) for k, v in getattr(removal, name)._asdict().items()}
        for name in ("coverage", "zero_router", "table")
    }
    return {"expert": removal.expert, **losses, "missed": removal.missed}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
