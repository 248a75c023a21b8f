"""Meta-verifiers decide from a confidence whether to keep an answer or climb.

Shapes: n rows, N models of a ladder, cheapest first, S states, B bins. A policy is a tree of
nodes, as plain data: `{"expert": place, "edges": […], "then": […]}` asks the model at that place
of the ladder, observes the confidence in its answer, and follows the child of the bin that the
confidence falls into; None keeps the answer. A node without `then` keeps its answer unobserved.

Every meta-verifier is a function from trials to a `Rule`: price of quality λ ▶ policy.
Source: AutoMix (arXiv 2310.12963, sections 3 and 4), its POMDP solved exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright import policies
from routewright.types import Array, Indices

Node = Mapping[str, Any]
Rule = Callable[[float], Node]  # λ, quality per US$ ▶ policy

HALF = 0.5  # the threshold of self-consistency
FEWEST = 8  # rows in a bin, if there are enough
PRIOR = 2.0  # the overall mean counts as so many rows in every bin
TIE = 1e-12  # values per query closer than this are equal
STATES = 6  # levels of a score in the states of the POMDP


@dataclass(frozen=True)
class Trials:
    """Scores and costs of a ladder of models on n rows, and the confidence in each answer.

    `quality` and `cost` are (n, N), scores 0..1 and US$. `verifying` (n, N − 1) is the cost of
    verifying an answer, on top of the answer, in US$. `confidence` (n, N − 1) is the share of
    verdicts for the answer, or minus the expected gain of climbing: the larger, the better.
    """

    quality: Array
    cost: Array
    verifying: Array
    confidence: Array

    def __len__(self) -> int:
        return len(self.quality)

    def rows(self, index: Any) -> Trials:
        return Trials(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @property
    def complete(self) -> NDArray[np.bool_]:
        """The rows without an unknown value, as a mask (n,)."""
        tables = (self.quality, self.cost, self.verifying, self.confidence)
        masks = [np.isfinite(table).all(axis=1) for table in tables]
        return np.asarray(np.all(masks, axis=0))


# --- bins ----------------------------------------------------------------------------------


def bins(confidence: Array, most: int = 16, fewest: int = FEWEST) -> Array:
    """Edges between at most `most` bins of at least `fewest` rows each; (n,) gives (B − 1,).

    Edges lie half-way between values that occur, so that rounding moves no value across one.

    >>> bins(np.repeat([0, 1 / 3, 2 / 3, 1], 10)).round(3).tolist()
    [0.167, 0.5, 0.833]
    """
    values, counts = np.unique(np.sort(confidence).round(12), return_counts=True)
    size = max(fewest, len(confidence) / most if len(values) > most else fewest)
    edges, filled, left = list[float](), 0, len(confidence)
    for (low, high), count in zip(pairwise(values.tolist()), counts.tolist(), strict=False):
        filled, left = filled + count, left - count
        if filled >= size and left >= fewest:
            edges.append((low + high) / 2)
            filled = 0
    return np.array(edges)


def place(confidence: Array, edges: Sequence[float] | Array) -> Indices:
    """The bin of every value: 0 below the first edge; an edge belongs to the bin above it."""
    return np.searchsorted(np.asarray(edges, dtype=np.float64), confidence, side="right")


class Bins(NamedTuple):
    """Two models, by the confidence in the small one's answer."""

    edges: Array  # (B − 1,)
    weight: Array  # (B,) share of the rows
    gain: Array  # (B,) E[P_large − P_small | bin], shrunk towards the overall mean
    large: float  # US$ per escalation
    top: int  # the large model's place in the ladder


def _bins(trials: Trials, prior: float) -> Bins:
    """The first and the last model of a ladder; those between are left out."""
    gain = trials.quality[:, -1] - trials.quality[:, 0]
    edges = bins(trials.confidence[:, 0])
    where, size = place(trials.confidence[:, 0], edges), len(edges) + 1
    count = np.bincount(where, minlength=size)
    total = np.bincount(where, gain, minlength=size)
    shrunk = (total + prior * gain.mean()) / (count + prior)
    large = float(trials.cost[:, -1].mean())
    return Bins(edges, count / len(trials), shrunk, large, trials.quality.shape[1] - 1)


# --- two models ----------------------------------------------------------------------------


def threshold(trials: Trials, prior: float = PRIOR) -> Rule:
    """Escalate where the confidence is at most t; t is the best threshold on these rows."""
    table = _bins(trials, prior)

    def rule(price: float) -> Node:
        value = np.cumsum(table.weight * (table.gain - price * table.large))
        return _escalating(table, np.arange(len(value)) < _best(np.append(0.0, value)))

    return rule


