"""Builds the ladder of committees that `auto` climbs, and measures it on held-out rows.

Members are chosen greedily by the quality that they add to a weighted vote, less their cost. The
forests of each rung are cross-fitted. The value of climbing is learned backwards from the top, by a
regression of the recorded gain of climbing on the state below (as in Longstaff and Schwartz 2001),
so that a decision takes the results of later decisions into account.

All forests are grown on the recorded rows and on further rows that are drawn from a model
of how experts agree (see `sample`). Few recorded rows decide the parameters of that model; many
outweigh it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np

from routewright import metrics, policies
from routewright.answers import equivalence, multiple_choice, reading, votes
from routewright.answers.evidence import (
    NOBODY,
    UNSURE,
    Evidence,
    Replies,
    Rung,
    RungState,
    by_member,
    candidates,
    gain_columns,
    leader,
    leaders,
    onward_columns,
    others,
)
from routewright.data.outcomes import Outcomes
from routewright.fitting.sample import ROWS, Sample, draw
from routewright.prediction.forest import Forest
from routewright.prediction.predictors import Folds
from routewright.router.frontier import (
    Candidate,
    PointStrategy,
    curve,
    gains_of,
    with_budget,
    worth,
)
from routewright.strategies._recorded import (
    Recorded,
    Run,
    StandIn,
    recorded,
    verifications,
    with_verifications,
)
from routewright.strategies.auto import Auto, new_members
from routewright.types import Array, Indices, Prediction

MEMBERS = 6  # of the top rung, at most
EARLY = (1, 2, 3)  # members of a first committee below the top
MIN_READABLE = 0.5  # least share of queries to which a member gives a readable answer
CHEAP = 0.2  # highest cost of a member, as a share of the most expensive expert's
FOLDS = 3
# Least number of queries in a leaf, as multiples of the square root of their number: which answer
# is right, what one more expert would add, and the value of climbing (the noisiest).
RIGHT, FURTHER, ONWARD = 0.25, 0.6, 2.5
TREES = 80
NOISE = 0.01  # of the vote of the drawn rows; in truth a further member makes none worse
PLAIN_LESS = 0.005  # worth by which a plain rung must exceed forests: those keep gaining with rows
PRICES = np.array([0.0, *np.geomspace(0.01, 30.0, 44)])  # λ times the highest mean cost

Progress = Callable[[str, float], None]
T = TypeVar("T", Run, RungState)


class Ladder(NamedTuple):
    """Evidence fitted on every row, and the held-out results and states of its policies."""

    evidence: Evidence
    candidates: list[Candidate]
    states: list[RungState]

    def split(self, n: int, wide: Outcomes) -> Ladder:
        """The results on the first n rows; those on the others are what gains are expected."""
        drawn = wide.rows(slice(n, None))
        results = [c.rows(slice(n, None)) for c in self.candidates]
        expected = gains_of(results, drawn) if len(drawn) else [None] * len(results)
        candidates = [
            c.rows(slice(0, n))._replace(expected=gain)
            for c, gain in zip(self.candidates, expected, strict=True)
        ]
        return Ladder(self.evidence, candidates, [_first(state, n) for state in self.states])


class FittedRung(NamedTuple):
    """A rung fitted on every row, and the held-out state of each row on it."""

    rung: Rung
    state: RungState
    leading: Array


def build(
    outcomes: Outcomes,
    prediction: Prediction,
    fold: Folds,
    *,
    agreement_only: bool = False,
    option_style: bool = False,
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> Ladder | None:
    """Builds the ladder with the highest decision value; None if answers are of no use: none were
    recorded, they cannot be compared, or no expert that is cheap enough gave any.

    `prediction` must be held out. Log-probabilities and verifications are used where the table has
    them, except with `agreement_only`. With `option_style`, so is how multiple-choice options are
    written, which tells right ones apart only among questions that were made in the same way.
    """
    kind = kind_of(outcomes) or (None if agreement_only else kind_of_texts(outcomes))
    if kind is None:
        return None
    fold = fold % FOLDS
    log_odds, texts = None, None
    if kind not in equivalence.KEYED:
        progress("reading the answers", 0.0)
        answers = votes.recorded(outcomes)
        log_odds, texts = reading.fit(outcomes.queries, answers, outcomes.score, fold, seed=seed)
    chance = prediction.quality if log_odds is None else reading.chance(log_odds)
    style = kind == "letter" and option_style and not agreement_only
    base = Evidence(
        kind,
        PRICES / (metrics.mean(outcomes.charges).max() or 1.0),  # any price where nothing costs
        logprobs=True,
        checking=_checking(outcomes),
        verdicts=outcomes.verdicts or 1,
        claims=kind == "text" and not agreement_only,
    )
    replies = everybody(base, outcomes)
    rows = ROWS if log_odds is None else 0
    sample = draw(outcomes, replies.labels, rows=rows, exact=not style, seed=seed)
    wide = sample.outcomes(outcomes)
    order = order_members(outcomes, replace(prediction, quality=chance), replies.labels, sample)
    measures = () if agreement_only else _further_measures(outcomes, order)
    if len(order) < (1 if measures or texts is not None else 2):
        return None
    option_chances, choices = None, None
    if style:
        assert outcomes.answers is not None
        progress("fitting the chances of options", 0.0)
        fitted_options = multiple_choice.fit(
            outcomes.queries, outcomes.answers, outcomes.score, fold, seed=seed
        )
        option_chances, choices = fitted_options or (None, None)
    uses_logprobs = "logprob" in measures
    base = replace(base, choices=choices, logprobs=uses_logprobs, reading=texts)
    replies = replies._replace(
        choices=option_chances, logprob=replies.logprob if uses_logprobs else None
    )
    fitter = _Fitter(
        wide,
        sample.prediction(prediction),
        sample.fold(fold),
        base,
        sample.replies(replies, kind),
        outcomes,
        log_odds,
        seed,
    )
    progress(f"weighing the answers of {len(order)} experts", 0.0)
    sizes = sorted({min(size, len(order)) for size in (*EARLY, len(order))})
    rung_of_size = {0: fitter.start()}
    for i, size in enumerate(sizes):
        rung_of_size[size] = fitter.climb(tuple(order[:size]))
        progress(f"weighing the answers of {size} experts", (i + 1) / (len(sizes) + 1))
    start, top = rung_of_size[0], rung_of_size[sizes[-1]]
    ladders = [[start, top]] + [[start, rung_of_size[size], top] for size in sizes[:-1]]
    if "verify" in measures:
        checked_rung = {size: fitter.check(rung_of_size[size]) for size in sizes}
        ladders += [[start, top, checked_rung[sizes[-1]]]]
        ladders += [[start, rung_of_size[size], checked_rung[size], top] for size in sizes[:-1]]
        ladders += [
            [start, rung_of_size[size], checked_rung[size]] for size in sizes[:1] if len(sizes) > 1
        ]
    if texts is not None and not measures:
        ladders += [[start, fitter.plain(tuple(order[:size]))] for size in sizes]
    trials = [fitter.ladder(rungs) for rungs in ladders]
    best = max(trials, key=lambda ladder: _worth(ladder, fitter.outcomes))
    return best.split(len(outcomes), wide)


def _worth(ladder: Ladder, outcomes: Outcomes) -> float:
    """The worth of a ladder; where plain rungs and forests are nearly equal, the forests win."""
    plain = ladder.evidence.rungs[-1].plain
    return worth(*curve(ladder.candidates), outcomes) - (PLAIN_LESS if plain else 0.0)


def _further_measures(outcomes: Outcomes, order: Sequence[int]) -> tuple[str, ...]:
    """The further measures that the table has for most answers of those members."""
    tables = {name: outcomes.measures.get(name) for name in ("logprob", "verify")}
    return tuple(
        name
        for name, table in tables.items()
        if table is not None and (np.isfinite(table[:, order]).mean(axis=0) >= MIN_READABLE).all()
    )


def _checking(outcomes: Outcomes) -> Array:
    """The cost of verifying an answer, as a multiple of the answer's, (e,); 1 where unknown."""
    n, e = outcomes.score.shape
    ratios = np.ones(e)
    for m in range(e):
        verified = verifications(outcomes, np.full(n, m))
        cost_of_answers = float(outcomes.charges[verified.confidence != UNSURE, m].sum())
        if cost_of_answers > 0:
            ratios[m] = verified.cost.sum() / cost_of_answers
    return ratios


