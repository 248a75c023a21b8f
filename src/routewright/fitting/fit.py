"""From an outcome table to a router, judged only by rows that its predictors did not see."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics, parallel, registry
from routewright.answers.evidence import Evidence
from routewright.data.outcomes import Outcomes, check_names, fingerprints
from routewright.errors import BadInput, BadTable
from routewright.fitting import cascades, ladder
from routewright.prediction import calibration
from routewright.prediction.costs import CostModel
from routewright.prediction.encoders import build as build_encoder
from routewright.prediction.novelty import Novelty
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
MILD, PREFERENCE = 0.85, 1e-3  # the signal that wins near ties, and by how much decision value
AUTO_ENCODER = "lexical+surface+domain"
AUTO_PREDICTORS = ("stack",)
STRATEGIES = ("auto", "single", "frugal", "cascade_routing", "ratio_greedy")
MIN_ROWS = 20
KINDS = 8  # of other experts to learn from
SURER = 0.5  # standard errors by which learning from them must help

Progress = Callable[[str, float], None]  # what is being done, share of the whole done before it


def fit(
    outcomes: Outcomes,
    *,
    encoder: str = "auto",
    predictor: str = "auto",
    options: Mapping[str, Any] | None = None,
    strategy: str = "auto",
    label: str = "score",
    assume: Mapping[str, Assumed] | None = None,
    auxiliary: Outcomes | None = None,
    engine: str = "local",
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> Router:
    """Learns a router; every choice in it is made by cross-validated decision value.

    `strategy` `single` keeps to one call per query, `auto` may look at answers; `frugal`,
    `cascade_routing` and `ratio_greedy` are published rules, there for comparison. `label` `soft`
    learns from `soft::m` where it is known (the share of several samples that pass, say);
    decisions are still judged by the score. `options` set fields of the predictor that is named.
    `assume` says what to take for granted of experts that were never scored. `auxiliary` holds
    other experts on the same rows: what they find hard is learnt from too, where that foretells the
    pool better. `engine` says where queries are encoded (`parallel`). Raises BadTable for tables
    that are too small or have costs for some experts only, BadInput for names that do not exist.

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
    label: str = "score",
    assume: Mapping[str, Assumed] | None = None,
    auxiliary: Outcomes | None = None,
    engine: str = "local",
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> dict[str, Router]:
    """The same for several strategies: routers that share their forecasts, which are fitted
    once."""
    with parallel.one_thread():
        tried = makers(predictor, options or {})
        began = time.monotonic()
        progress("reading the queries", 0.0)
        known = _assuming(outcomes, assume or {}).costed()
        _check(known, strategies)
        scored = np.isfinite(outcomes.score).any(axis=0)
        read = _read(known, scored, _targets(known, label), encoder, engine, seed)
        lesson = _lesson(read, auxiliary, label)
        trials = _trials(read, lesson, tried, progress)
        costs = _cross_fit_costs(known, read.x, read.blocks, read.fold)

        progress("choosing", 0.75)
        best, prediction, worth = _best(read, trials, costs)

        progress("tracing the frontier", 0.85)
        router = _router(read, lesson, best, prediction, worth)
        held_out = replace(prediction, context=context(read.x, read.blocks))
        traced = _trace(strategies, known, held_out, read.fold, seed, _within(progress, 0.85, 0.13))
        seconds = round(time.monotonic() - began, 1)
        router = replace(router, card={**router.card, "fit_seconds": seconds})
        return {
            strategy: replace(
                router, evidence=evidence, frontier=frontier.trace(ways, known, seed=seed)
            )
            for strategy, (ways, evidence) in traced.items()
        }


class Reading(NamedTuple):
    """A table as predictors see it: n rows, e experts."""

    outcomes: Outcomes
    scored: Any  # (e,) whether the expert was ever scored; of others something is assumed
    targets: Array  # (n, e) what is learnt
    name: str  # of the encoder
    encoder: Any
    x: Array  # (n, width)
    fold: Folds
    seed: int

    @property
    def blocks(self) -> Mapping[str, slice]:
        blocks: Mapping[str, slice] = self.encoder.blocks
        return blocks


