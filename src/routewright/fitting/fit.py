"""Fits a router on an outcome table, and measures it on held-out rows only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics, parallel, registry
from routewright.answers.evidence import Evidence
from routewright.data.outcomes import HOW_TO_SCORE, Outcomes, check_names, fingerprints
from routewright.errors import BadInput, BadTable
from routewright.fitting import cascades, ladder, left_out, sample, unlabelled
from routewright.prediction import calibration
from routewright.prediction.costs import CostModel
from routewright.prediction.encoders import build as build_encoder
from routewright.prediction.novelty import RARE, RARE_IF_CAREFUL, Novelty
from routewright.prediction.predictors import (
    Belief,
    Folds,
    Predictor,
    deviations,
    fit_held_out,
    folds,
    inputs,
)
from routewright.prediction.predictors.linear import Linear
from routewright.prediction.predictors.pool import Pool
from routewright.router import frontier
from routewright.router.router import Router, context, scale_differences
from routewright.types import Array, Prediction

FOLDS = 5
SIGNALS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
MILD, PREFERENCE = 0.85, 1e-3  # the preferred signal, and its bonus in decision value
# Without the domain: queries at the gateway seldom have one, and a router that expects it spends
# up to a third more than promised without it.
AUTO_ENCODER = "lexical+surface"
BY_DOMAIN = ("domain", "zooter")  # predictors that learn from it
AUTO_PREDICTORS = ("stack",)
STRATEGIES = ("auto", "single", "frugal", "cascade_routing", "ratio_greedy")
MIN_ROWS = 20
CLUSTERS = 8  # of auxiliary experts
MIN_IMPROVEMENT = 0.5  # standard errors by which auxiliary experts must help

Progress = Callable[[str, float], None]  # the current step, the share of the work done before it


def fit(
    outcomes: Outcomes,
    *,
    encoder: str = "auto",
    predictor: str = "auto",
    options: Mapping[str, Any] | None = None,
    strategy: str = "auto",
    option_style: bool = False,
    label: str = "score",
    assume: Mapping[str, Assumed] | None = None,
    auxiliary: Outcomes | None = None,
    engine: str = "local",
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> Router:
    """Fits a router; it makes every choice by cross-validated decision value.

    The strategy `single` asks one expert per query, `auto` may weigh answers; `frugal`,
    `cascade_routing` and `ratio_greedy` are published rules, for comparison. With the label `soft`,
    predictors learn from `soft::m` where it is known (for example the share of several samples that
    pass); decisions are still measured by the score. With `option_style`, `auto` also learns how
    right options of multiple-choice questions are written: a habit of whoever made them, which
    other questions need not share. `options` sets fields of the named predictor.
    A table with answers and fewer than 20 scored rows is fitted by agreement (see `unlabelled`);
    the points of such a router are unproven. `assume` holds an assumed quality and cost for experts
    without scores. `auxiliary` holds other experts on the same rows; the predictor also learns from
    their scores if that improves its predictions for the pool. `engine` is where queries are
    encoded (see `parallel`). Raises BadTable for tables that are too small or have costs for some
    experts only, and BadInput for unknown names.

    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> table = rw.read(example() / "outcomes.parquet")
    >>> router = rw.fit(table.where(split="train"), strategy="single")
    >>> router.save(example() / "another-router")
    >>> print(router)  # doctest: +ELLIPSIS
    Router over 3 experts, fitted on 120 queries
    ...
    """
    return fit_each(
        outcomes,
        (strategy,),
        encoder=encoder,
        predictor=predictor,
        options=options,
        option_style=option_style,
        label=label,
        assume=assume,
        auxiliary=auxiliary,
        engine=engine,
        seed=seed,
        progress=progress,
    )[strategy]


def fit_each(
    outcomes: Outcomes,
    strategies: Sequence[str],
    *,
    encoder: str = "auto",
    predictor: str = "auto",
    options: Mapping[str, Any] | None = None,
    option_style: bool = False,
    label: str = "score",
    assume: Mapping[str, Assumed] | None = None,
    auxiliary: Outcomes | None = None,
    engine: str = "local",
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> dict[str, Router]:
    """Fits one router per strategy; they share their predictions, which are fitted once."""
    with parallel.one_thread():
        predictors = makers(predictor, options or {})
        began = time.monotonic()
        progress("encoding the queries", 0.0)
        if encoder == "auto":
            by_domain = predictor in BY_DOMAIN or "domain" in (options or {})
            encoder = AUTO_ENCODER + ("+domain" if by_domain else "")
        outcomes, assumption = unlabelled.expected(outcomes, seed)
        costed = _with_assumed(outcomes, assume or {}).costed()
        _check(costed, strategies)
        scored = np.isfinite(outcomes.score).any(axis=0)
        table = _encode(costed, scored, _targets(costed, label), encoder, engine, seed)
        targets = _extended_targets(table, auxiliary, label)
        trials = _trials(table, targets, predictors, progress)
        costs = _cross_fit_costs(costed, table.x, table.blocks, table.fold)

        progress("choosing", 0.75)
        best, prediction, worth = _best(table, trials, costs)

        progress("tracing the frontier", 0.85)
        router = _router(table, targets, best, prediction, worth)
        held_out = replace(prediction, context=context(table.x, table.blocks))
        candidates_of = _trace(
            strategies,
            costed,
            held_out,
            table.fold,
            option_style=option_style,
            seed=seed,
            progress=_within(progress, 0.85, 0.13),
        )
        progress("leaving topics out", 0.98)
        topic = left_out.topics(costed, table.x, table.blocks, seed)
        router = replace(router, steady=left_out.steady(costed, topic))
        gain_elsewhere = cache(  # strategies that use the same evidence share the estimate
            lambda weighs_answers: left_out.estimate(
                *(costed, table.x, table.blocks, topic, router.signal),
                weighs_answers=weighs_answers,
                seed=seed,
            )
        )
        novelty = cache(lambda careful: _novelty(table, careful=careful))
        routers = {}
        for strategy, (candidates, evidence) in candidates_of.items():
            points = frontier.trace(candidates, costed, seed=seed)
            elsewhere, facts = None, dict[str, Any]()
            if assumption is None:
                elsewhere = gain_elsewhere(evidence is not None)
                where_fitted = float(np.mean([point.gain for point in points]))
                facts |= left_out.facts(elsewhere, where_fitted)
                cheapest = frontier.tie(frontier.served_at_zero(candidates, points, costed), costed)
                facts |= {} if cheapest is None else {"tie": cheapest}
            else:
                points = tuple(replace(point, unproven=True) for point in points)
                facts["unproven"] = assumption
            card = {
                "fit_seconds": round(time.monotonic() - began, 1),
                "option_style": option_style and strategy == "auto",
                **facts,
            }
            routers[strategy] = replace(
                router,
                evidence=evidence,
                frontier=points,
                novelty=novelty(elsewhere is not None and not elsewhere.pays),
                card={**router.card, **card},
            )
        return routers


def _novelty(table: EncodedTable, *, careful: bool) -> Novelty:
    """The novelty of queries; more of them are unfamiliar to a `careful` router."""
    rare, groups = RARE_IF_CAREFUL if careful else RARE, table.outcomes.groups
    return Novelty().fit(table.x, table.blocks, groups=groups, rare=rare, seed=table.seed)


class EncodedTable(NamedTuple):
    """A table as input for predictors: n rows, e experts."""

    outcomes: Outcomes
    scored: Any  # (e,) whether the expert has scores; otherwise its quality is assumed
    targets: Array  # (n, e) targets of the predictors
    name: str  # of the encoder
    encoder: Any
    x: Array  # (n, width)
    fold: Folds
    seed: int

    @property
    def blocks(self) -> Mapping[str, slice]:
        blocks: Mapping[str, slice] = self.encoder.blocks
        return blocks


def _encode(
    outcomes: Outcomes, scored: Any, targets: Array, encoder: str, engine: str, seed: int
) -> EncodedTable:
    reader = build_encoder(encoder).fit(outcomes.queries, seed=seed)
    x = parallel.stacked(reader.encode, outcomes.queries, engine)
    fold = folds(len(outcomes), FOLDS, seed, outcomes.groups)
    return EncodedTable(outcomes, scored, targets, encoder, reader, x, fold, seed)


class Trial(NamedTuple):
    """A fitted predictor with a signal."""

    name: str
    model: Predictor
    belief: Belief  # held out
    signal: float


def _trials(
    table: EncodedTable,
    extended: ExtendedTargets | None,
    makers: Mapping[str, Callable[..., Predictor]],
    progress: Progress,
) -> list[Trial]:
    """Every predictor, fitted and cross-validated, with every signal."""
    trials = []
    for i, (name, make) in enumerate(makers.items()):
        begin, share = 0.2 + 0.5 * i / len(makers), 0.5 / len(makers)
        progress(f"fitting and cross-validating {name}", begin)
        x = inputs(make(), table.x, table.outcomes.queries)
        if hasattr(make(), "progress"):  # its fit is long and reports progress
            make = partial(make, progress=_within(progress, begin, share))
        maker: Callable[[], Predictor] = partial(_with_table, make, table.outcomes)
        targets = table.targets
        if extended is not None and _learns_columns(make()):
            maker, targets = (
                partial(Pool, maker(), table.scored.size, extended.assumed),
                extended.scores,
            )
        model, belief = fit_held_out(
            maker, x, targets, blocks=table.blocks, fold=table.fold, seed=table.seed
        )
        trials += [Trial(name, model, belief, signal) for signal in SIGNALS]
    return trials


def _best(
    table: EncodedTable, trials: Sequence[Trial], costs: Array
) -> tuple[Trial, Prediction, float]:
    """The trial with the best decision value, its held-out predictions, and that value."""
    held_out = [
        _prediction(table.outcomes, metrics.mean(table.targets), trial.belief, costs, trial.signal)
        for trial in trials
    ]
    worths = np.array(
        [frontier.decision_value(prediction, table.outcomes) for prediction in held_out]
    )
    best = int(np.argmax(_smoothed(worths.reshape(-1, len(SIGNALS))).ravel()))
    return trials[best], held_out[best], float(worths[best])


def _router(
    table: EncodedTable,
    extended: ExtendedTargets | None,
    best: Trial,
    prediction: Prediction,
    worth: float,
) -> Router:
    """The router without its frontier."""
    outcomes, x, blocks = table.outcomes, table.x, table.blocks
    maps, chance = calibration.fit(prediction.quality, outcomes.score, table.fold)
    card = _card(outcomes, table.name, best.name, chance, worth, table.seed)
    if extended is not None and extended.names:
        card["auxiliary"] = list(extended.names)
    return Router(
        experts=outcomes.experts,
        encoder=table.encoder,
        predictor=best.model,
        costs=CostModel().fit(x, blocks, outcomes.queries, outcomes.cost),
        mean=metrics.mean(table.targets),
        signal=best.signal,
        calibration=maps,
        latency=_latency(outcomes),
        seen=fingerprints(outcomes.queries),
        card=card,
    )


def _trace(
    strategies: Sequence[str],
    outcomes: Outcomes,
    prediction: Prediction,
    fold: Folds,
    *,
    option_style: bool,
    seed: int,
    progress: Progress,
) -> dict[str, tuple[list[frontier.Candidate], Evidence | None]]:
    """The candidates of each strategy, and the evidence that it needs; `prediction` must be held
    out."""
    ladders = {
        strategy: ladder.build(
            outcomes,
            prediction,
            fold,
            agreement_only=strategy == "frugal",  # a threshold cascade uses nothing else
            option_style=option_style,
            seed=seed,
            progress=_within(progress, 0.0, 0.7),
        )
        for strategy in strategies
        if strategy in ("auto", "frugal")
    }
    last = _within(progress, 0.7, 0.3)
    singles = frontier.singles(prediction, outcomes)
    results: dict[str, tuple[list[frontier.Candidate], Evidence | None]] = {}
    for strategy in strategies:
        committees = ladders.get(strategy)
        evidence = committees and committees.evidence
        if strategy == "frugal":
            results[strategy] = (
                cascades.frugal(outcomes, prediction, committees, last),
                evidence,
            )
        elif strategy == "cascade_routing":
            results[strategy] = cascades.cascade_routing(outcomes, prediction, last), None
        elif strategy == "ratio_greedy":
            results[strategy] = cascades.ratio_greedy(outcomes, prediction), None
        elif strategy == "auto" and committees is not None and _pays(committees, singles, outcomes):
            results[strategy] = committees.candidates, evidence
        else:
            results[strategy] = singles, None
    return results


def _pays(
    committees: ladder.Ladder, singles: Sequence[frontier.Candidate], outcomes: Outcomes
) -> bool:
    """Whether the ladder is worth more than one ask per query. Gains that were expected of it count
    as if they had been measured on the rows that they were drawn from."""
    climbing, single = (
        frontier.worth(*frontier.curve(candidates), outcomes)
        for candidates in (committees.candidates, singles)
    )
    expected = [c.expected for c in committees.candidates if c.expected is not None]
    share = sample.ROWS / (sample.ROWS + len(outcomes)) if expected else 0.0
    return (1 - share) * (climbing - single) + share * float(np.mean(expected or 0.0)) > 0


def _within(progress: Progress, begin: float, share: float) -> Progress:
    return lambda doing, done: progress(doing, begin + share * done)


def makers(predictor: str, options: Mapping[str, Any]) -> dict[str, Callable[..., Predictor]]:
    """The predictors to try, by name; raises BadInput for invalid options."""
    if predictor != "auto":
        make = partial(registry.build, "predictors", {**options, "predictor": predictor})
        make()
        return {predictor: make}
    if options:
        raise BadInput(
            f"option {next(iter(options))} belongs to one predictor: name it with --predictor"
        )
    return {name: partial(registry.build, "predictors", name) for name in AUTO_PREDICTORS}


def _with_table(make: Callable[..., Predictor], outcomes: Outcomes) -> Predictor:
    """Makes a predictor; one that also learns from rewards or tags gets the table."""
    model: Any = make()
    informed: Predictor = model.given(outcomes) if hasattr(model, "given") else model
    return informed


def _learns_columns(predictor: Any) -> bool:
    """Whether the predictor can learn from further experts as further columns of scores."""
    return not hasattr(predictor, "given") and not getattr(predictor, "reads_text", False)


class ExtendedTargets(NamedTuple):
    """Targets of the predictors if they differ from the scores of the pool."""

    scores: Array  # (n, pool + clusters of auxiliary experts); NaN for experts without scores
    assumed: Array  # (pool,) quality of the experts without scores; NaN for the others
    names: Sequence[str]  # of the auxiliary experts


def _extended_targets(
    encoded: EncodedTable, auxiliary: Outcomes | None, label: str
) -> ExtendedTargets | None:
    """The scores of the pool and of the auxiliary experts, if those help; None for the pool alone.

    They help if a ridge regression that also learns them has less squared error on held-out rows,
    in the differences between the pool's experts, by MIN_IMPROVEMENT standard errors.
    """
    scored, seed = encoded.scored, encoded.seed
    own = np.where(scored, encoded.targets, np.nan)
    assumed = np.where(scored, np.nan, metrics.mean(encoded.targets))
    plain = None if scored.all() else ExtendedTargets(own, assumed, ())
    if auxiliary is None:
        return plain
    others = _targets(auxiliary, label)
    scored_enough = np.isfinite(others).mean(axis=0) >= 0.5
    if not scored_enough.any():
        return plain
    wide = np.hstack([own, cluster_means(others[:, scored_enough], seed)])
    held_out = [
        fit_held_out(
            Linear, encoded.x, scores, blocks=encoded.blocks, fold=encoded.fold, seed=seed
        )[1].mean
        for scores in (own, wide)
    ]
    error_alone, error_extended = (
        _squared_errors(mean[:, : scored.size] - own) for mean in held_out
    )
    improvement = error_alone - error_extended
    names = [name for name, use in zip(auxiliary.experts, scored_enough, strict=True) if use]
    better = improvement.mean() > MIN_IMPROVEMENT * improvement.std() / np.sqrt(len(improvement))
    return ExtendedTargets(wide, assumed, names) if better else plain


def cluster_means(scores: Array, seed: int = 0) -> Array:
    """Scores (n, e) of auxiliary experts ▶ mean scores of at most CLUSTERS clusters of them; the
    experts of a cluster find the same queries hard."""
    from sklearn.cluster import KMeans

    mean, deviation = deviations(scores)
    if len(mean) <= CLUSTERS:
        return scores
    length = np.linalg.norm(deviation, axis=0)
    directions = (deviation / np.maximum(length, 1e-9)).T
    cluster = KMeans(CLUSTERS, n_init=3, random_state=seed).fit_predict(directions)
    members = [np.flatnonzero(cluster == k) for k in np.unique(cluster)]
    averaged = [mean[m].mean() + deviation[:, m].mean(axis=1) for m in members]
    return np.asarray(np.clip(np.column_stack(averaged), 0.0, 1.0))


def _squared_errors(error: Array) -> Array:
    """Squared error per row, (n,), in the differences between experts, or of a single expert."""
    finite = np.isfinite(error)
    error = np.where(finite, error, 0.0)
    if finite.any(axis=0).sum() > 1:
        level = error.sum(axis=1) / np.maximum(finite.sum(axis=1), 1)
        error = np.where(finite, error - level[:, None], 0.0)
    return np.asarray((error**2).sum(axis=1))


class Assumed(NamedTuple):
    """The assumed quality and cost of an expert without recorded outcomes."""

    quality: float  # 0..1
    cost: float | None = None  # US$ per answer


def _with_assumed(outcomes: Outcomes, assume: Mapping[str, Assumed]) -> Outcomes:
    """Fills unknown scores and costs of the named experts with the assumed ones."""
    check_names(list(assume), outcomes.experts)
    tables = {name: outcomes.measures[name].copy() for name in ("score", "cost")}
    for name, (quality, cost) in assume.items():
        if not 0 <= quality <= 1:
            raise BadInput(f"the assumed quality of '{name}' is {quality:g} and must be in 0..1")
        if cost is not None and cost < 0:
            raise BadInput(f"the assumed cost of '{name}' is {cost:g} and must not be negative")
        m = outcomes.experts.index(name)
        for table, value in (("score", quality), ("cost", cost)):
            column = tables[table][:, m]
            column[np.isnan(column)] = np.nan if value is None else value
    return replace(outcomes, measures={**outcomes.measures, **tables})


def _targets(outcomes: Outcomes, label: str) -> Array:
    """Targets of the predictors: scores, or `soft` where it is known."""
    if label == "score":
        return outcomes.score
    if label != "soft":
        raise BadInput(f"label '{label}' is unknown: choose score or soft")
    if "soft" not in outcomes.measures:
        raise BadTable("label 'soft' needs columns soft::EXPERT; the table has none")
    soft = outcomes.measures["soft"]
    return np.where(np.isfinite(soft), soft, outcomes.score)


def _smoothed(worths: Array) -> Array:
    """Decision values (predictors, signals), each averaged with its neighbours, because the
    highest of several noisy values is too high. The signal MILD wins near ties."""
    padded = np.pad(worths, ((0, 0), (1, 1)), mode="edge")
    smooth = padded[:, :-2] / 4 + padded[:, 1:-1] / 2 + padded[:, 2:] / 4
    return np.asarray(smooth + PREFERENCE * (np.array(SIGNALS) == MILD))


def _cross_fit_costs(
    outcomes: Outcomes, x: Array, blocks: Mapping[str, slice], fold: Folds
) -> Array:
    predicted = np.zeros_like(outcomes.cost)
    for k in np.unique(fold):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        queries = outcomes.rows(inside).queries
        model = CostModel().fit(x[inside], blocks, queries, outcomes.cost[inside])
        predicted[outside] = model.predict(x[outside], outcomes.rows(outside).queries)
    return predicted


def _prediction(
    outcomes: Outcomes, mean: Array, belief: Belief, costs: Array, signal: float
) -> Prediction:
    """Held-out predictions as the router would make them."""
    scaled = scale_differences(belief.mean, mean, signal)
    return Prediction(
        experts=outcomes.experts,
        quality=np.nan_to_num(np.clip(scaled, 0.0, 1.0), nan=-1.0),
        spread=belief.spread,
        cost=costs,
        latency=np.full_like(costs, np.nan),
    )


def check_strategy(name: str) -> None:
    """Raises BadInput for a strategy that cannot be fitted, naming those that can."""
    if name in STRATEGIES:
        return
    fittable = (*STRATEGIES, "automix")
    if name not in registry.names("strategies"):
        raise BadInput(f"no strategy is called '{name}': {registry.way_out(name, fittable)}")
    raise BadInput(
        f"strategy '{name}' cannot be fitted, because it learns nothing from a table: choose one of"
        f" {', '.join(fittable)}, or name '{name}' in routewright.yaml"
    )


def _check(outcomes: Outcomes, strategies: Sequence[str]) -> None:
    for strategy in strategies:
        check_strategy(strategy)
    if len(outcomes) < MIN_ROWS:
        raise BadTable(f"{len(outcomes)} rows are too few to fit on: at least {MIN_ROWS}")
    columns = zip(outcomes.experts, outcomes.score.T, strict=True)
    unknown = [name for name, scores in columns if not np.isfinite(scores).any()]
    if len(unknown) == len(outcomes.experts):
        raise BadTable(
            f"no row of split '{outcomes.split}' is scored, and the answers of {', '.join(unknown)}"
            f" cannot take the place of scores: agreement needs {unlabelled.EXPERTS} experts with"
            f" comparable answers (short texts, numbers, letters) to {unlabelled.LABELS} rows. Add"
            f" an expert, or score at least {unlabelled.LABELS} rows: {HOW_TO_SCORE}"
        )
    if unknown:
        raise BadTable(
            f"no score is known for {', '.join(unknown)} in split '{outcomes.split}':"
            " name the others with --experts, fit on another --split, or --assume NAME=QUALITY"
        )
    price = metrics.mean(outcomes.cost)
    without = [n for n, cost in zip(outcomes.experts, price, strict=True) if np.isnan(cost)]
    if 0 < len(without) < len(outcomes.experts):
        raise BadTable(
            f"no cost is known for {', '.join(without)}: add cost::NAME columns, or leave them"
            " out with --experts"
        )


def _latency(outcomes: Outcomes) -> Array:
    table = outcomes.measures.get("latency")
    return np.full(len(outcomes.experts), np.nan) if table is None else metrics.mean(table)


def _card(
    outcomes: Outcomes,
    encoder: str,
    predictor: str,
    chance: Array,
    worth: float,
    seed: int,
) -> dict[str, Any]:
    """Facts about the data and the fit, for readers of router.json."""
    return {
        "data": {
            "sources": list(outcomes.sources),
            "sha256": outcomes.digest,
            "split": outcomes.split,
            "rows": len(outcomes),
            "prompts": len(np.unique(fingerprints(outcomes.queries))),
            "domains": dict(Counter(domain for domain in outcomes.domains if domain)),
            "cost": float(np.nansum(outcomes.cost)),  # US$ that the recorded answers took
        },
        "encoder": encoder,
        "predictor": predictor,
        "seed": seed,
        "experts": {
            name: {
                "quality": float(metrics.mean(outcomes.score[:, m])),
                "cost": float(metrics.mean(outcomes.cost[:, m])),
                "auc": metrics.auc(chance[:, m], outcomes.score[:, m]),
                "brier": metrics.brier(chance[:, m], outcomes.score[:, m]),
                "ece": metrics.ece(chance[:, m], outcomes.score[:, m]),
            }
            for m, name in enumerate(outcomes.experts)
        },
        "gain_over_zero_router": worth,
    }