def kind_of(outcomes: Outcomes) -> equivalence.Kind | None:
    """The kind of comparison of the recorded answers; None if they cannot be compared.

    If half of them are numbers and half are words, they are compared as texts, which reads both.
    """
    if outcomes.answers is None:
        return None
    kinds = [equivalence.guess(row) for row in outcomes.answers[:: max(1, len(outcomes) // 300)]]
    preferred: tuple[equivalence.Kind, ...] = (*reversed(equivalence.KEYED), "code", "similar")
    kind = max(preferred, key=kinds.count)
    return kind if kind in equivalence.KEYED else None


def everybody(evidence: Evidence, outcomes: Outcomes) -> Replies:
    """The recorded answers of every expert."""
    return recorded(evidence, Rung(tuple(range(len(outcomes.experts)))), outcomes)


def kind_of_texts(outcomes: Outcomes) -> equivalence.Kind | None:
    """The kind of recorded answers without a canonical form, `code` or `similar`; None if there
    are none."""
    texts = votes.recorded(outcomes)[:: max(1, len(outcomes) // 300)].ravel().tolist()
    texts = [text for text in texts if text and not text.isspace()]
    if not texts:
        return None
    programs = [text for text in texts if reading.parses(reading.program(text))]
    return "code" if 2 * len(programs) > len(texts) else "similar"


def order_members(
    outcomes: Outcomes, prediction: Prediction, labels: Indices, sample: Sample
) -> list[int]:
    """Members (columns) in the order in which they are asked; `labels` (n, e) of their answers.

    Each next member adds most to the quality of a vote weighted by the log-odds of the forecasts,
    less its cost at the zero router's price of quality up to the best expert. Whether asking it
    pays is decided per query later, so the order ends only where no vote gets better.
    """
    quality = metrics.mean(outcomes.score)
    cost = metrics.mean(outcomes.charges)
    readable_share = (labels >= 0).mean(axis=0)
    available = [
        m
        for m in range(len(cost))
        if readable_share[m] >= MIN_READABLE and cost[m] <= CHEAP * np.nanmax(cost)
    ]
    hull = policies.zero_router(quality, cost)
    span = hull[-1].cost - hull[0].cost
    price = (hull[-1].quality - hull[0].quality) / span if span > 0 else 0.0
    chance = np.clip(prediction.quality, 0.02, 0.98)
    weight = np.log(chance / (1 - chance)) + np.log(4.0)  # a wrong answer has many rivals
    score = np.nan_to_num(outcomes.score)
    order: list[int] = []
    quality_of_vote = 0.0
    most = min(MEMBERS, len(cost) - 1)  # the top rung can ask somebody further
    share = len(sample.row) / (len(sample.row) + len(labels))
    while available and len(order) < most:
        votes = {
            m: (1 - share) * _vote(labels, weight, score, [*order, m])
            + share * sample.best_of([*order, m])
            for m in available
        }
        if len(order) >= 2:
            least = quality_of_vote - share * NOISE
            votes = {m: vote for m, vote in votes.items() if vote > least}
        if not votes:
            break
        best = max(votes, key=lambda m: votes[m] - price * cost[m])
        quality_of_vote = max(quality_of_vote, votes[best])
        order.append(best)
        available.remove(best)
    return order


def _vote(labels: Indices, weight: Array, score: Array, members: list[int]) -> float:
    """Mean score of the answer with the greatest summed weight of its supporters."""
    own_labels, weights = labels[:, members], np.maximum(weight[:, members], 0.05)
    agree = (own_labels[:, :, None] == own_labels[:, None, :]) & (own_labels >= 0)[:, :, None]
    total = (agree * weights[:, None, :]).sum(axis=2)
    winner = np.where(own_labels >= 0, total, -1.0).argmax(axis=1)
    any_readable = (own_labels >= 0).any(axis=1)
    return float((score[:, members][np.arange(len(own_labels)), winner] * any_readable).mean())


def _first(columns: T, n: int) -> T:
    """The first n rows of a Run, or of a RungState."""
    kind: Any = type(columns)
    selected: T = kind(*(None if column is None else column[:n] for column in columns))
    return selected


@dataclass(frozen=True)
class _Fitter:
    """The data that every step of the fit uses."""

    outcomes: Outcomes
    prediction: Prediction  # held out
    fold: Folds
    base: Evidence
    replies: Replies  # of every expert
    recorded: Outcomes  # the first rows of `outcomes`; the others are drawn
    log_odds: Array | None  # held-out reading of each answer by itself, (n, e)
    seed: int

    @cached_property
    def rows(self) -> Recorded:
        rows = Recorded(self.outcomes, StandIn(self.prediction))
        rows.cached("readable", (self.base.kind,), lambda: self.replies.labels >= 0)
        return rows

    def replies_of(self, members: tuple[int, ...]) -> Replies:
        """The answers of these members."""
        if self.log_odds is not None:  # a text is read beside those of the other members
            return recorded(self.base, Rung(members), self.recorded, None, self.log_odds)
        labels, form, choices, logprob, *_ = self.replies
        columns = list(members)
        return Replies(
            labels[:, columns],
            form[:, columns],
            choices,
            None if logprob is None else logprob[:, columns],
        )

    def start(self) -> FittedRung:
        """The rung where no expert has been asked."""
        state = self.base.assess(0, self.replies_of(()), self.prediction)
        return FittedRung(Rung(), state, np.empty((len(self.outcomes), 0)))

    def climb(self, members: tuple[int, ...]) -> FittedRung:
        """Fits the rung where these members have answered."""
        return self._learn(members, self.replies_of(members))

    def plain(self, members: tuple[int, ...]) -> FittedRung:
        """The rung where these members have answered, without forests: with few rows, what the
        answers say by themselves decides better."""
        rung = Rung(members, plain=True)
        evidence = replace(self.base, rungs=(Rung(), rung))
        state = evidence.assess(1, self.replies_of(members), self.prediction)
        return FittedRung(rung, state, leaders(state.chance[:, None]))

    def check(self, below: FittedRung) -> FittedRung:
        """Fits the rung above another one, where its likeliest answer has been verified."""
        members = below.rung.members
        replies = with_verifications(self.replies_of(members), self.outcomes, below.state.best)
        return self._learn(members, replies)

    def _learn(self, members: tuple[int, ...], replies: Replies) -> FittedRung:
        """Fits the first two forests of a rung."""
        score, prediction = self.outcomes.score, self.prediction
        lines = candidates(replies, members, prediction)
        right = score[lines.row, np.array(members)[lines.member]]
        chance_of_line, first = self._held_out(
            lines.columns, right[:, None], self.fold[lines.row], RIGHT
        )
        chances = by_member(lines, chance_of_line[:, 0], replies.labels.shape)
        best, chance = leader(chances, members)
        columns = gain_columns(replies, members, chances, prediction)
        rest = others(members, score.shape[1])
        kept_score = self._score_of(best)
        gain_targets = self._score_after_last_ask(best, kept_score)[:, rest] - kept_score[:, None]
        gain_of_rest, second = self._held_out(columns, gain_targets, self.fold, FURTHER)
        gain = np.full(score.shape, -np.inf)
        gain[:, rest] = gain_of_rest
        rung = Rung(members, replies.checked is not None, candidates=first, gains=second)
        state = RungState(best, chance, gain, None, replies.checked)
        return FittedRung(rung, state, leaders(chances))

    def ladder(self, fitted_rungs: Sequence[FittedRung]) -> Ladder:
        """Fits the value of climbing backwards from the top, and runs the policy at every price."""
        rungs = [step.rung for step in fitted_rungs]
        states = [step.state for step in fitted_rungs]
        for r in range(len(fitted_rungs) - 2, -1, -1):
            evidence = replace(self.base, rungs=tuple(rungs))
            staying = self._runs(evidence, states, r, r)
            climbing = self._runs(evidence, states, r + 1, len(rungs) - 1)
            prices = self.base.prices
            # The cost of this rung's members cancels; that of climbing is subtracted when deciding.
            cost_of_climbing = np.nan_to_num(
                self.outcomes.charges[:, new_members(evidence, r + 1)]
            ).sum(axis=1)
            if rungs[r + 1].checked:
                cost_of_climbing = verifications(self.outcomes, states[r].best).cost
            targets = np.column_stack(
                [
                    b.score - a.score - price * (b.cost - a.cost - cost_of_climbing)
                    for a, b, price in zip(staying, climbing, prices, strict=True)
                ]
            )
            columns = onward_columns(fitted_rungs[r].leading, states[r].gain, self.prediction)
            worths, forest = self._held_out(columns, np.nan_to_num(targets), self.fold, ONWARD)
            rungs[r] = replace(rungs[r], onward=forest)
            states[r] = states[r]._replace(onward=worths)
        evidence = replace(self.base, rungs=tuple(rungs))
        runs = list(self._runs(evidence, states, 0, len(rungs) - 1))
        for _ in range(2):  # what is spent depends on the budget, which is what is spent
            budgets = [float(metrics.mean(run.cost[: len(self.recorded)])) for run in runs]
            runs = list(self._runs(evidence, states, 0, len(rungs) - 1, budgets))
        points = [
            Candidate(
                float(price),
                run.score,
                run.cost,
                self._point_strategy(evidence, float(price), run, states, budget),
            )
            for price, run, budget in zip(self.base.prices, runs, budgets, strict=True)
        ]
        return Ladder(evidence, points, states)

    def _runs(
        self,
        evidence: Evidence,
        states: Sequence[RungState],
        low: int,
        high: int,
        budgets: Sequence[float | None] = (None,) * len(PRICES),
    ) -> Iterator[Run]:
        """Runs the policy at every price, from rung `low` and at most up to rung `high`."""
        part = replace(evidence, rungs=evidence.rungs[low : high + 1])
        steps = list(states[low : high + 1])
        if high < len(states) - 1:
            steps[-1] = steps[-1]._replace(onward=None)
        self.rows.cached("states", (part,), lambda: steps)  # held out; `over` would use all rows
        means = metrics.mean(self.outcomes.score), metrics.mean(self.outcomes.cost)
        router = StandIn(self.prediction, part, *means)
        return (
            Auto(router, float(price), budget=budget).over(self.rows)
            for price, budget in zip(self.base.prices, budgets, strict=True)
        )

    def _held_out(self, x: Array, y: Array, fold: Folds, leaf: float) -> tuple[Array, Forest]:
        """Held-out predictions, and a forest fitted on every row; rows with an unknown target are
        left out of the fit."""
        has_target = np.isfinite(y).all(axis=1)
        out = np.zeros(y.shape)

        def grow(rows: Any) -> Forest:
            least = max(2, round(leaf * len(self.outcomes) ** 0.5))
            return Forest.grow(x[rows], y[rows], trees=TREES, leaf=least, share=0.4, seed=self.seed)

        for k in np.unique(fold):
            out[fold == k] = grow(has_target & (fold != k)).predict(x[fold == k])
        return out, grow(has_target)

    def _score_of(self, best: Indices) -> Array:
        """The score of the best answer, 0 where there is none, (n,)."""
        table = np.nan_to_num(self.outcomes.score)
        return np.where(best == NOBODY, 0.0, table[np.arange(len(best)), best])

    def _score_after_last_ask(self, best: Indices, kept_score: Array) -> Array:
        """The score after one more ask, (n, e): the best answer's if the new one is unreadable."""
        score, readable = self.outcomes.score, self.rows.readable(self.base)
        keeps_best = (best != NOBODY)[:, None] & ~readable
        return np.where(
            keeps_best,
            kept_score[:, None],
            np.where(np.isfinite(score), score, kept_score[:, None]),
        )

    def _point_strategy(
        self,
        evidence: Evidence,
        price: float,
        run: Run,
        states: Sequence[RungState],
        budget: float,
    ) -> PointStrategy:
        experts = self.outcomes.experts
        n = len(self.recorded)
        run, states = _first(run, n), [_first(state, n) for state in states]
        spec = with_budget({"strategy": "auto", "price": price}, budget)
        return PointStrategy(spec, words(evidence, experts, run, states), run.shares(experts))


def words(
    evidence: Evidence,
    experts: Sequence[str],
    run: Run,
    states: Sequence[RungState] | None = None,
) -> str:
    """The policy in a sentence; percentages are of all queries.

    With `states` of the same rows, it names the chance from which an answer is kept (the lowest
    tenth of the kept answers is below it).
    """
    assert run.rung is not None, "a strategy that climbs returns the rungs reached"
    assert run.kept is not None
    parts = []
    for r, rung in enumerate(evidence.rungs):
        stop = run.rung == r
        last = run.asked[stop].copy()
        last[:, list(rung.members)] = False
        finals = [
            f"{experts[m]} ({100 * last[:, m].sum() / len(stop):.0f} %)"
            for m in np.argsort(-last.sum(axis=0))
            if last[:, m].any()
        ]
        actions = [f"ask {_or(finals[:3])}"] if finals else []
        if r and (run.rung >= r).any():
            below = evidence.rungs[r - 1].members
            kept = stop & run.kept
            keep = f"keep the best answer ({100 * kept.mean():.0f} %"
            if states is not None and kept.any():
                keep += f", p ≥ {np.quantile(states[r].chance[kept], 0.1):.2f}"
            actions = ([f"{keep})"] if kept.any() else []) + actions
            new = [experts[m] for m in rung.members if m not in below]
            action = "verify the likeliest answer" if rung.checked else f"ask {_and(new)}"
            actions = [
                f"{action} ({100 * (run.rung >= r).mean():.0f} %), then {' or '.join(actions)}"
            ]
        parts += actions
    return "; else ".join(parts)


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _or(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" or " if len(names) > 1 else "") + names[-1]
