"""What the answers of a committee tell: which of them is right, and what asking further would add.

Experts are asked rung by rung. After each rung two forests, grown on recorded outcomes, look at
who agrees with whom, at how the options of multiple choice look, at log-probabilities and
verifications where there are any, and at the forecasts from the prompt: one says how likely each
answer is right, the other how much each expert not yet asked would add to the best of them. A third
says what climbing to the next rung is worth at every price of quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from routewright.answers import equivalence
from routewright.answers.multiple_choice import LETTERS, Choices
from routewright.prediction.forest import Forest
from routewright.types import Array, Indices, Prediction, Query

NOBODY = -1
LEADERS = 3  # best chances that the second forest sees
CLIP = 1e-3  # forecasts this close to 0 or 1 are drawn back before their log-odds are taken
UNSURE = -1.0  # where no confidence is known
NO_OPTION_CHANCE = -9.0  # where nothing is known of how options look
NO_LOGPROB = 1.0  # where no log-probability is known; those that are known lie below 0


class Replies(NamedTuple):
    """The answers of a committee to n queries, and the verification of one answer."""

    labels: Indices  # (n, s) equal where they say the same, −1 where an answer cannot be read
    form: Array  # (n, s) which option a letter is, how long anything else; −1 likewise
    choices: Array | None = None  # (n, LETTERS) how likely each option looks; None: not looked at
    logprob: Array | None = None  # (n, s) mean over an answer's tokens, nats; None: not looked at
    checked: Indices | None = None  # (n,) whose answer was verified; NOBODY; None: nobody's ever
    confidence: Array | None = None  # (n,) the verifier's confidence in it, 0..1; UNSURE


class Candidates(NamedTuple):
    """Distinct answers to n queries: one line each, at the first expert who gave it."""

    row: Indices  # (k,) which query
    member: Indices  # (k,) which member of the committee
    columns: Array  # (k, c) what the first forest sees


class RungState(NamedTuple):
    """The state of n queries after a rung."""

    best: Indices  # (n,) whose answer is the likeliest to be right; NOBODY where none can be read
    chance: Array  # (n,) that it is right; 0 where there is none
    gain: Array  # (n, e) in quality of asking one expert more and keeping its answer
    onward: Array | None  # (n, prices) in quality less λ cost of what follows, of climbing on
    checked: Indices | None = None  # (n,) whose answer was verified on the way to this rung


@dataclass(frozen=True)
class Rung:
    """Everyone asked by now, and what was learned about how such answers turn out.

    A `checked` rung asks nobody more than the one below: who gave the likeliest answer there
    verifies it.
    """

    members: tuple[int, ...] = ()  # columns of the router's experts, in the order of asking
    checked: bool = False
    candidates: Forest | None = None
    gains: Forest | None = None
    onward: Forest | None = None

    def forests(self) -> dict[str, Forest]:
        known = {n: getattr(self, n) for n in ("candidates", "gains", "onward")}
        return {name: forest for name, forest in known.items() if forest is not None}


@dataclass(frozen=True)
class Evidence:
    """A ladder of committees, the first rung being to ask nobody yet.

    `kind` says how answers are compared (see `equivalence`), `prices` (quality per US$) at which
    prices the worth of climbing on is known; between them it is interpolated. `choices` tells which
    of a question's options looks right. `logprobs`: the experts are asked for log-probabilities,
    which are looked at. `checking` (e,) is what verifying an answer costs, as a multiple of the
    answer, and `verdicts` how many are drawn for it.
    """

    kind: equivalence.Kind
    prices: Array
    rungs: tuple[Rung, ...] = field(default=(Rung(),))
    choices: Choices | None = None
    logprobs: bool = False
    checking: Array = field(default_factory=lambda: np.ones(1))
    verdicts: int = 1

    def option_chances(self, queries: Sequence[Query]) -> Array | None:
        """How likely each listed option looks, (n, LETTERS); None where that is not looked at."""
        return None if self.choices is None else self.choices.predict(queries)

    def read(
        self,
        answers: np.ndarray[Any, np.dtype[Any]],
        choices: Array | None = None,
        logprobs: Array | None = None,
    ) -> Replies:
        """Reads answers (n, members), str or None, with the chances of each option (n, LETTERS) and
        mean log-probabilities (n, members), NaN where unknown."""
        labels = equivalence.labels(self.kind, answers)
        forms = {text: self._form(text) for text in set(answers.ravel().tolist())}
        flat = [forms[text] for text in answers.ravel().tolist()]
        form = np.where(labels < 0, -1.0, np.array(flat, np.float64).reshape(answers.shape))
        if not self.logprobs:
            return Replies(labels, form, choices)
        known = np.full(labels.shape, np.nan) if logprobs is None else logprobs
        return Replies(labels, form, choices, np.nan_to_num(known, nan=NO_LOGPROB))

    def _form(self, text: str | None) -> float:
        key = equivalence.key(self.kind, text)
        if isinstance(key, str) and self.kind == "letter":
            return float(ord(key[0]) - ord("A"))
        return float(np.log1p(len(text or "")))

    def readable(self, text: str) -> bool:
        return equivalence.key(self.kind, text) is not None

    def assess(self, rung: int, replies: Replies, prediction: Prediction) -> RungState:
        """The state of n queries once the members of a rung have answered."""
        here = self.rungs[rung]
        if here.candidates is None or here.gains is None:
            best = np.full(len(prediction.quality), NOBODY)
            start = RungState(best, np.zeros(len(best)), prediction.quality, None)
            return with_onward(start, here, prediction, np.empty((len(best), 0)))
        lines = candidates(replies, here.members, prediction)
        said = here.candidates.predict(lines.columns).ravel()
        chances = spread_out(lines, said, replies.labels.shape)
        columns = gain_columns(replies, here.members, chances, prediction)
        gain = np.full(prediction.quality.shape, -np.inf)
        gain[:, others(here.members, len(prediction.experts))] = here.gains.predict(columns)
        gain[prediction.quality < 0] = -np.inf  # an expert that was never scored
        best, chance = leader(chances, here.members)
        state = RungState(best, chance, gain, None, replies.checked)
        return with_onward(state, here, prediction, leaders(chances))

    def value_of_climbing(self, state: RungState, price: float) -> Array:
        """(n,) quality less λ cost that climbing on adds to what is best here, at a price."""
        assert state.onward is not None
        price = float(np.clip(price, self.prices[0], self.prices[-1]))
        above = int(np.clip(np.searchsorted(self.prices, price), 1, len(self.prices) - 1))
        low, high = self.prices[above - 1], self.prices[above]
        share = (price - low) / (high - low)
        table = state.onward
        return np.asarray((1 - share) * table[:, above - 1] + share * table[:, above])

    # --- storing ---------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "choices": None if self.choices is None else self.choices.forest.depth,
            "logprobs": self.logprobs,
            "verdicts": self.verdicts,
            "rungs": [
                {
                    "members": list(rung.members),
                    "checked": rung.checked,
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
        return {"prices": self.prices, "checking": self.checking, **nodes}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        rungs = []
        for r, stored in enumerate(options["rungs"]):
            forests = {
                name: Forest(int(depth), _under(arrays, f"{r}.{name}."))
                for name, depth in stored["depths"].items()
            }
            members = tuple(int(m) for m in stored["members"])
            rungs.append(Rung(members, stored.get("checked", False), **forests))
        depth = options.get("choices")
        read = None
        if depth is not None:
            nodes = _under(arrays, "choices.")
            read = Choices(nodes.pop("style"), Forest(int(depth), nodes))
        return cls(
            options["kind"],
            arrays["prices"],
            tuple(rungs),
            choices=read,
            logprobs=options.get("logprobs", False),
            checking=arrays.get("checking", np.ones(1)),
            verdicts=options.get("verdicts", 1),
        )


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


# --- what the forests see ------------------------------------------------------------------


def others(members: Sequence[int], count: int) -> list[int]:
    """The experts who are not members."""
    return [m for m in range(count) if m not in members]


def candidates(replies: Replies, members: Sequence[int], prediction: Prediction) -> Candidates:
    """One line per distinct answer: its support, its rivals, its form, and the forecasts."""
    labels = replies.labels
    agree = _agreement(labels)  # (n, s, s)
    first = (labels >= 0) & ~np.tril(agree, -1).any(axis=2)
    size = agree.sum(axis=2)  # (n, s)
    row, member = np.nonzero(first)
    ranked = np.sort(np.where(first, size, 0), axis=1)[:, ::-1]
    second = ranked[:, 1] if labels.shape[1] > 1 else np.zeros(len(labels))
    mine = size[row, member]
    rival = np.where(mine == ranked[row, 0], second[row], ranked[row, 0])
    odds = _log_odds(prediction.quality)
    supporters = agree[row, member]
    columns = [
        mine,
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


def spread_out(lines: Candidates, said: Array, shape: tuple[int, ...]) -> Array:
    """Chances per candidate ▶ (n, members), −1 for answers that are unreadable or repeated."""
    table = np.full(shape, -1.0)
    table[lines.row, lines.member] = np.clip(said, 0.0, 1.0)
    return table


def leader(chances: Array, members: Sequence[int]) -> tuple[Indices, Array]:
    """Who gave the likeliest answer, (n,), and how likely it is."""
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
    """What the second forest sees, (n, c): the best chances and who stands behind the best."""
    labels = replies.labels
    rows, best = np.arange(len(labels)), chances.argmax(axis=1)
    behind = _agreement(labels)[rows, best]
    return np.column_stack(
        [
            leaders(chances),
            (chances >= 0).sum(axis=1),
            (labels < 0).sum(axis=1),
            np.where(labels < 0, -1.0, behind),
            _log_odds(prediction.quality),
            _context(prediction),
            *_signals(replies, members, rows, behind, best),
        ]
    )


def _signals(
    replies: Replies,
    members: Sequence[int],
    row: Indices,
    supporters: np.ndarray[Any, np.dtype[np.bool_]],
    member: Indices,
) -> list[Array]:
    """What else is known of k answers, each of a query (`row`) and first given by `member`
    (places in the committee): how it looks among the options, log-probabilities and a
    verification, where any are looked at."""
    found: list[Array] = []
    if replies.choices is not None:
        chances = replies.choices[row]
        place = replies.form[row, member].astype(np.intp)
        mine = chances[np.arange(len(row)), np.clip(place, 0, LETTERS - 1)]
        mine = np.where((place >= 0) & (place < LETTERS), mine, np.nan)
        best = chances.max(axis=1)
        sure = -(chances * np.log(np.maximum(chances, 1e-9))).sum(axis=1)
        logs = [np.log(np.maximum(known, 1e-3)) for known in (mine, best)]
        option_chances = [logs[0], logs[1] - logs[0], logs[1], sure]
        found += [np.nan_to_num(column, nan=NO_OPTION_CHANCE) for column in option_chances]
    if replies.logprob is not None:
        known = replies.logprob[row]
        backing = np.where(supporters & (known <= 0), known, -np.inf).max(axis=1)
        found += [known, known[np.arange(len(row)), member], np.maximum(backing, -99.0)]
    if replies.checked is not None and replies.confidence is not None:
        checked, sure = replies.checked[row], replies.confidence[row]
        mine = (supporters & (np.array(members) == checked[:, None])).any(axis=1)
        whose = checked.astype(np.float64)
        found += [sure, np.where(mine, sure, UNSURE), mine.astype(np.float64), whose]
    return found


def onward_columns(leading: Array, gain: Array, prediction: Prediction) -> Array:
    """What the third forest sees, (n, c)."""
    return np.column_stack([leading, np.where(np.isfinite(gain), gain, 0.0), prediction.cost])


def with_onward(state: RungState, rung: Rung, prediction: Prediction, leading: Array) -> RungState:
    if rung.onward is None:
        return state
    columns = onward_columns(leading, state.gain, prediction)
    return state._replace(onward=rung.onward.predict(columns))


def _agreement(labels: Indices) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n, s, s): do two members say the same? One who says nothing agrees with nobody."""
    equal: np.ndarray[Any, np.dtype[np.bool_]] = labels[:, :, None] == labels[:, None, :]
    return equal & (labels >= 0)[:, :, None]


def _log_odds(chance: Array) -> Array:
    inside = np.clip(chance, CLIP, 1 - CLIP)
    return np.asarray(np.log(inside / (1 - inside)))


def _context(prediction: Prediction) -> Array:
    nothing = np.empty((len(prediction.quality), 0))
    return nothing if prediction.context is None else prediction.context