def _read(
    outcomes: Outcomes, scored: Any, targets: Array, encoder: str, engine: str, seed: int
) -> Reading:
    name = AUTO_ENCODER if encoder == "auto" else encoder
    reader = build_encoder(name).fit(outcomes.queries, seed=seed)
    x = parallel.stacked(reader.encode, outcomes.queries, engine)
    fold = folds(len(outcomes), FOLDS, seed, outcomes.groups)
    return Reading(outcomes, scored, targets, name, reader, x, fold, seed)


class Trial(NamedTuple):
    """A predictor and a signal to choose among."""

    name: str
    model: Predictor
    belief: Belief  # of rows that it did not see
    signal: float


def _trials(
    read: Reading,
    lesson: Lesson | None,
    makers: Mapping[str, Callable[..., Predictor]],
    progress: Progress,
) -> list[Trial]:
    """Every predictor, fitted and cross-validated, with every signal."""
    trials = []
    for i, (name, make) in enumerate(makers.items()):
        begin, share = 0.2 + 0.5 * i / len(makers), 0.5 / len(makers)
        progress(f"fitting and cross-validating {name}", begin)
        seen = inputs(make(), read.x, read.outcomes.queries)
        if hasattr(make(), "progress"):  # it takes long enough to say how far it is
            make = partial(make, progress=_within(progress, begin, share))
        maker: Callable[[], Predictor] = partial(_informed, make, read.outcomes)
        taught = read.targets
        if lesson is not None and _learns_columns(make()):
            maker, taught = partial(Pool, maker(), read.scored.size, lesson.assumed), lesson.scores
        model, belief = fit_held_out(
            maker, seen, taught, blocks=read.blocks, fold=read.fold, seed=read.seed
        )
        trials += [Trial(name, model, belief, signal) for signal in SIGNALS]
    return trials


def _best(read: Reading, trials: Sequence[Trial], costs: Array) -> tuple[Trial, Prediction, float]:
    """The trial of the best decision value, what it predicts of rows not seen, and that value."""
    held_out = [
        _prediction(read.outcomes, metrics.mean(read.targets), trial.belief, costs, trial.signal)
        for trial in trials
    ]
    worths = np.array(
        [frontier.decision_value(prediction, read.outcomes) for prediction in held_out]
    )
    best = int(np.argmax(_steadied(worths.reshape(-1, len(SIGNALS))).ravel()))
    return trials[best], held_out[best], float(worths[best])


def _router(
    read: Reading, lesson: Lesson | None, best: Trial, prediction: Prediction, worth: float
) -> Router:
    """The router but for its frontier."""
    outcomes, x, blocks = read.outcomes, read.x, read.blocks
    maps, chance = calibration.fit(prediction.quality, outcomes.score, read.fold)
    card = _card(outcomes, read.name, best.name, chance, worth, read.seed)
    if lesson is not None and lesson.names:
        card["auxiliary"] = list(lesson.names)
    return Router(
        experts=outcomes.experts,
        encoder=read.encoder,
        predictor=best.model,
        costs=CostModel().fit(x, blocks, outcomes.queries, outcomes.cost),
        mean=metrics.mean(read.targets),
        novelty=Novelty().fit(x, blocks, seed=read.seed),
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
    seed: int,
    progress: Progress,
) -> dict[str, tuple[list[frontier.Candidate], Evidence | None]]:
    """What each strategy can do at which price, and the evidence that it needs; `prediction`
    must be held out."""
    climbs = {
        strategy: ladder.build(
            outcomes,
            prediction,
            fold,
            agreement_only=strategy == "frugal",  # a threshold cascade weighs no more
            seed=seed,
            progress=_within(progress, 0.0, 0.7),
        )
        for strategy in strategies
        if strategy in ("auto", "frugal")
    }
    last = _within(progress, 0.7, 0.3)
    singles = frontier.singles(prediction, outcomes)
    found: dict[str, tuple[list[frontier.Candidate], Evidence | None]] = {}
    for strategy in strategies:
        climb = climbs.get(strategy)
        evidence = climb and climb.evidence
        if strategy == "frugal":
            found[strategy] = cascades.frugal(outcomes, prediction, climb, last), evidence
        elif strategy == "cascade_routing":
            found[strategy] = cascades.cascade_routing(outcomes, prediction, last), None
        elif strategy == "ratio_greedy":
            found[strategy] = cascades.ratio_greedy(outcomes, prediction), None
        elif strategy == "auto" and climb is not None and _pays(climb, singles, outcomes):
            found[strategy] = climb.ways, evidence
        else:
            found[strategy] = singles, None
    return found


