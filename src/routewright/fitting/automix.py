"""Fits AutoMix on recorded outcomes, and compares the meta-verifiers by cross-validation.

The fit consists of tables and at most a ridge regression; serving its points needs no predictor.
Everything is measured on held-out rows, and served only where it does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright import metrics
from routewright.answers import metaverifiers as meta
from routewright.answers.equivalence import Kind
from routewright.answers.observations import Linear, Observations
from routewright.data.outcomes import Outcomes, check_names
from routewright.errors import BadInput, BadTable
from routewright.evaluation.figures import Evaluation
from routewright.fitting import fit as fitting
from routewright.prediction.predictors import Folds, folds
from routewright.router import frontier
from routewright.router.router import Router
from routewright.strategies.automix import (
    Automix,
    Verifier,
    observations_of,
    run_policy,
    trials_of,
)
from routewright.types import Array

FOLDS = 5
REPLICATES = 400
SAMPLES = 8  # self-verifications per answer
EVIDENCE = "evidence"  # the meta-verifier that uses more inputs than the confidence
NAMES = (*meta.METAVERIFIERS, EVIDENCE)
MIN_ROWS = 20
# On fewer rows the meta-verifier that looks best is the luckiest; the simplest one is better.
FEW, SIMPLEST = 200, "threshold"

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Cascade:
    """The models that answer, cheapest first, and how their answers are verified."""

    ladder: tuple[str, ...]
    agree: tuple[str, ...] = ()  # empty: each expert verifies its own answers
    answers: Kind = "auto"  # the kind of comparison of answers
    samples: int = SAMPLES  # verdicts per self-verification
    verifier: Verifier = "verify"

    @property
    def experts(self) -> tuple[str, ...]:
        return (*self.ladder, *self.agree)


class Comparison(NamedTuple):
    """Cross-validated figures of a meta-verifier. Costs in US$ per query; ΔIBC in percent."""

    name: str
    cost: float  # at its best point
    quality: float
    lift: float  # ΔIBC at its best point
    lift_ci: tuple[float, float]
    mean_lift: float  # over five equal regions of cost
    mean_lift_ci: tuple[float, float]
    undefined: str | None  # why there is no ΔIBC


class Fitted(NamedTuple):
    """A meta-verifier fitted on rows: its policy at every price, and its linear models, if any."""

    rule: meta.Rule
    evidence: tuple[Linear, ...]


class _HeldOut(NamedTuple):
    """Costs and scores of a meta-verifier on held-out rows; (2, n): cost and score."""

    best: Array  # at the price with the steepest gain on the fitted rows
    curve: Array  # (budgets, 2, n)


def fit(
    outcomes: Outcomes,
    cascade: Cascade,
    *,
    only: str | None = None,
    prices: Mapping[str, float] | None = None,
    predictor: str = "prior",
    encoder: str = "domain",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> Router:
    """Fits a router whose operating points are AutoMix policies, or fixed mixes where the policies
    are not better with confidence.

    `only` names one meta-verifier to fit instead of the best of all, which is `threshold` on fewer
    than FEW rows. `prices` replaces the table's
    costs, in US$: `small`, `large` or an expert's name ▶ the cost of its answer, `verify` ▶ the
    cost of verifying one answer. Raises BadTable or BadInput, naming what the table lacks.
    """
    began = time.monotonic()
    Automix(
        cascade.ladder, agree=cascade.agree, verifier=cascade.verifier
    )  # raises BadInput if the two do not fit together
    check_names(cascade.experts, outcomes.experts)
    priced = table_prices(cascade, prices or {})
    table = outcomes.pool(cascade.experts).at_prices(**priced).costed()
    progress("reading answers", 0.0)
    trials, observations, usable = observe(table, cascade)
    complete = table.rows(usable)
    fold = folds(len(complete), FOLDS, seed, complete.groups)

    comparisons, held_out = [], {}
    names = NAMES if only is None else (_check_name(only),)
    for i, name in enumerate(names):
        progress(f"cross-validating {name}", 0.1 + 0.5 * i / len(names))
        held_out[name] = _hold_out(name, trials, observations, fold)
        comparisons.append(compare(name, held_out[name].best, held_out[name].curve, trials, seed))
    chosen = max(comparisons, key=_merit).name
    if only is None and len(complete) < FEW:
        chosen = SIMPLEST

    progress("tracing the frontier", 0.7)
    fitted = fit_one(chosen, trials, observations)
    own = with_confidence(fitted, trials, observations)
    candidates = _candidates(cascade, fitted, own, held_out[chosen].curve)
    # Experts whose cost is part of the verification do not answer.
    verifiers = cascade.agree if "verify" in (prices or {}) else ()
    answering = [name for name in cascade.experts if name not in verifiers]
    points = frontier.trace(candidates, complete.pool(answering), seed=seed)
    progress("fitting the rest of the router", 0.85)
    router = fitting.fit(
        table.pool(answering),
        encoder=encoder,
        predictor=predictor,
        options=options,
        strategy="single",
        seed=seed,
    )
    card = {
        **router.card,
        "automix": {
            "ladder": list(cascade.ladder),
            "agree": list(cascade.agree),
            "answers": cascade.answers,
            "verifier": cascade.verifier,
            "meta_verifier": chosen,
            "rows": len(complete),
            "compared": [row._asdict() for row in comparisons],
        },
        "fit_seconds": round(time.monotonic() - began, 1),
    }
    return replace(router, frontier=points, verifiers=verifiers, prices=priced, card=card)


def fit_one(name: str, trials: meta.Trials, observations: Sequence[Observations]) -> Fitted:
    """Fits one meta-verifier on complete rows."""
    if name != EVIDENCE:
        return Fitted(meta.METAVERIFIERS[name](trials), ())
    gains = [trials.quality[:, -1] - column for column in trials.quality[:, :-1].T]
    lines = tuple(
        Linear.fit(observation, gain) for observation, gain in zip(observations, gains, strict=True)
    )
    if len(lines) == 1:
        return Fitted(meta.linear(trials), lines)
    # The POMDP counts predictions for rows that the linear models were not fitted on.
    fold = folds(len(trials), FOLDS, 0)
    predicted = np.empty_like(trials.confidence)
    for rung, (observation, gain) in enumerate(zip(observations, gains, strict=True)):
        for k in range(FOLDS):
            line = Linear.fit(observation.rows(fold != k), gain[fold != k])
            predicted[fold == k, rung] = -line.predict(observation.rows(fold == k))
    return Fitted(meta.pomdp(replace(trials, confidence=predicted)), lines)


def with_confidence(
    fitted: Fitted, trials: meta.Trials, observations: Sequence[Observations]
) -> meta.Trials:
    """The trials with the confidence by which that meta-verifier decides."""
    if not fitted.evidence:
        return trials
    gains = [
        line.predict(observation)
        for line, observation in zip(fitted.evidence, observations, strict=True)
    ]
    return replace(trials, confidence=-np.column_stack(gains))


def observe(
    outcomes: Outcomes, cascade: Cascade
) -> tuple[meta.Trials, list[Observations], NDArray[np.bool_]]:
    """The complete rows of a table as trials, their observations, and the mask (n,) of these rows.
    Raises BadTable if there are too few."""
    observations = observations_of(outcomes, cascade)
    trials = trials_of(outcomes, cascade, observations)
    usable = trials.complete
    if usable.sum() < MIN_ROWS:
        raise BadTable(
            f"of {len(outcomes)} rows {usable.sum()} hold what AutoMix needs (scores of"
            f" {', '.join(cascade.experts)}"
            + ("" if cascade.agree else f" and {cascade.verifier}:: of all but the last")
            + f"); at least {MIN_ROWS} are needed"
        )
    return trials.rows(usable), [observation.rows(usable) for observation in observations], usable


def compare(name: str, best: Array, curve: Array, trials: meta.Trials, seed: int = 0) -> Comparison:
    """The figures of a meta-verifier: `best` (2, n) and `curve` (points, 2, n) are costs and
    scores on the held-out rows of `trials`."""
    n = len(trials)
    weights = np.vstack([np.ones(n), metrics.resample(n, REPLICATES, seed)])
    small, large = (np.stack([trials.cost[:, m], trials.quality[:, m]]) for m in (0, -1))
    ends = [metrics.mean(rows.T, weights) for rows in (small, large)]  # (b, 2) each
    lifts = metrics.ibc_lifts(best, small, large, weights)
    costs, scores = (metrics.mean(curve[:, i].T, weights) for i in (0, 1))  # (b, prices)
    # Small and large alone are points of every curve: they need no verification.
    costs = np.column_stack([ends[0][:, 0], costs, ends[1][:, 0]])
    scores = np.column_stack([ends[0][:, 1], scores, ends[1][:, 1]])
    replicates = zip(costs, scores, *(end.tolist() for end in ends), strict=True)
    means = np.array([metrics.mean_ibc_lift(*one) for one in replicates])
    cost, quality = (float(row.mean()) for row in best)
    return Comparison(
        name,
        cost,
        quality,
        float(lifts[0]),
        metrics.interval(lifts[1:]),
        float(means[0]),
        metrics.interval(means[1:]),
        metrics.ibc_undefined(cost, tuple(ends[0][0]), tuple(ends[1][0])),
    )


def lifts(measured: Evaluation, seed: int = 0) -> Comparison:
    """ΔIBC of an AutoMix router on the rows of an evaluation, at the operating point with the
    highest ΔIBC in the fit, and over its whole frontier."""
    assert measured.router is not None, "the evaluation is of a router"
    card = measured.router.card
    ladder, facts = card["automix"]["ladder"], card["experts"]
    small, large = (measured.router.experts.index(ladder[m]) for m in (0, -1))
    ends = [(facts[ladder[m]]["cost"], facts[ladder[m]]["quality"]) for m in (0, -1)]
    least = ends[0][0] + (ends[1][0] - ends[0][0]) / 50  # below this cost a lift is mostly noise
    bought = [
        metrics.ibc_lift(point.cost, point.quality, *ends)
        if _checks_answers(point.spec) and point.cost >= least
        else float("nan")
        for point in measured.points
    ]
    best = int(np.nanargmax(bought)) if np.isfinite(bought).any() else 0
    curve = np.stack([measured.costs, measured.scores], axis=1)
    rows = np.isfinite(curve).all(axis=(0, 1))
    rows &= np.isfinite(measured.outcomes.score[:, [small, large]]).all(axis=1)
    table = measured.outcomes
    trials = meta.Trials(
        table.score[rows][:, [small, large]],
        table.charges[rows][:, [small, large]],
        *(np.zeros((int(rows.sum()), 1)) for _ in range(2)),
    )
    name = card["automix"]["meta_verifier"]
    return compare(name, curve[best][:, rows], curve[:, :, rows], trials, seed)


def committee(
    outcomes: Outcomes, ladder: Sequence[str], size: int = SAMPLES, among: Sequence[str] = ()
) -> tuple[str, ...]:
    """Chooses the experts whose answers are compared: those with the best mean score.

    Without `among`, the candidates cost at most twice as much as the first model and have a score
    on at least 99 % of the rows. Raises BadTable if there are fewer than `size`. Choosing them one
    by one by the value of their agreement gained nothing on held-out rows (dev/LOG.md).
    """
    candidates = list(among) or _cheap(outcomes, ladder)
    if len(candidates) < size:
        raise BadTable(
            f"{size} experts are needed to compare answers with and {len(candidates)} are cheap"
            " enough: name them with --agree A,B, or request fewer with --agree N"
        )
    quality = dict(zip(outcomes.experts, metrics.mean(outcomes.score).tolist(), strict=True))
    return tuple(sorted(candidates, key=lambda name: -quality[name])[:size])


def _cheap(outcomes: Outcomes, ladder: Sequence[str]) -> list[str]:
    cost = metrics.mean(outcomes.charges)
    most = 2 * float(cost[outcomes.experts.index(ladder[0])])
    scored = np.isfinite(outcomes.score).mean(axis=0)
    return [
        name
        for m, name in enumerate(outcomes.experts)
        if name not in ladder and cost[m] <= most and scored[m] >= 0.99
    ]


def table_prices(cascade: Cascade, prices: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Prices as `Outcomes.at_prices` takes them; members share the price of a verification."""
    if not prices:
        return {}
    names = {"small": cascade.ladder[0], "large": cascade.ladder[-1]}
    for name, price in prices.items():
        if name not in (*names, "verify", *cascade.ladder):
            raise BadInput(
                f"no cost of '{name}' can be set: name small, large, verify or one of"
                f" {', '.join(cascade.ladder)}"
            )
        if not 0 <= price < float("inf"):
            raise BadInput(f"the cost of '{name}' is {price:g}; it must be finite and not negative")
    answer = {names.get(name, name): p for name, p in prices.items() if name != "verify"}
    verify = prices.get("verify")
    if verify is None:
        return {"answer": answer, "verify": {}}
    if cascade.verifier == "logprob":
        raise BadInput("a log-probability comes with the answer: leave `verify` out of the costs")
    if cascade.agree:
        share = verify / len(cascade.agree)
        return {"answer": {**answer, **dict.fromkeys(cascade.agree, share)}, "verify": {}}
    return {"answer": answer, "verify": dict.fromkeys(cascade.ladder[:-1], verify)}