def double_threshold(trials: Trials, prior: float = PRIOR) -> Rule:
    """Escalate between two thresholds: below both, the large model does not help either."""
    table = _bins(trials, prior)

    def rule(price: float) -> Node:
        value = np.append(0.0, np.cumsum(table.weight * (table.gain - price * table.large)))
        worth = np.triu(value[None, :] - value[:, None])  # of escalating bins first … last − 1
        first, last = divmod(_best(worth.ravel()), len(value))
        at = np.arange(len(value) - 1)
        return _escalating(table, (at >= first) & (at < last))

    return rule


def self_consistency(trials: Trials, prior: float = PRIOR) -> Rule:
    """Escalate where the confidence is at most one half, whatever the price."""
    edge = float(np.nextafter(HALF, 1.0))
    return lambda price: {"expert": 0, "edges": [edge], "then": [_top(trials), None]}


def greedy(trials: Trials, prior: float = PRIOR) -> Rule:
    """Escalate the bins with the greatest mean gain, smoothed over their neighbours (σ = 2)."""
    from scipy.ndimage import gaussian_filter1d

    table = _bins(trials, prior)
    smooth = gaussian_filter1d(table.gain, sigma=2)
    return lambda price: _escalating(table, smooth > price * table.large)


def lookup(trials: Trials, prior: float = PRIOR) -> Rule:
    """Escalate the bins where E[P_large − P_small | bin] is worth the price: optimal for two."""
    table = _bins(trials, prior)
    return lambda price: _escalating(table, table.gain > price * table.large)


def linear(trials: Trials) -> Rule:
    """Two models, where the confidence is minus the expected gain (`observations.Linear`)."""
    large = float(trials.cost[:, -1].mean())

    def rule(price: float) -> Node:
        edge = float(np.nextafter(-price * large, -np.inf))
        return {"expert": 0, "edges": [edge], "then": [_top(trials), None]}

    return rule


def _top(trials: Trials) -> Node:
    return {"expert": trials.quality.shape[1] - 1}


def _best(values: Array) -> int:
    """The first of the largest values: at a tie, the policy that escalates less wins."""
    return int(np.argmax(values))


def _escalating(table: Bins, mask: NDArray[np.bool_]) -> Node:
    """The policy that escalates the bins of the mask; without one, it observes nothing."""
    if not mask.any():
        return {"expert": 0}
    then = [{"expert": table.top} if up else None for up in mask.tolist()]
    return _merged(0, table.edges.tolist(), then)


def _merged(expert: int, edges: Sequence[float], then: Sequence[Node | None]) -> Node:
    """A node without edges between bins that have the same child."""
    changes = [b for b in range(len(edges)) if then[b] != then[b + 1]]
    return {
        "expert": expert,
        "edges": [edges[b] for b in changes],
        "then": [then[b] for b in (*changes, len(edges))],
    }


# --- N models: the POMDP -------------------------------------------------------------------


@dataclass(frozen=True)
class Pomdp:
    """State ⟨i, P_1 … P_N⟩: the model that answered last, and the quality of each one's answer.

    The particles are the rows; those with the same scores are one state of their joint weight.
    Actions: keep the answer, or go to any later model and observe its answer or not.
    """

    edges: tuple[Array, ...]  # of the confidence in each model but the last, (B_j − 1,)
    weight: Array  # (S,) of the states, summing to one
    quality: Array  # (S, N)
    cost: Array  # (N,) US$, on average
    verifying: Array  # (N − 1,) US$
    chance: tuple[Array, ...]  # (S, B_j): P_j(o | s)

    def rule(self, price: float) -> Node:
        return self._go(0, self.weight, price)[0]

    def value(self, price: float) -> float:
        """Expected quality − λ cost of that policy."""
        return self._go(0, self.weight, price)[1]

    def _go(self, j: int, w: Array, price: float) -> tuple[Node, float]:
        """Asks model j under the belief w (S,), unnormalised; returns the node and its value.

        go(j) = −λ (C_j + Cver_j) + Σ_o p_o V_j(w_o). The answer of a later model may also be kept
        unobserved, for E_w[P_j] − λ C_j; the first is always observed, unless that changes nothing.
        """
        mass = float(w.sum())
        blind = float(w @ self.quality[:, j]) - price * self.cost[j] * mass
        if j == self.quality.shape[1] - 1:
            return {"expert": j}, blind
        children = [self._after(j, w * self.chance[j][:, o], price) for o in self._outcomes(j)]
        observed = sum(value for _, value in children)
        observed -= price * (self.cost[j] + self.verifying[j]) * mass
        if all(then is None for then, _ in children) or (j > 0 and observed <= blind + TIE):
            return {"expert": j}, blind
        return _merged(j, self.edges[j].tolist(), [then for then, _ in children]), observed

    def _after(self, i: int, w: Array, price: float) -> tuple[Node | None, float]:
        """V_i(w): keep model i's answer, or go to the best later model."""
        keep = float(w @ self.quality[:, i])
        best: tuple[Node | None, float] = None, keep
        for j in reversed(range(i + 1, self.quality.shape[1])):  # the shorter path wins ties
            node, value = self._go(j, w, price)
            if value > best[1] + TIE:
                best = node, value
        return best

    def _outcomes(self, j: int) -> range:
        return range(len(self.edges[j]) + 1)


