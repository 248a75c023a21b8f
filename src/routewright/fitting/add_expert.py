"""A new expert joins a fitted router with 50 to 200 answers; nobody else is asked again.

What an expert scores depends mostly on how hard a query is, which the old experts' forecasts
tell, and a little on whom it resembles. So a newcomer's score is a Bayesian linear regression

    score = θ₀ + b · z(query) + c · r(query) + noise,

where z are the old experts' forecasts and r by how much their actual scores surprised, both in
components of expert space: the common level, then the principal differences. For a new query
only z is known. But r says with less noise whom the newcomer resembles, and b and c go together:
their prior is joint, so that every answer next to known scores of the others counts twice.

Queries are chosen by how much their answers would narrow the forecasts of all queries (V-optimal
design, Chaloner and Verdinelli 1995, section 2.2), which in a linear model is known beforehand;
so is the error that will be left.

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

FEWEST = 20  # answers, and rows with scores of the old experts
COMPONENTS = 5  # the level and four differences; more neither help nor harm
EXPLORED = 0.2  # share of the queries that are drawn at random, whatever the model thinks
FOLDS = 5
AHEAD = (25, 50, 100)  # further answers whose effect is foretold

# Mean, standard deviation and correlation of (b, c), measured with 27 models as newcomers to
# seven others on MMLU-Pro: the level's slopes, and those of the differences.
LEVEL = ((0.95, 0.72), (0.2, 0.15), 0.85)
DIFFERENCE = ((0.0, 0.0), (0.4, 0.11), 0.8)
ABILITY = 0.2  # standard deviation of a newcomer's mean score around the old experts' mean
NOISE, CERTAINTY = 0.15, 20.0  # variance of a score given everything, worth so many answers

Progress = Callable[[str, float], None]
Mask = NDArray[np.bool_]


class Normal(NamedTuple):
    """What is believed of the coefficients, and the variance of the noise."""

    mean: Array  # (c,)
    covariance: Array  # (c, c)
    noise: float


class Errors(NamedTuple):
    """Standard deviations of what is believed of the newcomer."""

    mean: float  # its mean score over all queries
    query: float  # its expected score on one query, as a root mean square


@dataclass(frozen=True)
class Ground:
    """What a newcomer's scores are regressed on, known before it answers anything."""

    columns: Array  # (n, c) one, z and r
    forecast: Array  # (n, c) the same with r = 0: what a new query shows
    basis: Array  # (e, k)
    centre: Array  # (e,) mean forecast
    prior: Normal


@dataclass(frozen=True)
class Study:
    """A router, the rows of a table, and beliefs about them that did not see their scores."""

    router: Router
    old: Outcomes  # of the router's experts
    x: Array
    belief: Belief
    ground: Ground


@dataclass(frozen=True)
class Joined:
    """The router with the newcomer, what it was learned from, and how sure that is."""

    router: Router
    expert: str
    asked: Indices  # rows whose answers were used
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


def ground(forecast: Array, scores: Array, *, played: bool = True) -> Ground:
    """Columns from the old experts' forecasts and scores, both (n, e); unknown ones are NaN.

    With three old experts or more, each in turn plays the newcomer to the others, and what they
    show of the level's slopes is the prior's mean.
    """
    centre = np.nan_to_num(metrics.mean(forecast))
    moved = np.nan_to_num(forecast - centre)
    surprise = np.nan_to_num(scores - forecast)
    known = np.isfinite(scores)
    basis = components(deviations(scores)[1] if known.any() else moved)[:, :COMPONENTS]
    basis[:, 0] /= np.sqrt(len(basis))  # the level is the mean over experts
    ones = np.ones((len(forecast), 1))
    z, r = moved @ basis, surprise @ basis
    typical = float(np.mean(metrics.mean(scores)[known.any(axis=0)])) if known.any() else 0.5
    prior = _prior(typical, basis.shape[1])
    if played and len(basis) >= 3 and known.sum(axis=0).min() >= FEWEST:
        prior = _as_played(prior, forecast, scores)
    return Ground(
        np.hstack([ones, z, r]), np.hstack([ones, z, np.zeros_like(r)]), basis, centre, prior
    )


