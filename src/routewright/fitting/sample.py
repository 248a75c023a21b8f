"""Further rows for the forests of a ladder, drawn from a model of how experts agree.

A forest on fifty rows is noise. The few parameters of the model in `agreement` are not, and the
model can be asked about any number of queries: a ladder that is grown on its answers beside the
recorded ones weighs agreement as the model does where few rows are recorded, and as the rows do
where there are thousands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from routewright import metrics
from routewright.answers import equivalence
from routewright.answers.evidence import Replies
from routewright.answers.multiple_choice import LETTERS
from routewright.data.outcomes import Outcomes
from routewright.fitting import agreement
from routewright.prediction.predictors import Folds
from routewright.strategies._recorded import answered
from routewright.types import Array, Indices, Prediction

ROWS = 1000
LEAST_INFORMATION = 5.0  # nats that the answers must tell of their scores
OF_ANSWERS = ("logprob", "verify", "verify_cost")  # measures that depend on the answer


class Sample(NamedTuple):
    """k drawn rows, and what they take from recorded ones."""

    labels: Indices  # (k, e) equal for equivalent answers, −1 for unreadable ones
    score: Array  # (k, e) the chance that the answer is right, given those of all experts
    row: Indices  # (k,) the recorded row with the same query
    cell: Indices  # (k, e) a recorded row in which the expert was right, or wrong, likewise
    model: agreement.Agreement | None  # None: no row was drawn
    rng: np.random.Generator

    def best_of(self, members: list[int]) -> float:
        """The mean chance of the likeliest answer of these members."""
        if self.model is None:
            return 0.0
        among = np.isin(np.arange(len(self.model.ability)), members)
        chances = self.model.of(among).chances(self.labels[:, among])
        return float(chances.max(axis=1).mean())

    def outcomes(self, recorded: Outcomes) -> Outcomes:
        """The recorded rows, and the drawn ones below."""
        columns = np.arange(self.cell.shape[1])
        of_answers = dict.fromkeys(OF_ANSWERS, (self.cell, columns))
        drawn = {n: table[of_answers.get(n, self.row)] for n, table in recorded.measures.items()}
        drawn["score"] = self.score
        return replace(
            recorded,
            queries=(*recorded.queries, *(recorded.queries[i] for i in self.row)),
            measures={n: np.vstack([table, drawn[n]]) for n, table in recorded.measures.items()},
            answers=None,
            groups=(),
            splits=(),
        )

    def prediction(self, recorded: Prediction) -> Prediction:
        """The forecasts of the recorded rows, and those of the drawn ones' queries below."""

        def wide(table: Array) -> Array:
            return np.concatenate([table, table[self.row]])

        return replace(
            recorded,
            quality=wide(recorded.quality),
            spread=wide(recorded.spread),
            cost=wide(recorded.cost),
            latency=wide(recorded.latency),
            context=None if recorded.context is None else wide(recorded.context),
        )

    def replies(self, recorded: Replies, kind: equivalence.Kind) -> Replies:
        """The recorded answers of every expert, and the drawn ones below."""
        columns = np.arange(self.cell.shape[1])
        choices = recorded.choices
        drawn_choices = None if choices is None else choices[self.row]
        form = recorded.form[self.cell, columns]
        if kind == "letter":
            form = self._letters(drawn_choices)
        form = np.where(self.labels < 0, -1.0, form)
        logprob = recorded.logprob
        return Replies(
            np.vstack([recorded.labels, self.labels]),
            np.vstack([recorded.form, form]),
            None if choices is None else np.vstack([choices, choices[self.row]]),
            None if logprob is None else np.vstack([logprob, logprob[self.cell, columns]]),
        )

    def _letters(self, choices: Array | None) -> Array:
        """The number of each answer's letter, (k, e). The right letter is drawn with its chance."""
        order = np.argsort(self.rng.random((len(self.labels), LETTERS)), axis=1)
        if choices is not None:
            bound = np.nan_to_num(choices).cumsum(axis=1)
            at = (self.rng.random((len(bound), 1)) * bound[:, -1:] >= bound).sum(axis=1)
            right = np.minimum(at, LETTERS - 1)[:, None]
            order = np.concatenate([right, order[order != right].reshape(len(order), -1)], axis=1)
        return np.take_along_axis(order, np.clip(self.labels, 0, LETTERS - 1), 1).astype(np.float64)

    def fold(self, recorded: Folds) -> Folds:
        """The folds of the recorded rows, and random ones below."""
        return np.concatenate([recorded, self.rng.choice(np.unique(recorded), len(self.row))])


def draw(
    outcomes: Outcomes, labels: Indices, *, rows: int = ROWS, exact: bool = True, seed: int = 0
) -> Sample:
    """So many rows; none if the recorded scores contradict the model, where agreement says nothing
    of who is right. `labels` (n, e) are those of the recorded answers.

    Where more is known of an answer than who agrees with it (not `exact`, or further measures), a
    score is drawn as well: what else is known belongs to an answer of that score.
    """
    rng = np.random.default_rng(seed)
    if not rows:
        return nothing(labels.shape[1], rng)
    available = answered(outcomes)
    score = np.where(available, outcomes.score, np.nan)
    model = agreement.fit(labels, score, seed=seed)
    model = model.with_quality(metrics.shrunk(score, metrics.mean(outcomes.charges)))
    if model.information(labels, score) <= LEAST_INFORMATION:
        return nothing(labels.shape[1], rng)
    right, drawn_labels = model.draw(rows, rng)
    was_right = available & (np.nan_to_num(score) >= 0.5)
    was_wrong = available & ~was_right
    row = rng.integers(len(outcomes), size=rows)
    cell = np.repeat(row[:, None], labels.shape[1], axis=1)
    silence = np.zeros((2, labels.shape[1]))
    for k, mask in enumerate((was_wrong, was_right)):
        silence[k] = ((labels < 0) & mask).sum(axis=0) / np.maximum(mask.sum(axis=0), 1)
        for m in range(labels.shape[1]):
            if mask[:, m].any():
                like = right[:, m] == bool(k)
                cell[like, m] = rng.choice(np.flatnonzero(mask[:, m]), like.sum())
    silent = rng.random(right.shape) < np.where(right, silence[1], silence[0])
    drawn_labels = np.where(silent, -1, drawn_labels)
    scores = right.astype(np.float64)
    if exact and not any(name in outcomes.measures for name in OF_ANSWERS):
        # An expert whose right answers are unreadable says nothing of the others by its silence.
        asked = silence[1] < 0.5
        chances = model.of(asked).chances(drawn_labels[:, asked])
        scores[:, asked] = np.where(silent[:, asked], scores[:, asked], chances)
    return Sample(drawn_labels, scores, row, cell, model, rng)


def nothing(experts: int, rng: np.random.Generator) -> Sample:
    """No rows."""
    empty = np.empty((0, experts), np.intp)
    return Sample(empty, np.empty(empty.shape), empty[:, 0], empty, None, rng)
