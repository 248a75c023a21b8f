"""Ask a small model, verify its answer, and climb where that pays (AutoMix)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from pydantic import Field

from routewright import prompts
from routewright.answers import equivalence, metaverifiers
from routewright.answers.equivalence import Kind
from routewright.answers.observations import About, Linear, Observations, agreement
from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.strategies._recorded import Recorded, Run
from routewright.types import Answer, Array, Ask, Decision, Plan, Query

if TYPE_CHECKING:  # reading tables needs Polars, serving does not
    from routewright.data.outcomes import Outcomes


# What an expert says of its own answer: verdicts on it, or the log-probabilities of its tokens.
Verifier: TypeAlias = Literal["verify", "logprob"]

MOST_SAMPLES = 100  # verdicts of one verification
MOST_DOMAINS = 5000  # of the evidence, which needs memory for their square


@dataclass(frozen=True)
class Automix:
    """Follows a meta-verifier's policy on the confidence in each answer (arXiv 2310.12963).

    `ladder` names the models, cheapest first. The confidence is the share of `samples`
    self-verifications that say "correct"; with `verifier: logprob`, the mean probability that the
    model gave the tokens of its answer; or, with `agree`, the share of those experts whose answers
    are equivalent (compared as `answers`, see docs/automix.md). With `evidence`, the policy decides
    by the expected gain of climbing. `routewright fit --strategy automix` writes `policy`; without
    one, an answer is kept if its confidence is above one half.
    """

    ladder: tuple[str, ...]
    policy: Mapping[str, Any] = field(default_factory=dict)
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 8
    agree: tuple[str, ...] = ()
    answers: Kind = "auto"
    verifier: Verifier = "verify"
    evidence: Sequence[Mapping[str, Any]] = ()  # `observations.Linear`, for every rung but the last

    def __post_init__(self) -> None:
        if len(self.ladder) < 2:
            raise BadInput("automix needs a ladder of two experts or more, cheapest first")
        if both := set(self.ladder) & set(self.agree):
            raise BadInput(f"'{min(both)}' cannot both answer and verify: leave it out of `agree`")
        if self.agree and self.verifier == "logprob":
            raise BadInput("automix has `agree` and `verifier: logprob`: leave out one of them")
        if self.policy:
            self._check_policy()
        if self.evidence:
            self._check_evidence()

    def _check_policy(self) -> None:
        """Raises BadInput unless every node climbs the ladder, with one child per bin."""
        nodes: list[tuple[Any, int]] = [(self.policy, -1)]
        while nodes:
            node, below = nodes.pop()
            place = -1
            if isinstance(node, Mapping) and node.get("expert") in self.ladder:
                place = self.ladder.index(node["expert"])
            if place <= below:
                raise BadInput("a node of automix's policy must ask an expert higher on the ladder")
            if "then" not in node:
                continue
            edges, children = node.get("edges"), node["then"]
            if not _ascending(edges) or not isinstance(children, list | tuple):
                raise BadInput("a node of automix's policy needs ascending edges and `then`")
            if len(children) != len(edges) + 1:
                raise BadInput("a node of automix's policy needs one child more than edges")
            nodes += [(child, place) for child in children if child is not None]

    def _check_evidence(self) -> None:
        """Raises BadInput unless there is a linear model for every rung but the last."""
        others = np.zeros((1, len(self.agree)))
        about = About.of([Query.of("")])
        observed = Observations(np.zeros(1), about)
        if self.agree:
            observed = agreement(np.zeros((1, 1 + len(self.agree)), np.intp), others > 0, about)
        try:
            if max(len(stored["domains"]) for stored in self.evidence) > MOST_DOMAINS:
                raise ValueError(f"it has more than {MOST_DOMAINS} domains")
            gains = [line.predict(observed) for line in self._linear]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadInput(f"the evidence of automix is of another ladder: {error}") from error
        if len(gains) != len(self.ladder) - 1 or not np.isfinite(gains).all():
            raise BadInput("automix needs evidence for every rung but the last")

    def plan(self, query: Query) -> Plan:
        node: Mapping[str, Any] | None = self.policy or self._default_policy
        best: Answer | None = None
        others: tuple[Answer, ...] | None = None
        failure: UpstreamError | NotAdmissible | None = None
        summary = ""
        while node is not None:
            expert = node["expert"]
            above = [e for e in self.ladder[self.ladder.index(expert) + 1 :] if query.permits(e)]
            verifies = "then" in node and bool(above)
            try:
                if not verifies:
                    answer = yield Ask(expert, final=True)
                    return Decision(answer, because=f"{summary}{expert} answers")
                if self.agree and others is None:
                    answer, *rest = yield from self._with_others(expert, query)
                    others = tuple(rest)
                else:
                    options = {"logprobs": True} if self.verifier == "logprob" else {}
                    answer = yield Ask(expert, options=options)
            except (UpstreamError, NotAdmissible) as error:
                failure = failure or error
                node = {"expert": above[0]} if above else None
                summary += f"{expert} could not be asked; "
                continue
            best = answer
            value, description = yield from self._observe(query, answer, others)
            summary += f"{description}; "
            node = node["then"][bisect_right(node["edges"], value)]
        if best is None:
            assert failure is not None, "every path of a policy asks an expert"
            raise failure
        return Decision(best, because=f"{summary}{best.expert}'s answer is kept")

    def _with_others(self, expert: str, query: Query):  # type: ignore[no-untyped-def]
        """The expert's answer and the answers that it is compared with, asked concurrently; the
        expert's answer alone if the query's `max_cost` does not cover them all."""
        members = [name for name in self.agree if query.permits(name)]
        try:
            answer, *others = yield (Ask(expert), *map(Ask, members))
        except NotAdmissible:
            answer = yield Ask(expert)
            return (answer,)
        if answer.status != "ok":
            raise UpstreamError.of(answer)
        return answer, *others

    def _observe(self, query: Query, answer: Answer, others: tuple[Answer, ...] | None):  # type: ignore[no-untyped-def]
        """The number by which the policy decides on an answer, and the same in words."""
        about = About.of([query])
        if others is not None:
            observations = self._compare(answer, others, about)
            arrivals = sum(other.status == "ok" for other in others)
            description = (
                f"{100 * observations.share[0]:.0f} % of {arrivals} agree with {answer.expert}"
            )
        else:
            if self.verifier == "logprob":
                share, description = _own_probability(answer)
            else:
                share, description = yield from self._verify(answer)
            observations = Observations(np.array([share]), about)
        rung = self.ladder.index(answer.expert)
        if not self.evidence:
            return float(observations.share[0]), description
        gain = float(self._linear[rung].predict(observations)[0])
        return -gain, f"{description}, so {self.ladder[-1]} is expected to add {gain:+.2f}"

    def _compare(self, answer: Answer, others: tuple[Answer, ...], about: About) -> Observations:
        by_name = {other.expert: other for other in others}
        texts = [answer.content or None]
        arrived = []
        for name in self.agree:
            other = by_name.get(name)
            arrived.append(other is not None and other.status == "ok")
            texts.append(other.content or None if other is not None and arrived[-1] else None)
        labels = equivalence.labels(self.answers, np.array([texts], dtype=object))
        return agreement(labels, np.array([arrived], dtype=bool).reshape(1, -1), about)

    def _verify(self, answer: Answer):  # type: ignore[no-untyped-def]
        try:
            check = yield Ask(answer.expert, "verify", of=answer, samples=self.samples)
        except (UpstreamError, NotAdmissible):
            return 0.0, f"{answer.expert} could not be verified, which counts as 0"
        if check.confidence is None:
            return 0.0, f"no verdict of {answer.expert} could be read, which counts as 0"
        unreadable = sum(prompts.verdict(text) is None for text in check.choices)
        note = f" ({unreadable} of {len(check.choices)} verdicts unreadable)" if unreadable else ""
        return check.confidence, f"{answer.expert} was {100 * check.confidence:.0f} % sure{note}"

    @property
    def _default_policy(self) -> Mapping[str, Any]:
        """The policy that keeps an answer if its confidence is above one half."""
        node: dict[str, Any] = {"expert": self.ladder[-1]}
        edge = float(np.nextafter(metaverifiers.HALF, 1.0))
        for expert in reversed(self.ladder[:-1]):
            node = {"expert": expert, "edges": [edge], "then": [node, None]}
        return node

    @cached_property
    def _linear(self) -> list[Linear]:
        return [Linear.from_json(stored) for stored in self.evidence]

    # --- over a whole table ------------------------------------------------------------------

    def over(self, rows: Recorded) -> Run:
        """Runs the strategy on n recorded queries at once; a row is undecided if the table lacks
        a value that the strategy may need."""
        ladder, agree, outcomes = tuple(self.ladder), tuple(self.agree), rows.outcomes
        observations = rows.cached(
            "observations",
            (ladder, agree, self.answers, self.verifier),
            lambda: observations_of(outcomes, self),
        )
        trials = trials_of(outcomes, self, observations, self._linear)
        policy = metaverifiers.with_places(self.policy or self._default_policy, ladder)
        ran = run_policy(policy, trials, len(agree))
        return ran._replace(
            asked=rows.widen(ran.asked, (*ladder, *agree)),
            undecided=~trials.complete | rows.limited,
        )


def _own_probability(answer: Answer) -> tuple[float, str]:
    """The mean probability of an answer's tokens, and the same in words."""
    if math.isnan(answer.logprob):
        return 0.0, f"{answer.expert} told no log-probability, which counts as 0"
    share = math.exp(min(0.0, answer.logprob))
    return share, f"{answer.expert} gave its words a probability of {100 * share:.0f} %"