def _prior(typical: float, k: int) -> Normal:
    mean, covariance = np.zeros(1 + 2 * k), np.zeros((1 + 2 * k, 1 + 2 * k))
    mean[0], covariance[0, 0] = typical, ABILITY**2
    for i in range(k):
        centre, (sb, sc), together = LEVEL if i == 0 else DIFFERENCE
        pair = [1 + i, 1 + k + i]
        mean[pair] = centre
        covariance[np.ix_(pair, pair)] = [
            [sb**2, together * sb * sc],
            [together * sb * sc, sc**2],
        ]
    return Normal(mean, covariance, NOISE)


def _as_played(prior: Normal, forecast: Array, scores: Array) -> Normal:
    slopes = []
    for m in range(scores.shape[1]):
        others = ground(np.delete(forecast, m, 1), np.delete(scores, m, 1), played=False)
        learned = learn(others.prior, others.columns, scores[:, m])
        slopes.append(learned.mean[[1, 1 + (len(learned.mean) - 1) // 2]])
    mean = prior.mean.copy()
    mean[[1, 1 + (len(mean) - 1) // 2]] = np.mean(slopes, axis=0)
    return prior._replace(mean=mean)


def learn(prior: Normal, columns: Array, scores: Array) -> Normal:
    """The posterior after scores (n,), NaN where there is no answer; the noise by EM."""
    known = np.isfinite(scores)
    x, y = columns[known], scores[known]
    precision = np.linalg.inv(prior.covariance)
    noise = prior.noise
    for _ in range(4):
        covariance = np.asarray(np.linalg.inv(precision + x.T @ x / noise), np.float64)
        mean = covariance @ (precision @ prior.mean + x.T @ y / noise)
        squares = float(((y - x @ mean) ** 2).sum() + ((x @ covariance) * x).sum())
        noise = (CERTAINTY * prior.noise + squares) / (CERTAINTY + len(y))
    return Normal(mean, covariance, noise)


def errors(ground: Ground, covariance: Array) -> Errors:
    """How far the newcomer's believed quality may be off, as standard deviations."""
    middle = ground.forecast.mean(axis=0)
    spread = ((ground.forecast @ covariance) * ground.forecast).sum(axis=1)
    return Errors(float(np.sqrt(middle @ covariance @ middle)), float(np.sqrt(spread.mean())))


# --- choosing queries ----------------------------------------------------------------------


def choose(ground: Ground, belief: Normal, free: Mask, n: int, seed: int = 0) -> Indices:
    """Up to `n` free rows to ask next, the most informative first."""
    rows = [row for row, _ in islice(_narrowing(ground, belief, free, seed), n)]
    return np.array(rows, dtype=np.intp)


def foretell(
    ground: Ground, belief: Normal, free: Mask, steps: Sequence[int] = AHEAD, seed: int = 0
) -> dict[int, Errors]:
    """The errors left after so many further answers, chosen as `choose` does."""
    found = {}
    for n, (_, covariance) in enumerate(_narrowing(ground, belief, free, seed), 1):
        if n in steps:
            found[n] = errors(ground, covariance)
        if n >= max(steps):
            break
    return found


def _narrowing(
    ground: Ground, belief: Normal, free: Mask, seed: int
) -> Iterator[tuple[int, Array]]:
    """Free rows in the order of asking, each with the covariance after its answer.

    Greedy: the row that most lowers the mean variance of all forecasts comes next, and the
    covariance follows by Sherman and Morrison; some rows are drawn at random.
    """
    rng = np.random.default_rng(seed)
    importance = ground.forecast.T @ ground.forecast / len(ground.forecast)
    covariance, left = belief.covariance.copy(), free.copy()
    while left.any():
        if rng.random() < EXPLORED:
            row = int(rng.choice(np.flatnonzero(left)))
        else:
            reach = ground.columns @ covariance  # (n, c)
            variance = (reach * ground.columns).sum(axis=1)
            narrowed = ((reach @ importance) * reach).sum(axis=1) / (belief.noise + variance)
            row = int(np.where(left, narrowed, -1.0).argmax())
        step = covariance @ ground.columns[row]
        covariance -= np.outer(step, step) / (belief.noise + ground.columns[row] @ step)
        left[row] = False
        yield row, covariance.copy()


def interview(
    study: Study, newcomer: Outcomes, n: int = 50, seed: int = 0
) -> tuple[Indices, Errors, dict[int, Errors]]:
    """Which rows to ask the newcomer next, how unsure its answers so far leave us, and how
    unsure further ones will."""
    score, g = newcomer.score[:, 0], study.ground
    learned, free = learn(g.prior, g.columns, score), np.isnan(score)
    if not free.any():
        raise BadTable(f"'{newcomer.experts[0]}' has answered every row: there is nothing to ask")
    return (
        choose(g, learned, free, n, seed),
        errors(g, learned.covariance),
        foretell(g, learned, free, seed=seed),
    )


def only(rows: Outcomes, expert: str) -> Outcomes:
    """The newcomer's column alone; empty if the table does not know it yet."""
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
    """What the router believes of a table's rows, and the old experts' scores there.

    Rows that the router was fitted on flatter it. With `held_out` its predictor is fitted anew
    without them, fold by fold; queries can be chosen without that. Raises BadTable if the table
    lacks an expert of the router, or its scores.
    """
    old = rows.pool(router.experts)
    if (together := int(np.isfinite(old.score).any(axis=1).sum())) < FEWEST:
        raise BadTable(
            f"the table and the router have {together} rows in common: scores of"
            f" {', '.join(router.experts)} are needed on at least {FEWEST} to trace the frontier"
        )
    x = router.encoder.encode(old.queries)
    belief = router.predictor.predict(inputs(router.predictor, x, old.queries))
    seen = np.array([np.isin(fingerprints([q]), router.seen).all() for q in old.queries])
    if held_out and seen.sum() >= FEWEST:
        progress("what would be believed of rows not seen", 0.1)
        fresh = _without_own_fold(router, router.predictor, x[seen], old.rows(seen), seed)
        belief.mean[seen], belief.spread[seen] = fresh
    return Study(router, old, x, belief, ground(belief.mean, old.score))


def _without_own_fold(
    router: Router, predictor: Predictor, x: Array, rows: Outcomes, seed: int
) -> Belief:
    if isinstance(predictor, Extended) and len(predictor.weights):
        base = _without_own_fold(router, predictor.base, x, rows, seed)
        return predictor.extend(base)
    if isinstance(predictor, Pool):  # what it learnt from others is not asked for again
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
) -> Joined:
    """The router with one more expert; forecasts, costs and latencies of the old ones stay.

    `newcomer` holds that expert alone, on the rows of the study. Where it has more than
    `answers` scores, the most informative are used and the others left unread. Raises BadTable
    for too few answers or missing costs.
    """
    (expert,) = newcomer.experts
    check(study.router, newcomer)
    score = newcomer.score[:, 0]
    known = np.isfinite(score)
    asked = (
        choose(study.ground, study.ground.prior, known, answers, seed)
        if known.sum() > answers
        else np.flatnonzero(known)
    )
    used = np.full_like(score, np.nan)
    used[asked] = score[asked]
    learned = learn(study.ground.prior, study.ground.columns, used)
    progress("tracing the frontier", 0.7)
    router = _with(study, newcomer.rows(asked), asked, learned)
    prediction = _held_out_prediction(study, router)
    imputed = np.where(np.isfinite(used), used, study.ground.columns @ learned.mean)
    cost = np.where(np.isfinite(used), newcomer.cost[:, 0], np.nan)
    rows = _rows_to_trace(study, expert, imputed, cost, prediction)
    keep = np.isfinite(study.old.score).any(axis=1)
    traced = rows.rows(keep)
    ways = frontier.singles(prediction.take(keep), traced)
    points = frontier.trace(ways, traced, seed=seed)
    points = _doubted(points, prediction, rows, study.ground, learned)
    left = errors(study.ground, learned.covariance)
    ahead = foretell(study.ground, learned, ~np.isfinite(used), seed=seed)
    quality = float(router.mean[-1])
    facts = {
        "quality": quality,
        "cost": float(metrics.mean(rows.cost[:, -1])),
        **forecasts(study.ground, learned, used),
    }
    joined = Joined(router, expert, asked, quality, left, ahead)
    card = _card(router.card, expert, facts, joined, newcomer)
    seen = np.union1d(router.seen, fingerprints(study.old.queries))
    return replace(joined, router=replace(router, frontier=points, card=card, seen=seen))


def check(router: Router, newcomer: Outcomes) -> None:
    """Raises what stands in the way of joining."""
    (expert,) = newcomer.experts
    check_new(router, expert)
    known = np.isfinite(newcomer.score[:, 0])
    if not known.any():
        raise BadTable(
            f"no score is known for '{expert}' in split '{newcomer.split}': see what to ask it"
            " with --choose, or name another --split"
        )
    if known.sum() < FEWEST:
        raise BadTable(
            f"'{expert}' has {known.sum()} scores: at least {FEWEST} are needed, 50 to 200 are"
            " good; see what to ask next with --choose"
        )
    priced = bool(np.isfinite(router.costs.mean).any())
    if priced and not np.isfinite(newcomer.cost[known, 0]).any():
        raise BadTable(f"no cost is known for '{expert}': add a column cost::{expert}")


def check_new(router: Router, expert: str) -> None:
    if expert in router.experts:
        raise BadInput(
            f"expert '{expert}' is in the router already: fit anew to learn it from more answers"
        )


def _with(study: Study, answered: Outcomes, asked: Indices, learned: Normal) -> Router:
    """The router with one more column everywhere; its frontier is still the old one."""
    old, g = study.router, study.ground
    k = g.basis.shape[1]
    into = np.zeros((1 + len(g.basis), 1 + 2 * k))  # components ▶ experts; r is not known
    into[0, 0], into[1:, 1 : 1 + k] = 1.0, g.basis
    predictor = Extended(
        old.predictor, g.centre, into @ learned.mean, into @ learned.covariance @ into.T
    )
    quality = np.clip(g.forecast @ learned.mean, 0.0, 1.0).mean()
    latency = answered.measures.get("latency")
    seconds = float("nan") if latency is None else float(metrics.mean(latency[:, 0]))
    before = old.latency if old.latency.size else np.full(len(old.experts), np.nan)
    return replace(
        old,
        experts=(*old.experts, *answered.experts),
        predictor=predictor,
        costs=old.costs.join(study.x[asked], answered.queries, answered.cost[:, 0]),
        mean=np.append(old.mean, quality),
        latency=np.append(before, seconds),
        newcomers=old.newcomers + 1,
        evidence=None,  # learned of a committee without it
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
    """The old experts' outcomes and the newcomer's, expected ones where it was not asked."""
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


# --- the frontier, in doubt ----------------------------------------------------------------


def _doubted(
    points: Sequence[OperatingPoint],
    prediction: Prediction,
    rows: Outcomes,
    ground: Ground,
    learned: Normal,
) -> tuple[OperatingPoint, ...]:
    """Intervals widened by what is not known of the newcomer; learned points whose gain that
    puts in doubt become the fixed mix."""
    hull = policies.zero_router(metrics.mean(rows.score), metrics.mean(rows.charges))
    middle = ground.forecast.mean(axis=0)
    newcomer = len(prediction.experts) - 1
    router = StandIn(prediction)
    recorded = Recorded(rows, router)

    def spread(direction: Array) -> float:
        return float(np.sqrt(direction @ learned.covariance @ direction))

    found = []
    for point in points:
        mix = policies.mix_at_cost(hull, point.cost)
        share = (mix.cheap == newcomer) * (1 - mix.share) + (mix.expensive == newcomer) * mix.share
        asks = run(build(point.spec, router), recorded).asked[:, newcomer]
        reached = asks @ ground.forecast / len(asks)
        low, high = _widened(point.gain, point.gain_ci, spread(reached - share * middle))
        if point.gain > 0 and low <= 0:
            reached = share * middle
            how = frontier.fixed(mix, prediction.experts)
            point = replace(
                point,
                quality=float(policies.hull_quality(hull, point.cost)),
                gain=0.0,
                **how._asdict(),
            )
            low, high = 0.0, 0.0
        elif point.gain <= 0:
            low, high = point.gain_ci
        quality_ci = _widened(point.quality, point.quality_ci, spread(reached))
        found.append(replace(point, gain_ci=(low, high), quality_ci=quality_ci))
    return tuple(found)


def _widened(middle: float, interval: tuple[float, float], deviation: float) -> tuple[float, float]:
    low, high = interval
    return (
        middle - float(np.hypot(middle - low, 1.96 * deviation)),
        middle + float(np.hypot(high - middle, 1.96 * deviation)),
    )


# --- what router.json says of it -----------------------------------------------------------


def forecasts(ground: Ground, learned: Normal, scores: Array) -> dict[str, float]:
    """How good forecasts of the answers are that did not see them (leave-one-out)."""
    known = np.isfinite(scores)
    x, y = ground.columns[known], scores[known]
    reach = x @ learned.covariance / learned.noise
    leverage = (reach * x).sum(axis=1)
    without = learned.mean - reach * ((y - x @ learned.mean) / (1 - leverage))[:, None]
    forecast = np.clip((ground.forecast[known] * without).sum(axis=1), 0.0, 1.0)
    return {
        "auc": _auc(x, ground.forecast[known], y, learned),
        "brier": metrics.brier(forecast, y),
        "ece": metrics.ece(forecast, y),
    }


def _auc(x: Array, z: Array, y: Array, learned: Normal) -> float:
    """The chance that a query answered well is forecast above one answered badly, by forecasts
    that saw neither (leave-pair-out, Airola et al. 2011). Left out alone, a good answer lowers
    its own forecast, and where nothing can be told apart that would make an AUC of 0.

    `x` (n, k) is what the answers `y` (n,) were regressed on, `z` (n, k) what forecasts see.
    """
    good, bad = np.flatnonzero(y >= 0.5), np.flatnonzero(y < 0.5)
    if not len(good) or not len(bad):
        return float("nan")
    pull = learned.covariance @ x.T / learned.noise  # (k, n): of each answer on the mean
    own, told, off = x @ pull, z @ pull, y - x @ learned.mean
    p, q = (grid.ravel() for grid in np.meshgrid(good, bad, indexing="ij"))
    one, other, both = 1 - own[p, p], 1 - own[q, q], own[p, q]
    room = one * other - both**2
    a, b = (other * off[p] + both * off[q]) / room, (one * off[q] + both * off[p]) / room
    believed = z @ learned.mean
    ahead = believed[p] - told[p, p] * a - told[p, q] * b
    ahead -= believed[q] - told[q, p] * a - told[q, q] * b
    return float((ahead > 0).mean() + 0.5 * (ahead == 0).mean())


def _card(
    card: Mapping[str, Any],
    expert: str,
    facts: Mapping[str, float],
    joined: Joined,
    newcomer: Outcomes,
) -> dict[str, Any]:
    entry = {
        **joined.to_json(),
        "sources": list(newcomer.sources),
        "sha256": newcomer.rows(joined.asked).digest,
        "split": newcomer.split,
    }
    return {
        **card,
        "experts": {**card.get("experts", {}), expert: dict(facts)},
        "newcomers": [*card.get("newcomers", []), entry],
    }
