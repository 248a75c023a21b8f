"""Adds an expert to a fitted router with 50 to 200 of its answers; no other expert is asked again.

The score of an expert depends mostly on how hard a query is, which the old experts' forecasts
show, and a little on which of them the new expert resembles. So the score of the added expert is a
Bayesian linear regression

    score = θ₀ + b · z(query) + c · r(query) + noise,

where z are the old experts' forecasts and r their actual scores minus the forecasts, both in
components of expert space: the common level, then the principal differences. For a new query
only z is known. But r shows with less noise which experts the added one resembles, and b and c are
correlated: their prior is joint, so that an answer to a query with scores of the old experts
informs both.

Queries are chosen by how much their answers would reduce the variance of all forecasts (V-optimal
design, Chaloner and Verdinelli 1995, section 2.2). In a linear model this reduction, and the error
that remains, are known before any answer.

Shapes: n queries, e old experts, k components, c = 1 + 2k columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright import metrics, policies
from routewright.data.outcomes import Outcomes, fingerprints
from routewright.errors import BadInput, BadTable
from routewright.parallel import one_thread
from routewright.prediction.predictors import (
    Belief,
    Predictor,
    components,
    deviations,
    fit_held_out,
    folds,
    inputs,
)
from routewright.prediction.predictors.extended import Extended
from routewright.prediction.predictors.pool import Pool
from routewright.registry import settings
from routewright.router import frontier
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, StandIn, run
from routewright.types import Array, Indices, Prediction

FEWEST = 20  # answers of the added expert, and rows with scores of the old experts
COMPONENTS = 5  # the level and four differences; more make no difference
RANDOM_SHARE = 0.2  # share of the queries that are drawn at random
FOLDS = 5
AHEAD = (25, 50, 100)  # numbers of further answers for which the error is predicted

# Mean, standard deviation and correlation of (b, c), measured by adding each of 27 models to
# seven others on MMLU-Pro: the slopes of the level, and those of the differences.
LEVEL = ((0.95, 0.72), (0.2, 0.15), 0.85)
DIFFERENCE = ((0.0, 0.0), (0.4, 0.11), 0.8)
ABILITY = 0.2  # standard deviation of an added expert's mean score around the old experts' mean
NOISE, CERTAINTY = 0.15, 20.0  # residual variance of a score; its prior counts as so many answers

Progress = Callable[[str, float], None]
Mask = NDArray[np.bool_]


class Normal(NamedTuple):
    """A normal belief about the coefficients, and the variance of the noise."""

    mean: Array  # (c,)
    covariance: Array  # (c, c)
    noise: float


class Errors(NamedTuple):
    """Standard deviations of the belief about the added expert."""

    mean: float  # its mean score over all queries
    query: float  # its expected score on one query, as a root mean square


@dataclass(frozen=True)
class Design:
    """Inputs of the regression, and its prior; both are known before the expert answers."""

    columns: Array  # (n, c) one, z and r
    forecast: Array  # (n, c) the same with r = 0, as for a new query
    basis: Array  # (e, k)
    centre: Array  # (e,) mean forecast
    prior: Normal


@dataclass(frozen=True)
class Study:
    """A router, the rows of a table, and held-out beliefs about these rows."""

    router: Router
    old: Outcomes  # of the router's experts
    x: Array
    belief: Belief
    design: Design


@dataclass(frozen=True)
class AddedExpert:
    """The router with the added expert, the rows used to fit it, and its errors."""

    router: Router
    expert: str
    asked: Indices  # the rows whose answers were used
    quality: float
    errors: Errors
    ahead: Mapping[int, Errors]  # after so many further answers

    def to_json(self) -> dict[str, Any]:
        return {
            "expert": self.expert,
            "answers": len(self.asked),
            "quality": self.quality,
            **errors_json(self.errors, self.ahead),
        }


def errors_json(errors: Errors, ahead: Mapping[int, Errors]) -> dict[str, Any]:
    """Errors now and after further answers, as `add-expert --json` prints them."""
    further = [{"answers": n, **left._asdict()} for n, left in ahead.items()]
    return {"error": errors._asdict(), "error_after_further": further}


# --- learning from answers -----------------------------------------------------------------


def design(forecast: Array, scores: Array, *, leave_one_out: bool = True) -> Design:
    """The design from the old experts' forecasts and scores, both (n, e); unknown ones are NaN.

    With three old experts or more, each in turn is treated as added to the others; the mean of
    their level's slopes becomes the prior's mean (`leave_one_out`).
    """
    centre = np.nan_to_num(metrics.mean(forecast))
    differences = np.nan_to_num(forecast - centre)
    surprise = np.nan_to_num(scores - forecast)
    has_score = np.isfinite(scores)
    basis = components(deviations(scores)[1] if has_score.any() else differences)[:, :COMPONENTS]
    basis[:, 0] /= np.sqrt(len(basis))  # the level is the mean over experts
    ones = np.ones((len(forecast), 1))
    z, r = differences @ basis, surprise @ basis
    mean_score = (
        float(np.mean(metrics.mean(scores)[has_score.any(axis=0)])) if has_score.any() else 0.5
    )
    prior = _prior(mean_score, basis.shape[1])
    if leave_one_out and len(basis) >= 3 and has_score.sum(axis=0).min() >= FEWEST:
        prior = _with_leave_one_out(prior, forecast, scores)
    return Design(
        np.hstack([ones, z, r]), np.hstack([ones, z, np.zeros_like(r)]), basis, centre, prior
    )


def _prior(mean_score: float, k: int) -> Normal:
    mean, covariance = np.zeros(1 + 2 * k), np.zeros((1 + 2 * k, 1 + 2 * k))
    mean[0], covariance[0, 0] = mean_score, ABILITY**2
    for i in range(k):
        centre, (sb, sc), correlation = LEVEL if i == 0 else DIFFERENCE
        pair = [1 + i, 1 + k + i]
        mean[pair] = centre
        covariance[np.ix_(pair, pair)] = [
            [sb**2, correlation * sb * sc],
            [correlation * sb * sc, sc**2],
        ]
    return Normal(mean, covariance, NOISE)


def _with_leave_one_out(prior: Normal, forecast: Array, scores: Array) -> Normal:
    slopes = []
    for m in range(scores.shape[1]):
        others = design(np.delete(forecast, m, 1), np.delete(scores, m, 1), leave_one_out=False)
        posterior = learn(others.prior, others.columns, scores[:, m])
        slopes.append(posterior.mean[[1, 1 + (len(posterior.mean) - 1) // 2]])
    mean = prior.mean.copy()
    mean[[1, 1 + (len(mean) - 1) // 2]] = np.mean(slopes, axis=0)
    return prior._replace(mean=mean)


def learn(prior: Normal, columns: Array, scores: Array) -> Normal:
    """The posterior after scores (n,), NaN where there is no answer; the noise by EM."""
    has_score = np.isfinite(scores)
    x, y = columns[has_score], scores[has_score]
    precision = np.linalg.inv(prior.covariance)
    noise = prior.noise
    for _ in range(4):
        covariance = np.asarray(np.linalg.inv(precision + x.T @ x / noise), np.float64)
        mean = covariance @ (precision @ prior.mean + x.T @ y / noise)
        squares = float(((y - x @ mean) ** 2).sum() + ((x @ covariance) * x).sum())
        noise = (CERTAINTY * prior.noise + squares) / (CERTAINTY + len(y))
    return Normal(mean, covariance, noise)


def errors(design: Design, covariance: Array) -> Errors:
    """The errors of the added expert's predicted quality, as standard deviations."""
    middle = design.forecast.mean(axis=0)
    spread = ((design.forecast @ covariance) * design.forecast).sum(axis=1)
    return Errors(float(np.sqrt(middle @ covariance @ middle)), float(np.sqrt(spread.mean())))