def _ascending(edges: Any) -> bool:
    """Whether it is a list of numbers, none of which is smaller than the one before."""
    if not isinstance(edges, list | tuple):
        return False
    numbers = [edge for edge in edges if isinstance(edge, int | float)]
    return len(numbers) == len(edges) and all(a <= b for a, b in pairwise(numbers))


def run_policy(policy: metaverifiers.Node, trials: metaverifiers.Trials, agree: int = 0) -> Run:
    """Runs a policy on every row; the columns of `asked` are the ladder, then the `agree` experts
    that the first answer is compared with."""
    path = metaverifiers.walk(policy, trials.confidence)
    score, cost = metaverifiers.totals(path, trials)
    asked = np.hstack([path.asked, np.repeat(path.observed[:, :1], agree, axis=1)])
    return Run(score, cost, asked.astype(np.float64))


class Verified(Protocol):
    """A ladder, and how the answers of its rungs are verified."""

    @property
    def ladder(self) -> tuple[str, ...]: ...
    @property
    def agree(self) -> tuple[str, ...]: ...
    @property
    def answers(self) -> Kind: ...
    @property
    def verifier(self) -> Verifier: ...


def trials_of(
    outcomes: Outcomes,
    cascade: Verified,
    observations: Sequence[Observations],
    evidence: Sequence[Linear] = (),
) -> metaverifiers.Trials:
    """Confidences and costs of the strategy on every row; NaN where the table has no value."""
    shares = np.column_stack([observation.share for observation in observations])
    if evidence:
        gains = [
            line.predict(observation)
            for line, observation in zip(evidence, observations, strict=True)
        ]
        shares = np.where(np.isfinite(shares), -np.column_stack(gains), np.nan)
    quality = outcomes.pool(cascade.ladder).score
    cost = np.where(np.isfinite(quality), _charges(outcomes, cascade.ladder), np.nan)
    return metaverifiers.Trials(quality, cost, _verifying(outcomes, cascade), shares)