def _hold_out(
    name: str, trials: meta.Trials, observations: Sequence[Observations], fold: Folds
) -> _HeldOut:
    best = np.empty((2, len(trials)))
    curve = np.empty((len(frontier.BUDGETS), 2, len(trials)))
    for k in np.unique(fold):
        inside, outside = fold != k, fold == k
        own_rows = trials.rows(inside), [observation.rows(inside) for observation in observations]
        fitted = fit_one(name, *own_rows)
        fitted_trials = with_confidence(fitted, *own_rows)
        held_out_trials = with_confidence(
            fitted,
            trials.rows(outside),
            [observation.rows(outside) for observation in observations],
        )
        best[:, outside] = _outcome(
            fitted.rule(meta.steepest(fitted.rule, fitted_trials)), held_out_trials
        )
        for b, step in enumerate(meta.steps(fitted.rule, fitted_trials, frontier.BUDGETS)):
            curve[b][:, outside] = (1 - step.share) * _outcome(step.first, held_out_trials)
            curve[b][:, outside] += step.share * _outcome(step.second, held_out_trials)
    return _HeldOut(best, curve)


def _outcome(policy: meta.Node, trials: meta.Trials) -> Array:
    score, cost = meta.outcome(policy, trials)
    return np.stack([cost, score])