# --- choosing queries ----------------------------------------------------------------------


def choose(design: Design, belief: Normal, free: Mask, n: int, seed: int = 0) -> Indices:
    """Up to `n` unanswered rows to ask next, the most informative first."""
    rows = [row for row, _ in islice(_narrowing(design, belief, free, seed), n)]
    return np.array(rows, dtype=np.intp)


def predict_errors(
    design: Design, belief: Normal, free: Mask, steps: Sequence[int] = AHEAD, seed: int = 0
) -> dict[int, Errors]:
    """The errors that remain after so many further answers, to rows chosen by `choose`."""
    remaining = {}
    for n, (_, covariance) in enumerate(_narrowing(design, belief, free, seed), 1):
        if n in steps:
            remaining[n] = errors(design, covariance)
        if n >= max(steps):
            break
    return remaining


def _narrowing(
    design: Design, belief: Normal, free: Mask, seed: int
) -> Iterator[tuple[int, Array]]:
    """Yields unanswered rows in the order of asking, each with the covariance after its answer.

    Greedy: next comes the row that reduces the mean variance of all forecasts most. The covariance
    is updated by the Sherman–Morrison formula; some rows are drawn at random.
    """
    rng = np.random.default_rng(seed)
    importance = design.forecast.T @ design.forecast / len(design.forecast)
    covariance, unanswered = belief.covariance.copy(), free.copy()
    while unanswered.any():
        if rng.random() < RANDOM_SHARE:
            row = int(rng.choice(np.flatnonzero(unanswered)))
        else:
            projected = design.columns @ covariance  # (n, c)
            variance = (projected * design.columns).sum(axis=1)
            reduction = ((projected @ importance) * projected).sum(axis=1) / (
                belief.noise + variance
            )
            row = int(np.where(unanswered, reduction, -1.0).argmax())
        step = covariance @ design.columns[row]
        covariance -= np.outer(step, step) / (belief.noise + design.columns[row] @ step)
        unanswered[row] = False
        yield row, covariance.copy()


