"""Estimates what a router gains on topics that it was not fitted on, by leaving topics out.

Whole domains are left out of the fit, or clusters of similar prompts where rows have no domain. A
router that gains nothing there is served only for queries like its training rows; about the
others, the fixed mix decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.data.outcomes import Outcomes
from routewright.fitting import ladder
from routewright.prediction.novelty import distance_view
from routewright.prediction.predictors import Folds
from routewright.prediction.predictors.linear import Linear
from routewright.router import frontier
from routewright.router.router import context, scale_differences
from routewright.types import Array, Prediction

PARTS = 5  # of the topics, of which each is left out once
FEWEST_TOPICS, FEWEST_ROWS = 5, 200  # otherwise nothing is estimated
CLUSTERS = 10  # of prompts, where rows have no domain
MOST_ROWS = 1500  # for the forests of a ladder
REPLICATES = 400


class LeftOut(NamedTuple):
    """The mean gain over the zero router of all budgets, on topics left out of the fit."""

    by: str  # what a topic is: "domain" or "cluster"
    topics: int
    gain: float
    gain_ci: tuple[float, float]  # topics are drawn whole

    @property
    def pays(self) -> bool:
        """Whether the gain is above zero with confidence."""
        return self.gain_ci[0] > 0


def topics(outcomes: Outcomes, x: Array, blocks: Mapping[str, slice], seed: int) -> list[str]:
    """The topic of each row: its domain, or a cluster of similar prompts where a row has none."""
    if all(outcomes.domains):
        return [str(domain) for domain in outcomes.domains]
    from sklearn.cluster import KMeans

    vectors = distance_view(blocks)(x)
    if not vectors.shape[1]:  # the encoder reads no text
        return [""] * len(x)
    different = len(np.unique(vectors, axis=0))
    clusters = KMeans(min(CLUSTERS, different), n_init=3, random_state=seed).fit_predict(vectors)
    return [f"cluster {k}" for k in clusters]


def parts(topic: Sequence[str]) -> Folds:
    """The part 0..PARTS−1 of each row; a topic is in one part, and parts are of similar size."""
    names, member, count = np.unique(topic, return_inverse=True, return_counts=True)
    part, size = np.zeros(len(names), np.intp), np.zeros(PARTS)
    for k in np.argsort(-count, kind="stable"):
        part[k] = size.argmin()
        size[part[k]] += count[k]
    return np.asarray(part[member])


def estimate(
    outcomes: Outcomes,
    x: Array,
    blocks: Mapping[str, slice],
    topic: Sequence[str],
    signal: float,
    *,
    weighs_answers: bool,
    seed: int = 0,
) -> LeftOut | None:
    """The gain on topics left out of the fit; None if the rows or the topics are too few.

    Scores are predicted by a ridge regression, and costs by the means: both are quick. If the
    router `weighs_answers`, so does the estimate, with a ladder fitted on at most MOST_ROWS rows.
    """
    names = sorted(set(topic))
    if len(names) < FEWEST_TOPICS or len(outcomes) < FEWEST_ROWS:
        return None
    if weighs_answers and len(outcomes) > MOST_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(outcomes))[:MOST_ROWS]
        outcomes, x, topic = outcomes.rows(chosen), x[chosen], [topic[i] for i in chosen]
    part = parts(topic)
    prediction = _prediction(outcomes, x, blocks, part, signal, seed)
    candidates = None
    if weighs_answers and (climbing := ladder.build(outcomes, prediction, part, seed=seed)):
        candidates = climbing.candidates
    candidates = candidates or frontier.singles(prediction, outcomes)
    gains = _gains(candidates, outcomes, topic, seed)
    by = "domain" if all(outcomes.domains) else "cluster"
    return LeftOut(by, len(names), float(gains[0]), metrics.interval(gains[1:]))


def _prediction(
    outcomes: Outcomes, x: Array, blocks: Mapping[str, slice], part: Folds, signal: float, seed: int
) -> Prediction:
    quality, cost = np.zeros_like(outcomes.score), np.zeros_like(outcomes.score)
    for k in np.unique(part):
        inside, outside = part != k, part == k
        model = Linear().fit(x[inside], outcomes.score[inside], blocks=blocks, seed=seed)
        mean = metrics.mean(outcomes.score[inside])
        quality[outside] = scale_differences(model.predict(x[outside]).mean, mean, signal)
        cost[outside] = metrics.mean(outcomes.charges[inside])
    quality = np.nan_to_num(quality.clip(0.0, 1.0), nan=-1.0)
    unknown = np.full_like(quality, np.nan)
    return Prediction(
        outcomes.experts, quality, quality * 0, cost, unknown, context=context(x, blocks)
    )


def _gains(
    candidates: Sequence[frontier.Candidate], outcomes: Outcomes, topic: Sequence[str], seed: int
) -> Array:
    """The mean gain of the candidates over the zero router, and its replicates, (1 + b,)."""
    weights = metrics.resample(len(outcomes), REPLICATES, seed, topic)
    weights = np.vstack([np.ones(len(outcomes)), weights])
    score = metrics.mean(np.column_stack([c.score for c in candidates]), weights)
    cost = metrics.mean(np.column_stack([c.cost for c in candidates]), weights)
    means = metrics.mean(outcomes.score, weights), metrics.mean(outcomes.charges, weights)
    gains = [
        np.nanmean(s - policies.hull_quality(policies.zero_router(q, c), at))
        for s, at, q, c in zip(score, cost, *means, strict=True)
    ]
    return np.array(gains)


def steady(outcomes: Outcomes, topic: Sequence[str]) -> tuple[str, ...]:
    """The experts that a fixed mix may ask about other topics than those of the rows.

    They are the ends of the zero router, and those between them that are above the line of their
    neighbours by a standard error, when topics are drawn: an expert that happens to be good at the
    topics of the table may be bad at others.
    """
    names = np.unique(topic)
    hull = policies.zero_router(metrics.mean(outcomes.score), metrics.mean(outcomes.charges))
    if len(names) >= FEWEST_TOPICS:
        member = np.asarray(topic)
        means = np.array([metrics.mean(outcomes.score[member == name]) for name in names])
        while len(hull) > 2:
            above = [
                _above(hull[k - 1], hull[k], hull[k + 1], means) for k in range(1, len(hull) - 1)
            ]
            worst = int(np.argmin(above))
            if above[worst] > 1.0:
                break
            del hull[worst + 1]
    return tuple(outcomes.experts[vertex.expert] for vertex in hull)


def _above(
    left: policies.Vertex, middle: policies.Vertex, right: policies.Vertex, means: Array
) -> float:
    """By how many standard errors over topics an expert is above the mix of its neighbours of the
    same cost; `means` are of topics and experts."""
    share = (middle.cost - left.cost) / max(right.cost - left.cost, 1e-300)
    line = (1 - share) * means[:, left.expert] + share * means[:, right.expert]
    above = means[:, middle.expert] - line
    above = above[np.isfinite(above)]
    if len(above) < FEWEST_TOPICS:
        return -np.inf
    return float(above.mean() / max(above.std(ddof=1) / np.sqrt(len(above)), 1e-9))


def facts(left_out: LeftOut | None, where_fitted: float) -> dict[str, Any]:
    """The entry `left_out` of the card of router.json; empty if nothing was estimated."""
    if left_out is None:
        return {}
    entry = {**left_out._asdict(), "gain_ci": list(left_out.gain_ci)}
    return {"left_out": {**entry, "gain_where_fitted": where_fitted, "pays": left_out.pays}}