def _merit(row: Comparison) -> tuple[float, float]:
    return tuple(-np.inf if np.isnan(x) else x for x in (row.mean_lift, row.lift))  # type: ignore[return-value]


def _check_name(name: str) -> str:
    if name not in NAMES:
        raise BadInput(f"no meta-verifier is called '{name}': choose one of {', '.join(NAMES)}")
    return name


# --- the frontier --------------------------------------------------------------------------


def _candidates(
    cascade: Cascade, fitted: Fitted, trials: meta.Trials, curve: Array
) -> list[frontier.Candidate]:
    """A candidate for every budget, the most expensive first, with held-out costs and scores."""
    candidates = []
    for step, (cost, score) in zip(
        meta.steps(fitted.rule, trials, frontier.BUDGETS), curve, strict=True
    ):
        first, second = (
            as_strategy(cascade, fitted, policy, trials) for policy in (step.first, step.second)
        )
        mixed = _mixed(first, second, step.share)
        candidates.append(frontier.Candidate(step.price, score, cost, mixed))
    return candidates[::-1]


def _checks_answers(spec: Mapping[str, Any]) -> bool:
    """Whether a strategy, or a part of a mix, verifies answers."""
    if spec["strategy"] == "mix":
        return _checks_answers(spec["first"]) or _checks_answers(spec["second"])
    return bool(spec["strategy"] == "automix")


