"""Builds the ladder of committees that `auto` climbs, judged by rows that nothing in it saw.

Members are found greedily: who adds most right answers to a weighted vote, less what they cost.
Each rung's forests are cross-fitted; the worth of climbing on is learned backwards from the top
(regression of what climbing really gave on what is known below, as in Longstaff and Schwartz
2001), so that a decision is weighed against how later decisions turn out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics, policies
from routewright.answers import equivalence, multiple_choice
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
from routewright.prediction.forest import Forest
from routewright.prediction.predictors import Folds
from routewright.router.frontier import Candidate, PointStrategy, curve, worth
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
EARLY = (1, 2, 3)  # members of a first rung below it
SPOKEN = 0.5  # share of queries to which a member gives an answer that can be read, at least
CHEAP = 0.2  # a member costs at most so much of the dearest expert
FOLDS = 3
# Queries in a leaf, at least, as multiples of the root of their number: who is right, what one
# expert more would add, and what climbing on is worth (the noisiest).
RIGHT, FURTHER, ONWARD = 0.25, 0.6, 2.5
TREES = 80
PRICES = np.array([0.0, *np.geomspace(0.01, 30.0, 44)])  # λ times the dearest expert's mean cost

Progress = Callable[[str, float], None]


class Ladder(NamedTuple):
    """Evidence fitted on every row, what its policies gave on rows held out, and how those stand
    on its rungs."""

    evidence: Evidence
    ways: list[Candidate]
    states: list[RungState]


class Climbed(NamedTuple):
    """A rung fitted on every row, and how each row stands on it without its own fold."""

    rung: Rung
    state: RungState
    leading: Array


def build(
    outcomes: Outcomes,
    prediction: Prediction,
    fold: Folds,
    *,
    agreement_only: bool = False,
    seed: int = 0,
    progress: Progress = lambda doing, share: None,
) -> Ladder | None:
    """The ladder of the greatest decision value; None where answers tell nothing: none were
    recorded, they cannot be compared, or nobody cheap enough gave any.

    `prediction` must be held out. How the options of multiple choice look, log-probabilities and
    verifications are used where the table has them, but for a ladder of `agreement_only`.
    """
    kind = kind_of(outcomes)
    if kind is None:
        return None
    order = line_up(outcomes, prediction, kind)
    signs = () if agreement_only else _signs(outcomes, order)
    if len(order) < (1 if signs else 2):
        return None
    fold = fold % FOLDS
    option_chances, read = None, None
    if kind == "letter" and not agreement_only:
        assert outcomes.answers is not None
        progress("weighing the options' texts", 0.0)
        learned = multiple_choice.fit(
            outcomes.queries, outcomes.answers, outcomes.score, fold, seed=seed
        )
        option_chances, read = learned or (None, None)
    base = Evidence(
        kind,
        PRICES / max(metrics.mean(outcomes.charges).max(), 1e-300),
        choices=read,
        logprobs="logprob" in signs,
        checking=_checking(outcomes),
        verdicts=outcomes.verdicts or 1,
    )
    study = _Study(outcomes, prediction, fold, base, option_chances, seed)
    progress(f"weighing the answers of {len(order)} experts", 0.0)
    sizes = sorted({min(size, len(order)) for size in (*EARLY, len(order))})
    climbed = {0: study.ground()}
    for i, size in enumerate(sizes):
        climbed[size] = study.climb(tuple(order[:size]))
        progress(f"weighing the answers of {size} experts", (i + 1) / (len(sizes) + 1))
    ground, top = climbed[0], climbed[sizes[-1]]
    steps = [[ground, top]] + [[ground, climbed[size], top] for size in sizes[:-1]]
    if "verify" in signs:
        sure = {size: study.check(climbed[size]) for size in sizes}
        steps += [[ground, top, sure[sizes[-1]]]]
        steps += [[ground, climbed[size], sure[size], top] for size in sizes[:-1]]
        steps += [[ground, climbed[size], sure[size]] for size in sizes[:1] if len(sizes) > 1]
    trials = [study.ladder(step) for step in steps]
    return max(trials, key=lambda ladder: worth(*curve(ladder.ways), outcomes))


def _signs(outcomes: Outcomes, order: Sequence[int]) -> tuple[str, ...]:
    """What else the table tells of most answers of those members."""
    tables = {name: outcomes.measures.get(name) for name in ("logprob", "verify")}
    return tuple(
        name
        for name, table in tables.items()
        if table is not None and (np.isfinite(table[:, order]).mean(axis=0) >= SPOKEN).all()
    )


def _checking(outcomes: Outcomes) -> Array:
    """What verifying an answer costs, as a multiple of the answer, (e,); 1 where unknown."""
    n, e = outcomes.score.shape
    found = np.ones(e)
    for m in range(e):
        rung_states = verifications(outcomes, np.full(n, m))
        paid = float(outcomes.charges[rung_states.confidence != UNSURE, m].sum())
        if paid > 0:
            found[m] = rung_states.cost.sum() / paid
    return found


def kind_of(outcomes: Outcomes) -> equivalence.Kind | None:
    """How the recorded answers are compared; None if they cannot be.

    Where half are numbers and half are words, as texts: so both can be read.
    """
    if outcomes.answers is None:
        return None
    kinds = [equivalence.guess(row) for row in outcomes.answers[:: max(1, len(outcomes) // 300)]]
    rather: tuple[equivalence.Kind, ...] = (*reversed(equivalence.KEYED), "code", "similar")
    kind = max(rather, key=kinds.count)
    return kind if kind in equivalence.KEYED else None


def line_up(outcomes: Outcomes, prediction: Prediction, kind: equivalence.Kind) -> list[int]:
    """Members in the order in which they are asked (columns).

    Each next one adds most to the quality of a vote weighted by the log-odds of the forecasts,
    less its cost at the price that the zero router pays on its way to the best expert; whether
    asking it pays is decided per query later, so the line ends only where the vote gets worse.
    """
    quality = metrics.mean(outcomes.score)
    cost = metrics.mean(outcomes.charges)
    everyone = Rung(tuple(range(len(outcomes.experts))))
    labels = recorded(Evidence(kind, PRICES), everyone, outcomes).labels
    spoken = (labels >= 0).mean(axis=0)
    able = [
        m for m in range(len(cost)) if spoken[m] >= SPOKEN and cost[m] <= CHEAP * np.nanmax(cost)
    ]
    hull = policies.zero_router(quality, cost)
    span = hull[-1].cost - hull[0].cost
    price = (hull[-1].quality - hull[0].quality) / span if span > 0 else 0.0
    chance = np.clip(prediction.quality, 0.02, 0.98)
    weight = np.log(chance / (1 - chance)) + np.log(4.0)  # a wrong answer has many rivals
    score = np.nan_to_num(outcomes.score)
    order: list[int] = []
    reached = 0.0  # quality of the vote
    while able and len(order) < MEMBERS:
        votes = {m: _vote(labels, weight, score, [*order, m]) for m in able}
        best = max(votes, key=lambda m: votes[m] - price * cost[m])
        if len(order) >= 2 and votes[best] <= reached:
            break
        reached = votes[best]
        order.append(best)
        able.remove(best)
    return order


def _vote(labels: Indices, weight: Array, score: Array, members: list[int]) -> float:
    """Mean score of the answer with the greatest summed weight of its supporters."""
    said, weights = labels[:, members], np.maximum(weight[:, members], 0.05)
    agree = (said[:, :, None] == said[:, None, :]) & (said >= 0)[:, :, None]
    total = (agree * weights[:, None, :]).sum(axis=2)
    winner = np.where(said >= 0, total, -1.0).argmax(axis=1)
    replies = (said >= 0).any(axis=1)
    return float((score[:, members][np.arange(len(said)), winner] * replies).mean())


@dataclass(frozen=True)
class _Study:
    """What every step of the fit needs."""

    outcomes: Outcomes
    prediction: Prediction  # held out
    fold: Folds
    base: Evidence
    option_chances: Array | None  # held out: how likely each option looks
    seed: int

    @cached_property
    def rows(self) -> Recorded:
        return Recorded(self.outcomes, StandIn(self.prediction))

    def ground(self) -> Climbed:
        """The rung where nobody has been asked."""
        nobody = recorded(self.base, Rung(), self.outcomes)
        state = self.base.assess(0, nobody, self.prediction)
        return Climbed(Rung(), state, np.empty((len(self.outcomes), 0)))

    def climb(self, members: tuple[int, ...]) -> Climbed:
        """A rung where these have answered, and how held-out rows stand on it."""
        return self._learn(
            members, recorded(self.base, Rung(members), self.outcomes, self.option_chances)
        )

    def check(self, below: Climbed) -> Climbed:
        """The rung above one, where its likeliest answer has been verified."""
        replies = recorded(self.base, below.rung, self.outcomes, self.option_chances)
        return self._learn(
            below.rung.members, with_verifications(replies, self.outcomes, below.state.best)
        )

    def _learn(self, members: tuple[int, ...], replies: Replies) -> Climbed:
        """A rung's two forests."""
        score, prediction = self.outcomes.score, self.prediction
        lines = candidates(replies, members, prediction)
        right = score[lines.row, np.array(members)[lines.member]]
        said, first = self._held_out(lines.columns, right[:, None], self.fold[lines.row], RIGHT)
        chances = by_member(lines, said[:, 0], replies.labels.shape)
        best, chance = leader(chances, members)
        columns = gain_columns(replies, members, chances, prediction)
        rest = others(members, score.shape[1])
        kept = self._score_of(best)
        further = self._last_word(best, kept)[:, rest] - kept[:, None]
        gained, second = self._held_out(columns, further, self.fold, FURTHER)
        gain = np.full(score.shape, -np.inf)
        gain[:, rest] = gained
        rung = Rung(members, replies.checked is not None, first, second)
        state = RungState(best, chance, gain, None, replies.checked)
        return Climbed(rung, state, leaders(chances))

    def ladder(self, climbed: Sequence[Climbed]) -> Ladder:
        """Learns backwards what climbing on is worth; runs the policy at every price."""
        rungs = [step.rung for step in climbed]
        states = [step.state for step in climbed]
        for r in range(len(climbed) - 2, -1, -1):
            evidence = replace(self.base, rungs=tuple(rungs))
            stays = self._runs(evidence, states, r, r)
            climbs = self._runs(evidence, states, r + 1, len(rungs) - 1)
            prices = self.base.prices
            # What both spend on this rung's members cancels; the toll is charged when deciding.
            toll = np.nan_to_num(self.outcomes.charges[:, new_members(evidence, r + 1)]).sum(axis=1)
            if rungs[r + 1].checked:
                toll = verifications(self.outcomes, states[r].best).cost
            adds = np.column_stack(
                [
                    b.score - a.score - price * (b.cost - a.cost - toll)
                    for a, b, price in zip(stays, climbs, prices, strict=True)
                ]
            )
            columns = onward_columns(climbed[r].leading, states[r].gain, self.prediction)
            worths, forest = self._held_out(columns, np.nan_to_num(adds), self.fold, ONWARD)
            rungs[r] = replace(rungs[r], onward=forest)
            states[r] = states[r]._replace(onward=worths)
        evidence = replace(self.base, rungs=tuple(rungs))
        runs = self._runs(evidence, states, 0, len(rungs) - 1)
        ways = [
            Candidate(
                float(price), run.score, run.cost, self._how(evidence, float(price), run, states)
            )
            for price, run in zip(self.base.prices, runs, strict=True)
        ]
        return Ladder(evidence, ways, states)

    def _runs(
        self, evidence: Evidence, states: Sequence[RungState], low: int, high: int
    ) -> Iterator[Run]:
        """The policy at every price, begun on rung `low` and not climbing past `high`."""
        part = replace(evidence, rungs=evidence.rungs[low : high + 1])
        steps = list(states[low : high + 1])
        if high < len(states) - 1:
            steps[-1] = steps[-1]._replace(onward=None)
        self.rows.cached("states", (part,), lambda: steps)  # held out, where `over` would see all
        router = StandIn(self.prediction, part)
        return (Auto(router, float(price)).over(self.rows) for price in self.base.prices)

    def _held_out(self, x: Array, y: Array, fold: Folds, leaf: float) -> tuple[Array, Forest]:
        """Predictions without the row's own fold, and a forest on every row. Rows of unknown
        target are not learned from."""
        known = np.isfinite(y).all(axis=1)
        out = np.zeros(y.shape)

        def grow(rows: Any) -> Forest:
            least = max(2, round(leaf * len(self.outcomes) ** 0.5))
            return Forest.grow(x[rows], y[rows], trees=TREES, leaf=least, share=0.4, seed=self.seed)

        for k in np.unique(fold):
            out[fold == k] = grow(known & (fold != k)).predict(x[fold == k])
        return out, grow(known)

    def _score_of(self, best: Indices) -> Array:
        """Score of the leading answer, 0 where there is none, (n,)."""
        table = np.nan_to_num(self.outcomes.score)
        return np.where(best == NOBODY, 0.0, table[np.arange(len(best)), best])

    def _last_word(self, best: Indices, kept: Array) -> Array:
        """Score of every expert's answer, or of the best so far where it cannot be read, (n, e)."""
        score, said = self.outcomes.score, self.rows.readable(self.base)
        stands = (best != NOBODY)[:, None] & ~said
        return np.where(stands, kept[:, None], np.where(np.isfinite(score), score, kept[:, None]))

    def _how(
        self, evidence: Evidence, price: float, run: Run, states: Sequence[RungState]
    ) -> PointStrategy:
        experts = self.outcomes.experts
        spec = {"strategy": "auto", "price": price}
        return PointStrategy(spec, words(evidence, experts, run, states), run.shares(experts))