def observations_of(outcomes: Outcomes, cascade: Verified) -> list[Observations]:
    """Observations of each rung but the last, on every row; an unknown share is NaN.

    Raises BadInput if the table has no `verify::` columns, no `logprob::` or no `answer::`.
    """
    about, agree, rungs = About.of(outcomes.queries), cascade.agree, cascade.ladder[:-1]
    if not agree:
        confidence = _probability if cascade.verifier == "logprob" else _confidence
        return [Observations(shares, about) for shares in confidence(outcomes.pool(rungs)).T]
    if outcomes.answers is None:
        raise BadInput("agreement needs columns answer::EXPERT; the table has none")
    members = outcomes.pool(agree)
    arrived = np.isfinite(members.score)
    observations = []
    for expert in rungs:
        column = outcomes.pool([expert])
        assert column.answers is not None
        assert members.answers is not None
        texts = np.hstack([column.answers, members.answers])
        observation = agreement(equivalence.labels(cascade.answers, texts), arrived, about)
        complete = np.isfinite(column.score[:, 0]) & arrived.all(axis=1)
        observations.append(
            replace(observation, share=np.where(complete, observation.share, np.nan))
        )
    return observations


def _confidence(outcomes: Outcomes) -> Array:
    """The recorded confidence of each expert in its answers, (n, e); 0 where verdicts arrived and
    none could be read, as when a plan runs. Raises BadInput if the table has no verifications."""
    unknown = np.full_like(outcomes.score, np.nan)
    verdicts = outcomes.measures.get("verdicts", unknown)
    if "verify" not in outcomes.measures and not np.isfinite(verdicts).any():
        raise BadInput("self-verification needs columns verify::EXPERT; the table has none")
    confidence = outcomes.measures.get("verify", unknown)
    return np.where(np.isnan(confidence) & np.isfinite(verdicts), 0.0, confidence)


def _probability(outcomes: Outcomes) -> Array:
    """The mean probability of the tokens of each expert's answers, (n, e); 0 where an answer came
    without, as when a plan runs. Raises BadInput if the table has none of an expert."""
    unknown = np.full_like(outcomes.score, np.nan)
    logprob = outcomes.measures.get("logprob", unknown)
    for name, column in zip(outcomes.experts, logprob.T, strict=True):
        if not np.isfinite(column).any():
            raise BadInput(
                f"verifier logprob needs the column logprob::{name}; the table has no value of it:"
                " `interview --logprobs` records it where the endpoint tells log-probabilities"
            )
    probability = np.exp(np.minimum(logprob, 0.0))
    return np.where(np.isnan(probability) & np.isfinite(outcomes.score), 0.0, probability)


def _verifying(outcomes: Outcomes, cascade: Verified) -> Array:
    """US$ of verifying the answer of each rung but the last, (n, N − 1)."""
    rungs = outcomes.pool(cascade.ladder[:-1])
    cost = np.zeros(rungs.score.shape)
    if cascade.agree:  # they are asked once, together with the first rung
        cost[:, 0] = _charges(outcomes, cascade.agree).sum(axis=1)
        return cost
    if cascade.verifier == "logprob":  # it comes with the answer
        return cost
    recorded_cost = rungs.measures.get("verify_cost", np.full_like(rungs.cost, np.nan))
    return np.where(np.isfinite(recorded_cost), recorded_cost, _charges(outcomes, rungs.experts))


def _charges(outcomes: Outcomes, experts: Sequence[str]) -> Array:
    return outcomes.charges[:, [outcomes.experts.index(name) for name in experts]]