def served(router: Router) -> int:
    """The number of operating points with an AutoMix policy."""
    return sum(_checks_answers(point.spec) for point in router.frontier)


def _mixed(
    first: frontier.PointStrategy, second: frontier.PointStrategy, share: float
) -> frontier.PointStrategy:
    if share <= 1e-9 or first.spec == second.spec:
        return first
    if share >= 1 - 1e-9:
        return second
    names = {**first.shares, **second.shares}
    return frontier.PointStrategy(
        {"strategy": "mix", "first": first.spec, "second": second.spec, "share": share},
        f"{first.plan}; for {100 * share:.0f} % of queries instead {second.plan}",
        {
            name: (1 - share) * first.shares.get(name, 0) + share * second.shares.get(name, 0)
            for name in names
        },
    )


def as_strategy(
    cascade: Cascade, fitted: Fitted, policy: meta.Node, trials: meta.Trials
) -> frontier.PointStrategy:
    """A policy as a strategy: its spec, the policy in words, and the shares of the experts."""
    spec: dict[str, Any]
    if "then" not in policy:
        expert = cascade.ladder[policy["expert"]]
        spec = {"strategy": "fixed", "expert": expert}
        return frontier.PointStrategy(spec, f"always {expert}", {expert: 1.0})
    spec = {
        "strategy": "automix",
        "ladder": list(cascade.ladder),
        "policy": meta.with_names(policy, cascade.ladder),
    }
    if cascade.agree:
        spec |= {"agree": list(cascade.agree), "answers": cascade.answers}
    elif cascade.verifier == "logprob":
        spec |= {"verifier": "logprob"}
    else:
        spec |= {"samples": cascade.samples}
    if fitted.evidence:
        spec |= {"evidence": [line.to_json() for line in fitted.evidence]}
    ran = run_policy(policy, trials, len(cascade.agree))
    words = in_words(spec["policy"], cascade, bool(fitted.evidence))
    return frontier.PointStrategy(spec, words, ran.shares(cascade.experts))