def interview(
    study: Study, newcomer: Outcomes, n: int = 50, seed: int = 0
) -> tuple[Indices, Errors, dict[int, Errors]]:
    """The rows to ask the new expert next, the errors after its answers so far, and the errors
    after further answers. Raises BadTable if it has answered every row."""
    score, g = newcomer.score[:, 0], study.design
    posterior, free = learn(g.prior, g.columns, score), np.isnan(score)
    if not free.any():
        raise BadTable(f"'{newcomer.experts[0]}' has answered every row: no query is left to ask")
    return (
        choose(g, posterior, free, n, seed),
        errors(g, posterior.covariance),
        predict_errors(g, posterior, free, seed=seed),
    )


def only(rows: Outcomes, expert: str) -> Outcomes:
    """The new expert's column alone; empty if the table does not have it yet."""
    if expert in rows.experts:
        return rows.pool([expert])
    empty = np.full((len(rows), 1), np.nan)
    return replace(rows, experts=(expert,), measures={"score": empty, "cost": empty}, answers=None)


# --- joining a router ----------------------------------------------------------------------


def study(
    router: Router,
    rows: Outcomes,
    *,
    held_out: bool = True,
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> Study:
    """The router's beliefs about a table's rows, and the old experts' scores there.

    Beliefs about rows that the router was fitted on are too good. With `held_out` its predictor is
    refitted without them, fold by fold; choosing queries does not need that. Raises BadTable if the
    table lacks an expert of the router, or its scores.
    """
    old = rows.pool(router.experts)
    if (common := int(np.isfinite(old.score).any(axis=1).sum())) < FEWEST:
        raise BadTable(
            f"the table and the router have {common} rows in common: scores of"
            f" {', '.join(router.experts)} are needed on at least {FEWEST} to trace the frontier"
        )
    x = router.encoder.encode(old.queries)
    belief = router.predictor.predict(inputs(router.predictor, x, old.queries))
    fitted = np.array([np.isin(fingerprints([q]), router.seen).all() for q in old.queries])
    if held_out and fitted.sum() >= FEWEST:
        progress("predicting held-out rows", 0.1)
        held_out_belief = _held_out_belief(
            router, router.predictor, x[fitted], old.rows(fitted), seed
        )
        belief.mean[fitted], belief.spread[fitted] = held_out_belief
    return Study(router, old, x, belief, design(belief.mean, old.score))


def _held_out_belief(
    router: Router, predictor: Predictor, x: Array, rows: Outcomes, seed: int
) -> Belief:
    if isinstance(predictor, Extended) and len(predictor.weights):
        base = _held_out_belief(router, predictor.base, x, rows, seed)
        return predictor.extend(base)
    if isinstance(predictor, Pool):  # the columns of auxiliary experts are not needed here
        predictor = predictor.base
    experts = rows.experts[: len(router.experts) - router.newcomers]
    with one_thread():
        return fit_held_out(
            partial(type(predictor), **settings(predictor)),
            inputs(predictor, x, rows.queries),
            rows.pool(experts).score,
            blocks=router.encoder.blocks,
            fold=folds(len(x), FOLDS, seed, rows.groups),
            seed=seed,
        )[1]


def join(
    study: Study,
    newcomer: Outcomes,
    *,
    answers: int = 100,
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> AddedExpert:
    """Adds an expert; forecasts, costs and latencies of the old experts do not change.

    `newcomer` holds the new expert alone, on the rows of the study. If it has more than `answers`
    scores, only the most informative are used. Raises BadTable for too few answers or missing
    costs.
    """
    (expert,) = newcomer.experts
    check(study.router, newcomer)
    score = newcomer.score[:, 0]
    has_score = np.isfinite(score)
    asked = (
        choose(study.design, study.design.prior, has_score, answers, seed)
        if has_score.sum() > answers
        else np.flatnonzero(has_score)
    )
    scores_used = np.full_like(score, np.nan)
    scores_used[asked] = score[asked]
    posterior = learn(study.design.prior, study.design.columns, scores_used)
    progress("tracing the frontier", 0.7)
    router = _with(study, newcomer.rows(asked), asked, posterior)
    prediction = _held_out_prediction(study, router)
    imputed = np.where(np.isfinite(scores_used), scores_used, study.design.columns @ posterior.mean)
    cost = np.where(np.isfinite(scores_used), newcomer.cost[:, 0], np.nan)
    rows = _rows_to_trace(study, expert, imputed, cost, prediction)
    scored = np.isfinite(study.old.score).any(axis=1)
    traced = rows.rows(scored)
    candidates = frontier.singles(prediction.take(scored), traced)
    points = frontier.trace(candidates, traced, seed=seed)
    points = _with_uncertainty(points, prediction, rows, study.design, posterior)
    remaining = errors(study.design, posterior.covariance)
    ahead = predict_errors(study.design, posterior, ~np.isfinite(scores_used), seed=seed)
    quality = float(router.mean[-1])
    facts = {
        "quality": quality,
        "cost": float(metrics.mean(rows.cost[:, -1])),
        **forecasts(study.design, posterior, scores_used),
    }
    addition = AddedExpert(router, expert, asked, quality, remaining, ahead)
    card = _card(router.card, expert, facts, addition, newcomer)
    seen = np.union1d(router.seen, fingerprints(study.old.queries))
    return replace(addition, router=replace(router, frontier=points, card=card, seen=seen))


def check(router: Router, newcomer: Outcomes) -> None:
    """Raises BadTable or BadInput if the expert cannot be added."""
    (expert,) = newcomer.experts
    check_new(router, expert)
    has_score = np.isfinite(newcomer.score[:, 0])
    if not has_score.any():
        raise BadTable(
            f"no score is known for '{expert}' in split '{newcomer.split}': --choose names the"
            " queries to ask it; or name another --split"
        )
    if has_score.sum() < FEWEST:
        raise BadTable(
            f"'{expert}' has {has_score.sum()} scores: at least {FEWEST} are needed, 50 to 200 are"
            " recommended; --choose names the queries to ask next"
        )
    priced = bool(np.isfinite(router.costs.mean).any())
    if priced and not np.isfinite(newcomer.cost[has_score, 0]).any():
        raise BadTable(f"no cost is known for '{expert}': add a column cost::{expert}")


def check_new(router: Router, expert: str) -> None:
    if expert in router.experts:
        raise BadInput(
            f"expert '{expert}' is in the router already: run fit to learn it from more answers"
        )


def _with(study: Study, answered: Outcomes, asked: Indices, posterior: Normal) -> Router:
    """The router with a further column everywhere, but still with the old frontier."""
    old, g = study.router, study.design
    k = g.basis.shape[1]
    to_experts = np.zeros((1 + len(g.basis), 1 + 2 * k))  # components ▶ experts; r is not known
    to_experts[0, 0], to_experts[1:, 1 : 1 + k] = 1.0, g.basis
    predictor = Extended(
        old.predictor,
        g.centre,
        to_experts @ posterior.mean,
        to_experts @ posterior.covariance @ to_experts.T,
    )
    quality = np.clip(g.forecast @ posterior.mean, 0.0, 1.0).mean()
    latency = answered.measures.get("latency")
    seconds = float("nan") if latency is None else float(metrics.mean(latency[:, 0]))
    old_latency = old.latency if old.latency.size else np.full(len(old.experts), np.nan)
    return replace(
        old,
        experts=(*old.experts, *answered.experts),
        predictor=predictor,
        costs=old.costs.join(study.x[asked], answered.queries, answered.cost[:, 0]),
        mean=np.append(old.mean, quality),
        latency=np.append(old_latency, seconds),
        newcomers=old.newcomers + 1,
        evidence=None,  # was learned for committees without the expert
    )


def _held_out_prediction(study: Study, router: Router) -> Prediction:
    assert isinstance(router.predictor, Extended)
    belief = router.predictor.extend(study.belief)
    costs = router.costs.predict(study.x, study.old.queries)
    trust = router.novelty.trust(study.x)
    quality = router.mean + trust[:, None] * (belief.mean - router.mean)
    return router.believe(quality, belief.spread, costs, trust)


def _rows_to_trace(
    study: Study, expert: str, score: Array, cost: Array, prediction: Prediction
) -> Outcomes:
    """The outcomes of the old experts and the new one, expected ones where it has no answer."""
    priced = np.isfinite(study.router.costs.mean).any()
    filled = np.where(np.isfinite(cost), cost, prediction.cost[:, -1]) if priced else cost * np.nan
    return replace(
        study.old,
        experts=(*study.old.experts, expert),
        measures={
            "score": np.column_stack([study.old.score, score]),
            "cost": np.column_stack([study.old.cost, filled]),
        },
        answers=None,
    )


# --- the frontier, with the uncertainty about the new expert --------------------------------


def _with_uncertainty(
    points: Sequence[OperatingPoint],
    prediction: Prediction,
    rows: Outcomes,
    design: Design,
    posterior: Normal,
) -> tuple[OperatingPoint, ...]:
    """Widens intervals by the uncertainty about the new expert; learned points whose gain is then
    no longer above zero with confidence become the fixed mix."""
    hull = policies.zero_router(metrics.mean(rows.score), metrics.mean(rows.charges))
    middle = design.forecast.mean(axis=0)
    newcomer = len(prediction.experts) - 1
    means = metrics.mean(rows.score), metrics.mean(rows.charges)
    router = StandIn(prediction, None, *means)
    recorded = Recorded(rows, router)

    def spread(direction: Array) -> float:
        return float(np.sqrt(direction @ posterior.covariance @ direction))

    widened = []
    for point in points:
        mix = policies.mix_at_cost(hull, point.cost)
        share = (mix.cheap == newcomer) * (1 - mix.share) + (mix.expensive == newcomer) * mix.share
        asks = run(build(point.spec, router), recorded).asked[:, newcomer]
        slope = asks @ design.forecast / len(asks)
        low, high = _widened(point.gain, point.gain_ci, spread(slope - share * middle))
        if point.gain > 0 and low <= 0:
            slope = share * middle
            strategy = frontier.fixed(mix, prediction.experts)
            point = replace(
                point,
                quality=float(policies.hull_quality(hull, point.cost)),
                gain=0.0,
                **strategy._asdict(),
            )
            low, high = 0.0, 0.0
        elif point.gain <= 0:
            low, high = point.gain_ci
        quality_ci = _widened(point.quality, point.quality_ci, spread(slope))
        widened.append(replace(point, gain_ci=(low, high), quality_ci=quality_ci))
    return tuple(widened)


def _widened(middle: float, interval: tuple[float, float], deviation: float) -> tuple[float, float]:
    low, high = interval
    return (
        middle - float(np.hypot(middle - low, 1.96 * deviation)),
        middle + float(np.hypot(high - middle, 1.96 * deviation)),
    )


# --- the record in router.json -------------------------------------------------------------


def forecasts(design: Design, posterior: Normal, scores: Array) -> dict[str, float]:
    """The quality of leave-one-out forecasts of the answers: AUC, Brier score and ECE."""
    has_score = np.isfinite(scores)
    x, y = design.columns[has_score], scores[has_score]
    influence = x @ posterior.covariance / posterior.noise
    leverage = (influence * x).sum(axis=1)
    without = posterior.mean - influence * ((y - x @ posterior.mean) / (1 - leverage))[:, None]
    forecast = np.clip((design.forecast[has_score] * without).sum(axis=1), 0.0, 1.0)
    return {
        "auc": _auc(x, design.forecast[has_score], y, posterior),
        "brier": metrics.brier(forecast, y),
        "ece": metrics.ece(forecast, y),
    }


def _auc(x: Array, z: Array, y: Array, posterior: Normal) -> float:
    """The chance that a query answered well is forecast above one answered badly, by forecasts
    fitted without both (leave-pair-out, Airola et al. 2011). If only one answer is left out, a
    good answer lowers its own forecast, and an uninformative model would get an AUC of 0.

    `x` (n, k) are the regression's inputs for the answers `y` (n,), `z` (n, k) those of forecasts.
    """
    good, bad = np.flatnonzero(y >= 0.5), np.flatnonzero(y < 0.5)
    if not len(good) or not len(bad):
        return float("nan")
    influence = posterior.covariance @ x.T / posterior.noise  # (k, n): of each answer on the mean
    own, of_forecast, residual = x @ influence, z @ influence, y - x @ posterior.mean
    p, q = (grid.ravel() for grid in np.meshgrid(good, bad, indexing="ij"))
    one, other, both = 1 - own[p, p], 1 - own[q, q], own[p, q]
    determinant = one * other - both**2
    a, b = (
        (other * residual[p] + both * residual[q]) / determinant,
        (one * residual[q] + both * residual[p]) / determinant,
    )
    forecast = z @ posterior.mean
    difference = forecast[p] - of_forecast[p, p] * a - of_forecast[p, q] * b
    difference -= forecast[q] - of_forecast[q, p] * a - of_forecast[q, q] * b
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _card(
    card: Mapping[str, Any],
    expert: str,
    facts: Mapping[str, float],
    addition: AddedExpert,
    newcomer: Outcomes,
) -> dict[str, Any]:
    entry = {
        **addition.to_json(),
        "sources": list(newcomer.sources),
        "sha256": newcomer.rows(addition.asked).digest,
        "split": newcomer.split,
    }
    return {
        **card,
        "experts": {**card.get("experts", {}), expert: dict(facts)},
        "newcomers": [*card.get("newcomers", []), entry],
    }