def _pays(climb: ladder.Ladder, singles: Sequence[frontier.Candidate], outcomes: Outcomes) -> bool:
    """Are answers worth asking for, beside one call per query?"""
    climbing, once = (
        frontier.worth(*frontier.curve(ways), outcomes) for ways in (climb.ways, singles)
    )
    return climbing > once


def _within(progress: Progress, begin: float, share: float) -> Progress:
    return lambda doing, done: progress(doing, begin + share * done)


def makers(predictor: str, options: Mapping[str, Any]) -> dict[str, Callable[..., Predictor]]:
    """The predictors to try, by name; raises BadInput for options that cannot be used."""
    if predictor != "auto":
        make = partial(registry.build, "predictors", {**options, "predictor": predictor})
        make()
        return {predictor: make}
    if options:
        raise BadInput(
            f"option {next(iter(options))} needs to know its predictor: name it with --predictor"
        )
    return {name: partial(registry.build, "predictors", name) for name in AUTO_PREDICTORS}


def _informed(make: Callable[..., Predictor], outcomes: Outcomes) -> Predictor:
    """A predictor; one that learns from more than scores (rewards, tags) is shown the table."""
    model: Any = make()
    informed: Predictor = model.given(outcomes) if hasattr(model, "given") else model
    return informed


def _learns_columns(predictor: Any) -> bool:
    """Whether further experts are further columns of scores to it, and no more than that."""
    return not hasattr(predictor, "given") and not getattr(predictor, "reads_text", False)


class Lesson(NamedTuple):
    """What is learnt where that is more, or less, than the scores of the pool."""

    scores: Array  # (n, pool + kinds of others); NaN throughout for experts never scored
    assumed: Array  # (pool,) quality of those; NaN for the others
    names: Sequence[str]  # of the other experts


def _lesson(read: Reading, auxiliary: Outcomes | None, label: str) -> Lesson | None:
    """The pool's scores and the others', where those help; None for the pool's as they are.

    They help if a ridge regression that learns them too has less squared error on held-out rows,
    in the differences between the pool's experts, by SURER standard errors.
    """
    scored, seed = read.scored, read.seed
    own = np.where(scored, read.targets, np.nan)
    assumed = np.where(scored, np.nan, metrics.mean(read.targets))
    plain = None if scored.all() else Lesson(own, assumed, ())
    if auxiliary is None:
        return plain
    others = _targets(auxiliary, label)
    known = np.isfinite(others).mean(axis=0) >= 0.5
    if not known.any():
        return plain
    wide = np.hstack([own, kinds(others[:, known], seed)])
    held_out = [
        fit_held_out(Linear, read.x, table, blocks=read.blocks, fold=read.fold, seed=seed)[1].mean
        for table in (own, wide)
    ]
    alone, beside = (_missed(mean[:, : scored.size] - own) for mean in held_out)
    saved = alone - beside
    names = [name for name, use in zip(auxiliary.experts, known, strict=True) if use]
    better = saved.mean() > SURER * saved.std() / np.sqrt(len(saved))
    return Lesson(wide, assumed, names) if better else plain