def in_words(policy: Mapping[str, Any], cascade: Cascade, evidence: bool) -> str:
    """The policy in words.

    >>> cascade = Cascade(("small", "large"))
    >>> in_words({"expert": "small", "edges": [0.5], "then": [{"expert": "large"}, None]}, cascade,
    ...          False)
    'ask small; ask large if its own verification is below 0.5; else keep the answer'
    """
    expert = policy["expert"]
    if "then" not in policy:
        return f"ask {expert}"
    edges, children = list(policy["edges"]), list(policy["then"])
    if evidence:  # the confidence is minus the gain
        what = f"{cascade.ladder[-1]}'s expected gain"
        edges, children = [-edge for edge in edges[::-1]], children[::-1]
    elif cascade.agree:
        what = f"the share of {len(cascade.agree)} others that agree"
    elif cascade.verifier == "logprob":
        what = "the mean probability of its tokens"
    else:
        what = "its own verification"
    steps = []
    for b, then in enumerate(children):
        if then is None:
            continue
        if not edges:
            return f"ask {expert}, then {in_words(then, cascade, evidence)} in any case"
        if b == 0:
            range_ = f"is below {edges[0]:.3g}"
        elif b == len(edges):
            range_ = f"is {edges[-1]:.3g} or more"
        else:
            range_ = f"is {edges[b - 1]:.3g} to {edges[b]:.3g}"
        inner = in_words(then, cascade, evidence)
        steps.append(f"{f'({inner})' if 'then' in then else inner} if {what} {range_}")
    return "; ".join([f"ask {expert}", *steps, "else keep the answer"])
