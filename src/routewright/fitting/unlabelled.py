"""Expected scores for a table with answers and few labels, or none.

Agreement says which experts are right more often than others, and which answers are likelier. It
cannot say how good the best one is: an expert that is right where all others are wrong looks like
one that is wrong alone. So the most expensive expert is taken for the best until labels say
otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routewright import metrics
from routewright.answers import equivalence
from routewright.answers.evidence import claimed_parts
from routewright.data.outcomes import Outcomes
from routewright.fitting import agreement
from routewright.fitting.ladder import kind_of
from routewright.types import Indices

EXPERTS = 3  # that agreement needs without labels: of two, nobody says who is right
RARELY = 0.1  # share of rows with two answers that agree, below which agreement says little
LABELS = 20  # scored rows from which only they count
# Without labels, hard queries and popular mistakes cannot be told from each other: the model that
# weighs a vote takes both for rarer than they are.
PRIOR = agreement.Prior(
    ability=agreement.Normal(0.5, 1.0),
    difficulty=agreement.Normal(0.0, 0.02),
    scatter=agreement.Normal(float(np.log(6.0)), 0.02),
)
ADVANTAGE = 1.5  # log-odds by which the most expensive expert is taken to be better than the others
LABELS_AGAINST = 5  # of its scores halve that


def expected(outcomes: Outcomes, seed: int = 0) -> tuple[Outcomes, str | None]:
    """The table with the expected score of every answer, and a sentence that says what that rests
    on; the table itself and None if enough rows are scored, or if answers cannot be compared."""
    labelled = np.isfinite(outcomes.score).any(axis=1).sum()
    if labelled >= LABELS or len(outcomes.experts) < (2 if labelled else EXPERTS):
        return outcomes, None
    table, outcomes = outcomes, _with_claims(outcomes)
    kind = kind_of(outcomes)
    if kind is None or outcomes.answers is None:
        return table, None
    labels = equivalence.labels(kind, outcomes.answers)
    asked = np.array(outcomes.answers, dtype=bool)
    compared = asked.sum(axis=1) > 1
    if compared.sum() < LABELS:
        return table, None
    model = agreement.fit(labels, outcomes.score, asked, prior=PRIOR, seed=seed)
    best, reason = int(model.ability.argmax()), "it agrees most with the others"
    cost = np.nan_to_num(metrics.mean(outcomes.cost))
    if cost.max() > cost.min():
        best, reason = int(cost.argmax()), "it is the most expensive"
        against = np.isfinite(outcomes.score[:, best]).sum() / LABELS_AGAINST
        ability = model.ability.copy()
        least = np.delete(ability, best).max() + ADVANTAGE / (1 + against)
        ability[best] = max(ability[best], least)
        model = replace(model, ability=ability)
    scores = np.where(asked, model.scores(labels, outcomes.score, asked), np.nan)
    scores = np.where(np.isfinite(outcomes.score), outcomes.score, scores)
    count = "no row is scored" if not labelled else f"only {labelled} rows are scored"
    share = _agreeing(labels[compared])
    doubt = (
        f"; in only {100 * share:.0f} % of the rows do any two answers agree, so these qualities"
        " mean little: ask for short answers, or score rows"
        if share < RARELY
        else ""
    )
    return (
        replace(outcomes, measures={**outcomes.measures, "score": scores}),
        f"{count}, so qualities are those that follow from agreement between answers if"
        f" {outcomes.experts[best]} is the best expert ({reason}); score at least {LABELS} rows to"
        f" prove them{doubt}",
    )


def _with_claims(outcomes: Outcomes) -> Outcomes:
    """The table with what its answers claim, if that is short: as `Evidence.claims` reads them."""
    kind = kind_of(outcomes)
    if outcomes.answers is None or (kind in equivalence.KEYED and kind != "text"):
        return outcomes
    parts = replace(outcomes, answers=claimed_parts(outcomes.queries, outcomes.answers))
    return parts if kind_of(parts) == "text" else outcomes


def _agreeing(labels: Indices) -> float:
    """The share of rows with two equal labels."""
    ordered = np.sort(labels, axis=1)
    equal = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    return float(equal.any(axis=1).mean())