def kinds(scores: Array, seed: int = 0) -> Array:
    """Other experts' scores (n, e) ▶ those of at most KINDS kinds of them, alike in what they
    find hard; each is a mean over its kind."""
    from sklearn.cluster import KMeans

    mean, deviation = deviations(scores)
    if len(mean) <= KINDS:
        return scores
    length = np.linalg.norm(deviation, axis=0)
    directions = (deviation / np.maximum(length, 1e-9)).T
    kind = KMeans(KINDS, n_init=3, random_state=seed).fit_predict(directions)
    members = [np.flatnonzero(kind == k) for k in np.unique(kind)]
    averaged = [mean[m].mean() + deviation[:, m].mean(axis=1) for m in members]
    return np.asarray(np.clip(np.column_stack(averaged), 0.0, 1.0))


def _missed(error: Array) -> Array:
    """Squared error per row, (n,): of the differences between experts, or of the only one."""
    known = np.isfinite(error)
    error = np.where(known, error, 0.0)
    if known.any(axis=0).sum() > 1:
        level = error.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        error = np.where(known, error - level[:, None], 0.0)
    return np.asarray((error**2).sum(axis=1))


class Assumed(NamedTuple):
    """What is taken for granted of an expert whose outcomes are not known."""

    quality: float  # 0..1
    cost: float | None = None  # US$ per answer


def _assuming(outcomes: Outcomes, assume: Mapping[str, Assumed]) -> Outcomes:
    """Unknown scores and costs of the named experts filled with what is assumed of them."""
    check_names(list(assume), outcomes.experts)
    tables = {name: outcomes.measures[name].copy() for name in ("score", "cost")}
    for name, (quality, cost) in assume.items():
        if not 0 <= quality <= 1:
            raise BadInput(f"the quality assumed of '{name}' is {quality:g} and must be in 0..1")
        if cost is not None and cost < 0:
            raise BadInput(f"the cost assumed of '{name}' is {cost:g} and must not be negative")
        m = outcomes.experts.index(name)
        for table, value in (("score", quality), ("cost", cost)):
            column = tables[table][:, m]
            column[np.isnan(column)] = np.nan if value is None else value
    return replace(outcomes, measures={**outcomes.measures, **tables})


def _targets(outcomes: Outcomes, label: str) -> Array:
    """What predictors learn: scores, or `soft` where it is known."""
    if label == "score":
        return outcomes.score
    if label != "soft":
        raise BadInput(f"label '{label}' is unknown: choose score or soft")
    if "soft" not in outcomes.measures:
        raise BadTable("label 'soft' needs columns soft::EXPERT; the table has none")
    soft = outcomes.measures["soft"]
    return np.where(np.isfinite(soft), soft, outcomes.score)


def _steadied(worths: Array) -> Array:
    """Decision values (predictors, signals), each averaged with its neighbours': the best of
    several noisy values is too good. Mild shrinkage wins near ties."""
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
    drawn = scale_differences(belief.mean, mean, signal)
    return Prediction(
        experts=outcomes.experts,
        quality=np.nan_to_num(np.clip(drawn, 0.0, 1.0), nan=-1.0),
        spread=belief.spread,
        cost=costs,
        latency=np.full_like(costs, np.nan),
    )


def check_strategy(name: str) -> None:
    """Raises BadInput for a strategy that cannot be fitted, naming those that can."""
    if name in STRATEGIES:
        return
    there = (*STRATEGIES, "automix")
    if name not in registry.names("strategies"):
        raise BadInput(f"no strategy is called '{name}': {registry.way_out(name, there)}")
    raise BadInput(
        f"strategy '{name}' cannot be fitted, as it learns nothing from a table: choose one of"
        f" {', '.join(there)}, or name '{name}' in routewright.yaml"
    )


def _check(outcomes: Outcomes, strategies: Sequence[str]) -> None:
    for strategy in strategies:
        check_strategy(strategy)
    if len(outcomes) < MIN_ROWS:
        raise BadTable(f"{len(outcomes)} rows are too few to fit on: at least {MIN_ROWS}")
    columns = zip(outcomes.experts, outcomes.score.T, strict=True)
    unknown = [name for name, scores in columns if not np.isfinite(scores).any()]
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
    """What a reader of router.json wants to know about the data and the fit."""
    return {
        "data": {
            "sources": list(outcomes.sources),
            "sha256": outcomes.digest,
            "split": outcomes.split,
            "rows": len(outcomes),
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
