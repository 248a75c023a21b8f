"""Weighs the answers of a committee: which one is right, and what further asks would add.

Experts are asked rung by rung. After each rung, two forests that were grown on recorded outcomes
predict from the agreement between answers, the chances of multiple-choice options,
log-probabilities and verifications if there are any, and the forecasts from the prompt. The first
predicts how likely each answer is right, the second how much each expert not yet asked would add to
the best answer. A third forest predicts the value of climbing at every price of quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, Field, StrictBool, StrictInt

from routewright.answers import equivalence, reading
from routewright.answers.claims import claims, result_of
from routewright.answers.multiple_choice import LETTERS, Choices
from routewright.answers.reading import Reading
from routewright.errors import BadRouter
from routewright.prediction.forest import Forest
from routewright.prediction.stored import Arrays, under
from routewright.types import Array, Indices, Prediction, Query

NOBODY = -1
LEADERS = 3  # best chances among the inputs of the second forest
CLIP = 1e-3  # forecasts are limited to this and 1 minus this before their log-odds are taken
MOST_RUNGS, MOST_VERDICTS = 64, 100  # of a stored ladder, and per verification
UNSURE = -1.0  # stands for an unknown confidence
NO_OPTION_CHANCE = -9.0  # stands for an unknown log-chance of an option
NO_LOGPROB = 1.0  # stands for an unknown log-probability; known ones are below 0


class Replies(NamedTuple):
    """The answers of a committee to n queries, and the verification of one answer."""

    labels: Indices  # (n, s) equal for equivalent answers, −1 for unreadable ones
    form: Array  # (n, s) the number of a letter, the log-length of other texts; −1 if unreadable
    choices: Array | None = None  # (n, LETTERS) chance of each option; None: not used
    logprob: Array | None = None  # (n, s) mean over an answer's tokens, nats; None: not used
    checked: Indices | None = None  # (n,) expert whose answer was verified, or NOBODY; None: none
    confidence: Array | None = None  # (n,) of that verification, 0..1, or UNSURE
    readings: Array | None = None  # (n, s, r) what the texts say by themselves; None: not used


class Candidates(NamedTuple):
    """Distinct answers to n queries: one line each, under the first expert that gave it."""

    row: Indices  # (k,) the query
    member: Indices  # (k,) the member of the committee
    columns: Array  # (k, c) inputs of the first forest


class RungState(NamedTuple):
    """The state of n queries after a rung."""

    best: Indices  # (n,) the expert with the likeliest answer; NOBODY where none is readable
    chance: Array  # (n,) that this answer is right; 0 where there is none
    gain: Array  # (n, e) in quality, from asking one more expert and keeping its answer
    onward: Array | None  # (n, prices) value of climbing: quality − λ cost of what follows
    checked: Indices | None = None  # (n,) expert whose answer was verified before this rung


@dataclass(frozen=True)
class Rung:
    """All experts asked so far, and the forests fitted for that committee.

    A `checked` rung asks no further expert: the expert that gave the likeliest answer on the rung
    below verifies it. On a `plain` rung nothing is fitted for the committee: an answer is as likely
    right as it says by itself, and a further expert adds its forecast less that.
    """

    members: tuple[int, ...] = ()  # columns of the router's experts, in the order of asking
    checked: bool = False
    plain: bool = False
    candidates: Forest | None = None
    gains: Forest | None = None
    onward: Forest | None = None

    def forests(self) -> dict[str, Forest]:
        fields = {n: getattr(self, n) for n in ("candidates", "gains", "onward")}
        return {name: forest for name, forest in fields.items() if forest is not None}


@dataclass(frozen=True)
class Evidence:
    """A ladder of committees; on its first rung no expert has been asked yet.

    `kind` is how answers are compared (see `equivalence`). `prices` (quality per US$) are the
    prices at which the value of climbing is predicted; between them it is interpolated. `choices`
    predicts the chance of each option of a question, and `reading` that an answer in prose or code
    is right, by its text alone. With `claims`, a chat answer is
    read as the short text that it claims ("It is **Berlin**." as "Berlin"), as the table's answers
    were. With `logprobs`, the experts are asked for
    log-probabilities. `checking` (e,) is the cost of verifying an answer, as a multiple of the
    answer's cost, and `verdicts` the number of verdicts drawn for it.
    """

    kind: equivalence.Kind
    prices: Array
    rungs: tuple[Rung, ...] = field(default=(Rung(),))
    choices: Choices | None = None
    logprobs: bool = False
    checking: Array = field(default_factory=lambda: np.ones(1))
    verdicts: int = 1
    reading: Reading | None = None
    claims: bool = False

    def option_chances(self, queries: Sequence[Query]) -> Array | None:
        """The chance of each listed option, (n, LETTERS); None if the evidence does not use it."""
        return None if self.choices is None else self.choices.predict(queries)

    def graded_parts(
        self, queries: Sequence[Query], answers: np.ndarray[Any, np.dtype[Any]]
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """The parts of answers (n, s), str or None, that a table records; see `claims`."""
        return claimed_parts(queries, answers) if self.claims else answers

    def log_odds(
        self,
        queries: Sequence[Query],
        answers: np.ndarray[Any, np.dtype[Any]],
        members: Sequence[int],
    ) -> Array | None:
        """What the answers (n, members) say by themselves, (n, members) of log-odds;
        None if the evidence does not use it."""
        return None if self.reading is None else self.reading.log_odds(queries, answers, members)

    def read(
        self,
        answers: np.ndarray[Any, np.dtype[Any]],
        choices: Array | None = None,
        logprobs: Array | None = None,
        log_odds: Array | None = None,
    ) -> Replies:
        """Reads answers (n, members), str or None, with the chances of each option (n, LETTERS),
        mean log-probabilities (n, members), NaN where unknown, and the `log_odds` of the answers by
        themselves (n, members)."""
        if self.kind not in equivalence.KEYED:
            return self._read_texts(answers, logprobs, log_odds)
        labels = equivalence.labels(self.kind, answers)
        forms = {text: self._form(text) for text in set(answers.ravel().tolist())}
        flat = [forms[text] for text in answers.ravel().tolist()]
        form = np.where(labels < 0, -1.0, np.array(flat, np.float64).reshape(answers.shape))
        return Replies(labels, form, choices, self._logprob(labels, logprobs))

    def _read_texts(
        self,
        answers: np.ndarray[Any, np.dtype[Any]],
        logprobs: Array | None,
        log_odds: Array | None,
    ) -> Replies:
        """Reads answers in prose or code: each is a candidate, unless another member gave it."""
        labels = reading.labels(answers)
        lengths = [np.log1p(len(text or "")) for text in answers.ravel().tolist()]
        form = np.where(labels < 0, -1.0, np.array(lengths, np.float64).reshape(labels.shape))
        if log_odds is None:
            return Replies(labels, form, None, self._logprob(labels, logprobs))
        readings = np.concatenate([log_odds[..., None], reading.likeness(answers)], axis=2)
        return Replies(labels, form, None, self._logprob(labels, logprobs), readings=readings)

    def _logprob(self, labels: Indices, logprobs: Array | None) -> Array | None:
        if not self.logprobs:
            return None
        known_logprobs = np.full(labels.shape, np.nan) if logprobs is None else logprobs
        return np.nan_to_num(known_logprobs, nan=NO_LOGPROB)

    def _form(self, text: str | None) -> float:
        key = equivalence.key(self.kind, text)
        if isinstance(key, str) and self.kind == "letter":
            return float(ord(key[0]) - ord("A"))
        return float(np.log1p(len(text or "")))

    def readable(self, text: str) -> bool:
        if self.kind not in equivalence.KEYED:
            return bool(text and not text.isspace())
        return equivalence.key(self.kind, text) is not None

    def assess(self, rung: int, replies: Replies, prediction: Prediction) -> RungState:
        """The state of n queries after the members of a rung have answered."""
        step = self.rungs[rung]
        if step.plain:
            return self._assess_plain(step, replies, prediction)
        if step.candidates is None or step.gains is None:
            best = np.full(len(prediction.quality), NOBODY)
            start = RungState(best, np.zeros(len(best)), prediction.quality, None)
            return with_onward(start, step, prediction, np.empty((len(best), 0)))
        lines = candidates(replies, step.members, prediction)
        chance_of_line = step.candidates.predict(lines.columns).ravel()
        chances = by_member(lines, chance_of_line, replies.labels.shape)
        columns = gain_columns(replies, step.members, chances, prediction)
        gain = np.full(prediction.quality.shape, -np.inf)
        gain[:, others(step.members, len(prediction.experts))] = step.gains.predict(columns)
        gain[prediction.quality < 0] = -np.inf  # an expert without any score
        best, chance = leader(chances, step.members)
        state = RungState(best, chance, gain, None, replies.checked)
        return with_onward(state, step, prediction, leaders(chances))

    def _assess_plain(self, step: Rung, replies: Replies, prediction: Prediction) -> RungState:
        assert replies.readings is not None, "a plain rung belongs to a reading of answers"
        chances = reading.chance(replies.readings[:, :, 0])
        chances = np.where(replies.labels < 0, -1.0, chances)
        best, chance = leader(chances, step.members)
        gain = np.where(prediction.quality < 0, -np.inf, prediction.quality - chance[:, None])
        gain[:, list(step.members)] = -np.inf
        state = RungState(best, chance, gain, None, replies.checked)
        return with_onward(state, step, prediction, leaders(chances))

    def value_of_climbing(self, state: RungState, price: float) -> Array:
        """The value that climbing adds to the best choice on this rung, quality − λ cost, (n,)."""
        assert state.onward is not None
        price = float(np.clip(price, self.prices[0], self.prices[-1]))
        above = int(np.clip(np.searchsorted(self.prices, price), 1, len(self.prices) - 1))
        low, high = self.prices[above - 1], self.prices[above]
        share = (price - low) / (high - low)
        table = state.onward
        return np.asarray((1 - share) * table[:, above - 1] + share * table[:, above])

    def check(self, prediction: Prediction, queries: Sequence[Query]) -> None:
        """Weighs an answer to the queries on every rung. Raises BadRouter, or what NumPy raises, if
        the forests are not of this committee."""
        chances = self.option_chances(queries)
        for r, rung in enumerate(self.rungs):
            answers = np.full((len(queries), len(rung.members)), "B", dtype=object)
            replies = self.read(
                answers, chances, log_odds=self.log_odds(queries, answers, rung.members)
            )
            if rung.checked:
                checked = np.full(len(queries), rung.members[0])
                replies = replies._replace(checked=checked, confidence=np.ones(len(queries)))
            state = self.assess(r, replies, prediction)
            if state.gain.shape != prediction.quality.shape:
                raise BadRouter(f"rung {r} of the evidence is of other experts")

    # --- storing ---------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "choices": None if self.choices is None else self.choices.forest.depth,
            "logprobs": self.logprobs,
            "verdicts": self.verdicts,
            **({} if self.reading is None else {"reading": self.reading.options()}),
            **({"claims": True} if self.claims else {}),
            "rungs": [
                {
                    "members": list(rung.members),
                    "checked": rung.checked,
                    **({"plain": True} if rung.plain else {}),
                    "depths": {name: forest.depth for name, forest in rung.forests().items()},
                }
                for rung in self.rungs
            ],
        }

    def arrays(self) -> dict[str, Any]:
        nodes = {
            f"{r}.{name}.{key}": array
            for r, rung in enumerate(self.rungs)
            for name, forest in rung.forests().items()
            for key, array in forest.nodes.items()
        }
        if self.choices is not None:
            nodes |= {f"choices.{k}": array for k, array in self.choices.forest.nodes.items()}
            nodes["choices.style"] = self.choices.style
        if self.reading is not None:
            nodes |= {f"reading.{k}": array for k, array in self.reading.arrays().items()}
        return {"prices": self.prices, "checking": self.checking, **nodes}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any], experts: int) -> Self:
        """The stored evidence about so many experts. Raises BadRouter."""
        stored = StoredEvidence.model_validate(options)
        part = Arrays("the evidence", arrays)
        prices = part.take("prices", "prices", least=0.0)
        checking = np.ones(1)
        if "checking" in arrays:
            checking = part.take("checking", "checking", least=0.0)
        if len(prices) < 2 or not (np.diff(prices) > 0).all():
            raise BadRouter("the prices of the evidence must be two or more, in ascending order")
        if len(checking) not in (1, experts):
            raise BadRouter("the evidence needs one cost of checking, or one per expert")
        rungs: list[Rung] = []
        for r, rung in enumerate(stored.rungs):
            below = rungs[-1].members if rungs else ()
            _check_members(rung, below, experts)
            outputs = {"gains": experts - len(rung.members), "onward": len(prices)}
            forests = {
                name: Forest.load(
                    depth, under(arrays, f"{r}.{name}."), outputs=outputs.get(name, 1)
                )
                for name, depth in rung.depths.items()
            }
            rungs.append(Rung(rung.members, rung.checked, rung.plain, **forests))
            if rung.plain and (stored.reading is None or not rung.members):
                raise BadRouter("a plain rung of the evidence needs members and their reading")
        if rungs[-1].onward is not None:
            raise BadRouter("the last rung of the evidence climbs to none")
        choices = None
        if stored.choices is not None:
            choices = Choices.load(stored.choices, under(arrays, "choices."))
        texts = None
        if stored.reading is not None:
            texts = Reading.load(stored.reading, under(arrays, "reading."), experts)
        return cls(
            stored.kind,
            prices,
            tuple(rungs),
            choices=choices,
            logprobs=stored.logprobs,
            checking=checking,
            verdicts=stored.verdicts,
            reading=texts,
            claims=stored.claims,
        )


class StoredRung(BaseModel):
    """A rung in router.json, with the depths of its forests."""

    members: tuple[StrictInt, ...]
    checked: StrictBool = False
    plain: StrictBool = False
    depths: dict[Literal["candidates", "gains", "onward"], StrictInt] = {}


class StoredEvidence(BaseModel):
    """The evidence in router.json."""

    kind: equivalence.Kind
    choices: StrictInt | None = None  # the depth of the forest
    logprobs: StrictBool = False
    reading: dict[str, Any] | None = None  # options of the lexical encoder
    claims: StrictBool = False
    verdicts: Annotated[StrictInt, Field(ge=1, le=MOST_VERDICTS)] = 1
    rungs: Annotated[list[StoredRung], Field(min_length=1, max_length=MOST_RUNGS)]


def _check_members(rung: StoredRung, below: tuple[int, ...], experts: int) -> None:
    """Raises BadRouter unless a rung has the members below it, and experts of the router."""
    members = set(rung.members)
    if len(members) != len(rung.members) or not members <= set(range(experts)):
        raise BadRouter(f"a rung of the evidence must name each expert by a number below {experts}")
    if not members >= set(below) or (rung.checked and (not members or members != set(below))):
        raise BadRouter("a rung of the evidence must have the members of the rung below it")


def claimed(text: str, question: str) -> str:
    """The last thing that a chat answer claims (see `claims`), without words that only take up the
    question; a short text is itself.

    >>> claimed("The capital is **Berlin**.", "What is the capital?"), claimed("It is Berlin.", "")
    ('Berlin', 'Berlin.')
    """
    if len(text.split()) > equivalence.FEW_WORDS or "**" in text:
        parts = claims(text, question)
        text = parts[-1].text if parts else text
    return result_of(text, question)


def claimed_parts(
    queries: Sequence[Query], answers: np.ndarray[Any, np.dtype[Any]]
) -> np.ndarray[Any, np.dtype[Any]]:
    """What answers (n, s), str or None, claim."""
    parts = [
        [text and claimed(text, query.text) for text in row]
        for query, row in zip(queries, answers.tolist(), strict=True)
    ]
    return np.array(parts, dtype=object).reshape(answers.shape)


# --- inputs of the forests -----------------------------------------------------------------


def others(members: Sequence[int], count: int) -> list[int]:
    """The experts that are not members."""
    return [m for m in range(count) if m not in members]


def candidates(replies: Replies, members: Sequence[int], prediction: Prediction) -> Candidates:
    """One line per distinct answer: its supporters, its rivals, its form, and the forecasts."""
    labels = replies.labels
    agree = _agreement(labels)  # (n, s, s)
    first = (labels >= 0) & ~np.tril(agree, -1).any(axis=2)
    size = agree.sum(axis=2)  # (n, s)
    row, member = np.nonzero(first)
    ranked = np.sort(np.where(first, size, 0), axis=1)[:, ::-1]
    second = ranked[:, 1] if labels.shape[1] > 1 else np.zeros(len(labels))
    own_size = size[row, member]
    rival = np.where(own_size == ranked[row, 0], second[row], ranked[row, 0])
    odds = _log_odds(prediction.quality)
    supporters = agree[row, member]
    columns = [
        own_size,
        rival,
        first.sum(axis=1)[row],
        (labels < 0).sum(axis=1)[row],
        np.where(labels[row] < 0, -1.0, supporters),
        (odds[row][:, list(members)] * supporters).sum(axis=1),
        replies.form[row, member],
        odds[row],
        _context(prediction)[row],
        *_signals(replies, members, row, supporters, member),
    ]
    return Candidates(row, member, np.column_stack(columns).astype(np.float64))


def by_member(lines: Candidates, chance_of_line: Array, shape: tuple[int, ...]) -> Array:
    """Chances per candidate ▶ (n, members), −1 for unreadable and repeated answers."""
    table = np.full(shape, -1.0)
    table[lines.row, lines.member] = np.clip(chance_of_line, 0.0, 1.0)
    return table


def leader(chances: Array, members: Sequence[int]) -> tuple[Indices, Array]:
    """The expert with the likeliest answer and the chance that it is right, (n,) each."""
    place, chance = chances.argmax(axis=1), chances.max(axis=1)
    best = np.where(chance >= 0, np.array(members)[place], NOBODY)
    return best, np.maximum(chance, 0.0)


def leaders(chances: Array) -> Array:
    """The best chances of a query, (n, LEADERS), −1 where there are fewer answers."""
    ranked = np.sort(chances, axis=1)[:, ::-1][:, :LEADERS]
    missing = LEADERS - ranked.shape[1]
    return np.pad(ranked, ((0, 0), (0, missing)), constant_values=-1.0)


def gain_columns(
    replies: Replies, members: Sequence[int], chances: Array, prediction: Prediction
) -> Array:
    """Inputs of the second forest, (n, c): the best chances and the supporters of the best."""
    labels = replies.labels
    rows, best = np.arange(len(labels)), chances.argmax(axis=1)
    supporters = _agreement(labels)[rows, best]
    return np.column_stack(
        [
            leaders(chances),
            (chances >= 0).sum(axis=1),
            (labels < 0).sum(axis=1),
            np.where(labels < 0, -1.0, supporters),
            _log_odds(prediction.quality),
            _context(prediction),
            *_signals(replies, members, rows, supporters, best),
        ]
    )


def _signals(
    replies: Replies,
    members: Sequence[int],
    row: Indices,
    supporters: np.ndarray[Any, np.dtype[np.bool_]],
    member: Indices,
) -> list[Array]:
    """Further inputs about k answers, each to a query (`row`) and first given by `member` (places
    in the committee): the chance of its option, log-probabilities and a verification, as far as
    the replies have them."""
    columns: list[Array] = []
    if replies.choices is not None:
        chances = replies.choices[row]
        place = replies.form[row, member].astype(np.intp)
        own_chance = chances[np.arange(len(row)), np.clip(place, 0, LETTERS - 1)]
        own_chance = np.where((place >= 0) & (place < LETTERS), own_chance, np.nan)
        best = chances.max(axis=1)
        entropy = -(chances * np.log(np.maximum(chances, 1e-9))).sum(axis=1)
        logs = [np.log(np.maximum(chance, 1e-3)) for chance in (own_chance, best)]
        option_chances = [logs[0], logs[1] - logs[0], logs[1], entropy]
        columns += [np.nan_to_num(column, nan=NO_OPTION_CHANCE) for column in option_chances]
    if replies.logprob is not None:
        logprob = replies.logprob[row]
        highest_of_supporters = np.where(supporters & (logprob <= 0), logprob, -np.inf).max(axis=1)
        columns += [
            logprob,
            logprob[np.arange(len(row)), member],
            np.maximum(highest_of_supporters, -99.0),
        ]
    if replies.readings is not None:
        readings = replies.readings[row]
        log_odds = readings[:, :, 0]
        rivals = np.where(supporters, -np.inf, log_odds)
        columns += [
            *readings[np.arange(len(row)), member].T,
            np.maximum(rivals.max(axis=1), -reading.FOREMOST),
            log_odds,
        ]
    if replies.checked is not None and replies.confidence is not None:
        checked, confidence = replies.checked[row], replies.confidence[row]
        of_checked = (supporters & (np.array(members) == checked[:, None])).any(axis=1)
        own = np.where(of_checked, confidence, UNSURE)
        columns += [confidence, own, of_checked.astype(np.float64), checked.astype(np.float64)]
    return columns


def onward_columns(leading: Array, gain: Array, prediction: Prediction) -> Array:
    """Inputs of the third forest, (n, c)."""
    return np.column_stack([leading, np.where(np.isfinite(gain), gain, 0.0), prediction.cost])


def with_onward(state: RungState, rung: Rung, prediction: Prediction, leading: Array) -> RungState:
    if rung.onward is None:
        return state
    columns = onward_columns(leading, state.gain, prediction)
    return state._replace(onward=rung.onward.predict(columns))


def _agreement(labels: Indices) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n, s, s): whether two members agree. A member without a readable answer agrees with none."""
    equal: np.ndarray[Any, np.dtype[np.bool_]] = labels[:, :, None] == labels[:, None, :]
    return equal & (labels >= 0)[:, :, None]


def _log_odds(chance: Array) -> Array:
    inside = np.clip(chance, CLIP, 1 - CLIP)
    return np.asarray(np.log(inside / (1 - inside)))


def _context(prediction: Prediction) -> Array:
    nothing = np.empty((len(prediction.quality), 0))
    return nothing if prediction.context is None else prediction.context