def words(
    evidence: Evidence,
    experts: Sequence[str],
    run: Run,
    states: Sequence[RungState] | None = None,
) -> str:
    """What a policy does, in a sentence; percentages are of all queries.

    `states` of the same rows tell from which chance on an answer is kept (all but a tenth of
    those kept are likelier).
    """
    assert run.rung is not None, "only a strategy that climbs says how far"
    assert run.kept is not None
    said = []
    for r, rung in enumerate(evidence.rungs):
        stop = run.rung == r
        last = run.asked[stop].copy()
        last[:, list(rung.members)] = False
        finals = [
            f"{experts[m]} ({last[:, m].sum() / len(stop):.0%})"
            for m in np.argsort(-last.sum(axis=0))
            if last[:, m].any()
        ]
        ways = [f"ask {_or(finals[:3])}"] if finals else []
        if r and (run.rung >= r).any():
            below = evidence.rungs[r - 1].members
            kept = stop & run.kept
            sure = f"keep the best answer ({kept.mean():.0%}"
            if states is not None and kept.any():
                sure += f", p ≥ {np.quantile(states[r].chance[kept], 0.1):.2f}"
            ways = ([f"{sure})"] if kept.any() else []) + ways
            new = [experts[m] for m in rung.members if m not in below]
            do = "verify the likeliest answer" if rung.checked else f"ask {_and(new)}"
            ways = [f"{do} ({(run.rung >= r).mean():.0%}), then {' or '.join(ways)}"]
        said += ways
    return "; else ".join(said)


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _or(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" or " if len(names) > 1 else "") + names[-1]