def pomdp(trials: Trials, prior: float = PRIOR, *, most: int | None = None) -> Rule:
    """The exact policy for a ladder of any length: a belief over the rows, and recursion over the
    possible observations (AutoMix, section 3.2, without sampling)."""
    return solve(trials, prior, most=most).rule


def solve(trials: Trials, prior: float = PRIOR, *, most: int | None = None) -> Pomdp:
    """Estimates the POMDP of a ladder; `most` bounds the bins of each verifier.

    P_j(o | s) is a count over the rows in state s, plus `prior` rows per bin distributed over the
    states as all rows are: the belief after an empty bin is the belief before it. Scores between
    0 and 1 get a kernel over neighbouring states in place of plain counts.
    """
    models = trials.quality.shape[1]
    most = most or {2: 16, 3: 9, 4: 6}.get(models, 4)
    levels = _levels(trials.quality)
    _, first, state, counts = np.unique(
        levels, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    state = state.reshape(-1)
    size = len(counts)
    sums = [np.bincount(state, column, minlength=size) for column in trials.quality.T]
    weight = counts / len(trials)
    near = _kernel(levels[first], trials.quality)
    edges = tuple(bins(column, most) for column in trials.confidence.T)
    chance = []
    for column, cut in zip(trials.confidence.T, edges, strict=True):
        joint = np.zeros((size, len(cut) + 1))
        np.add.at(joint, (state, place(column, cut)), 1.0)
        joint = near @ joint + prior * weight[:, None]
        chance.append(joint / joint.sum(axis=1, keepdims=True))
    return Pomdp(
        edges,
        weight,
        np.column_stack(sums) / counts[:, None],
        trials.cost.mean(axis=0),
        trials.verifying.mean(axis=0),
        tuple(chance),
    )


def _levels(quality: Array) -> Array:
    """The scores of the states: unchanged if there are few distinct ones, else rounded."""
    if len(np.unique(quality)) <= STATES:
        return quality
    return np.asarray(np.round(quality * (STATES - 1)) / (STATES - 1))


def _kernel(states: Array, quality: Array) -> Array:
    """The weight of each state's count in another's, (S, S); the identity for scores that are
    only right or wrong."""
    if len(np.unique(quality)) <= 2:
        return np.eye(len(states))
    spread = quality.std(axis=0).mean() * len(quality) ** (-1 / (4 + quality.shape[1]))
    apart = ((states[:, None] - states[None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-apart / max(2 * spread**2, 1e-9)))


# --- following a policy --------------------------------------------------------------------


class Walk(NamedTuple):
    """The model where a policy ends on every row, and the models that it asked and observed."""

    final: Indices  # (n,) the place of the model whose answer is kept
    asked: NDArray[np.bool_]  # (n, N)
    observed: NDArray[np.bool_]  # (n, N − 1)


def walk(policy: Node, confidence: Array) -> Walk:
    """Follows a policy on all rows at once; `confidence` is (n, N − 1)."""
    n, rungs = confidence.shape
    path = Walk(
        np.zeros(n, dtype=np.intp),
        np.zeros((n, rungs + 1), dtype=bool),
        np.zeros((n, rungs), dtype=bool),
    )
    _walk(policy, confidence, np.arange(n), path)
    return path


def _walk(node: Node, confidence: Array, rows: Indices, path: Walk) -> None:
    j = node["expert"]
    path.final[rows] = j
    path.asked[rows, j] = True
    if "then" not in node:
        return
    path.observed[rows, j] = True
    bin_of_row = place(confidence[rows, j], node["edges"])
    for b, then in enumerate(node["then"]):
        if then is not None and (rows_of_bin := rows[bin_of_row == b]).size:
            _walk(then, confidence, rows_of_bin, path)


def outcome(policy: Node, trials: Trials) -> tuple[Array, Array]:
    """Score and cost (US$) of a policy on every row, (n,) each; every ask is paid."""
    return totals(walk(policy, trials.confidence), trials)


def totals(path: Walk, trials: Trials) -> tuple[Array, Array]:
    """Score and cost (US$) of a path, (n,) each."""
    score = np.take_along_axis(trials.quality, path.final[:, None], axis=1)[:, 0]
    cost = (trials.cost * path.asked).sum(axis=1) + (trials.verifying * path.observed).sum(axis=1)
    return score, cost


def meet_cost(rule: Rule, trials: Trials, cost: float) -> float:
    """The least λ whose policy spends at most `cost` US$ per query on these rows, by bisection."""
    low, high = 0.0, 1.0 / max(float(trials.cost[:, -1].mean()), 1e-300)
    if _spends(rule, trials, low) <= cost:
        return low
    while _spends(rule, trials, high) > cost and high < 1e15:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _spends(rule, trials, middle) > cost else (low, middle)
    return high


def _spends(rule: Rule, trials: Trials, price: float) -> float:
    return float(outcome(rule(price), trials)[1].mean())


def steepest(rule: Rule, trials: Trials) -> float:
    """The λ whose policy gains the most quality per US$ over the first model, on these rows.

    Dinkelbach's iteration: the best ratio is the price at which the best policy breaks even.
    """
    small = float(trials.quality[:, 0].mean()), float(trials.cost[:, 0].mean())
    large = float(trials.quality[:, -1].mean()), float(trials.cost[:, -1].mean())
    price = best = max(0.0, (large[0] - small[0]) / max(large[1] - small[1], 1e-300))
    ratio = -np.inf
    for _ in range(20):
        score, cost = (float(rows.mean()) for rows in outcome(rule(price), trials))
        if cost - small[1] <= 0:
            break
        gain_per_dollar = (score - small[0]) / (cost - small[1])
        if gain_per_dollar <= ratio + 1e-12 * abs(ratio):
            break
        ratio, best, price = gain_per_dollar, price, max(gain_per_dollar, 0.0)
    return best


def prices(trials: Trials, size: int = 65) -> Array:
    """Prices of quality to try, from 0 up: evenly spaced in the gain that the last model must
    have, then up to the price at which no cheaper model is worth asking."""
    highest = max(float(trials.cost[:, -1].mean()), 1e-300)
    lowest = max(float(trials.cost[:, 1:].mean(axis=0).min()), highest * 1e-4)
    even = np.linspace(0.0, 0.8, size) / highest
    return np.unique([*even, *np.geomspace(0.8 / highest, 0.8 / lowest, size // 4)])


class Step(NamedTuple):
    """A point between the first model alone and the best policy: a mix of two policies."""

    price: float  # λ, quality per US$
    first: Node
    second: Node
    share: float  # of the queries that follow `second`


def steps(rule: Rule, trials: Trials, budgets: Sequence[float]) -> list[Step]:
    """A mix for every budget, from 0 (the first model alone) to 1 (the best policy on these rows).

    The two policies to mix are neighbours on the upper hull of the policies and of the first and
    last model without verification: a policy that is not worth its verification is left out.
    """
    nodes: list[Node] = [{"expert": 0}, _top(trials), *map(rule, prices(trials).tolist())]
    means = np.array([[x.mean() for x in outcome(node, trials)] for node in nodes])
    hull = policies.zero_router(means[:, 0], means[:, 1])
    costs = [vertex.cost for vertex in hull]
    slopes = [(b.quality - a.quality) / max(b.cost - a.cost, 1e-300) for a, b in pairwise(hull)]
    # λ to the left of each corner
    left_slopes = [2 * slope for slope in slopes[:1]] + slopes + [0.0]
    mixes = []
    for budget in budgets:
        goal = costs[0] + budget * (costs[-1] - costs[0])
        right = min(int(np.searchsorted(costs, goal)), len(costs) - 1)
        left = max(right - 1, 0)
        width = costs[right] - costs[left]
        share = (goal - costs[left]) / width if width > 0 else 0.0
        price_of_corner = [(a + b) / 2 for a, b in pairwise(left_slopes)] or [0.0]
        price_of_right = price_of_corner[right] if right < len(costs) - 1 else 0.0
        price = (1 - share) * price_of_corner[left] + share * price_of_right
        first, second = nodes[hull[left].expert], nodes[hull[right].expert]
        mixes.append(Step(price, first, second, float(share)))
    return mixes


METAVERIFIERS: dict[str, Callable[[Trials], Rule]] = {
    "threshold": threshold,
    "double_threshold": double_threshold,
    "self_consistency": self_consistency,
    "greedy": greedy,
    "lookup": lookup,
    "pomdp": pomdp,
}


def with_names(policy: Node, ladder: Sequence[str]) -> dict[str, Any]:
    """A policy with the names of experts in place of places, as in a strategy's spec."""
    node: dict[str, Any] = {**policy, "expert": ladder[policy["expert"]]}
    if "then" in policy:
        node["then"] = [None if t is None else with_names(t, ladder) for t in policy["then"]]
    return node


def with_places(policy: Node, ladder: Sequence[str]) -> dict[str, Any]:
    """The inverse of `with_names`: places in the ladder in place of names."""
    node: dict[str, Any] = {**policy, "expert": ladder.index(policy["expert"])}
    if "then" in policy:
        node["then"] = [None if t is None else with_places(t, ladder) for t in policy["then"]]
    return node
