"""Let a small model answer, have the answer verified, and climb where that pays (AutoMix)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from routewright import prompts
from routewright.answers import equivalence, metaverifiers
from routewright.answers.equivalence import Kind
from routewright.answers.observations import About, Linear, Observations, agreement
from routewright.errors import BadInput, NotAdmissible, UpstreamError
from routewright.strategies._recorded import Recorded, Run
from routewright.types import Answer, Array, Ask, Decision, Plan, Query

if TYPE_CHECKING:  # reading tables needs Polars, serving does not
    from routewright.data.outcomes import Outcomes


@dataclass(frozen=True)
class Automix:
    """Follows a meta-verifier's policy over what is seen of each answer (arXiv 2310.12963).

    `ladder` names the models, cheapest first. Seen is the share of `samples` self-verifications
    that say "correct" or, with `agree`, the share of those experts whose answers say the same
    (compared as `answers`, see docs/automix.md); with `evidence` the gain that is expected of
    climbing. `policy` is what `routewright fit --strategy automix` writes; without one an answer
    is kept that the verifier trusts by more than half.
    """

    ladder: tuple[str, ...]
    policy: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 8
    agree: tuple[str, ...] = ()
    answers: Kind = "auto"
    evidence: Sequence[Mapping[str, Any]] = ()  # per rung but the last, `observations.Linear`

    def __post_init__(self) -> None:
        if len(self.ladder) < 2:
            raise BadInput("automix needs a ladder of two experts or more, cheapest first")
        if both := set(self.ladder) & set(self.agree):
            raise BadInput(f"'{min(both)}' cannot both answer and verify: leave it out of `agree`")

    def plan(self, query: Query) -> Plan:
        node: Mapping[str, Any] | None = self.policy or self._halves
        kept: Answer | None = None
        others: tuple[Answer, ...] | None = None
        failure: UpstreamError | NotAdmissible | None = None
        seen = ""
        while node is not None:
            expert = node["expert"]
            above = [e for e in self.ladder[self.ladder.index(expert) + 1 :] if query.permits(e)]
            observations = "then" in node and bool(above)
            try:
                if not observations:
                    answer = yield Ask(expert, final=True)
                    return Decision(answer, because=f"{seen}{expert} answers")
                if self.agree and others is None:
                    answer, *rest = yield from self._with_others(expert, query)
                    others = tuple(rest)
                else:
                    answer = yield Ask(expert)
            except (UpstreamError, NotAdmissible) as error:
                failure = failure or error
                node = {"expert": above[0]} if above else None
                seen += f"{expert} could not be asked; "
                continue
            kept = answer
            found, said = yield from self._observe(query, answer, others)
            seen += f"{said}; "
            node = node["then"][bisect_right(node["edges"], found)]
        if kept is None:
            assert failure is not None, "every path of a policy asks somebody"
            raise failure
        return Decision(kept, because=f"{seen}{kept.expert}'s answer is kept")

    def _with_others(self, expert: str, query: Query):  # type: ignore[no-untyped-def]
        """The expert's answer, and those that it is compared with, asked side by side; without
        them where the query has not the money for all."""
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
        """What is seen of an answer: a number for the policy, and words."""
        about = About.of([query])
        if others is not None:
            observations = self._compared(answer, others, about)
            came = sum(other.status == "ok" for other in others)
            said = f"{observations.share[0]:.0%} of {came} agree with {answer.expert}"
        else:
            share, said = yield from self._verified(answer)
            observations = Observations(np.array([share]), about)
        rung = self.ladder.index(answer.expert)
        if not self.evidence:
            return float(observations.share[0]), said
        gain = float(self._linear[rung].predict(observations)[0])
        return -gain, f"{said}, so {self.ladder[-1]} is expected to add {gain:+.2f}"

    def _compared(self, answer: Answer, others: tuple[Answer, ...], about: About) -> Observations:
        by_name = {other.expert: other for other in others}
        texts = [answer.text or None]
        arrived = []
        for name in self.agree:
            other = by_name.get(name)
            arrived.append(other is not None and other.status == "ok")
            texts.append(other.text or None if other is not None and arrived[-1] else None)
        labels = equivalence.labels(self.answers, np.array([texts], dtype=object))
        return agreement(labels, np.array([arrived], dtype=bool).reshape(1, -1), about)

    def _verified(self, answer: Answer):  # type: ignore[no-untyped-def]
        try:
            check = yield Ask(answer.expert, "verify", of=answer, samples=self.samples)
        except (UpstreamError, NotAdmissible):
            return 0.0, f"{answer.expert} could not be verified, which counts as 0"
        if check.confidence is None:
            return 0.0, f"no verdict of {answer.expert} could be read, which counts as 0"
        unread = sum(prompts.verdict(text) is None for text in check.choices)
        lost = f" ({unread} of {len(check.choices)} verdicts unreadable)" if unread else ""
        return check.confidence, f"{answer.expert} was {check.confidence:.0%} sure{lost}"

    @property
    def _halves(self) -> Mapping[str, Any]:
        """Every rung's answer is kept that is trusted by more than half."""
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
        """The same for n recorded queries at once; a row is undecided where not everything is
        known that may be asked."""
        ladder, agree, outcomes = tuple(self.ladder), tuple(self.agree), rows.outcomes
        observations = rows.once(
            "observations",
            (ladder, agree, self.answers),
            lambda: observations_of(outcomes, ladder, agree, self.answers),
        )
        trials = trials_of(outcomes, ladder, agree, observations, self._linear)
        policy = metaverifiers.placed(self.policy or self._halves, ladder)
        ran = followed(policy, trials, len(agree))
        return ran._replace(
            asked=rows.spread(ran.asked, (*ladder, *agree)),
            undecided=~trials.complete | rows.limited,
        )


def followed(policy: metaverifiers.Node, trials: metaverifiers.Trials, agree: int = 0) -> Run:
    """What a policy does on every row; `asked` is over the ladder, then over the `agree` experts
    with whose answers the first one's is compared."""
    way = metaverifiers.walk(policy, trials.seen)
    score, cost = metaverifiers.settle(way, trials)
    asked = np.hstack([way.asked, np.repeat(way.observed[:, :1], agree, axis=1)])
    return Run(score, cost, asked.astype(np.float64))


def trials_of(
    outcomes: Outcomes,
    ladder: Sequence[str],
    agree: Sequence[str],
    observations: Sequence[Observations],
    evidence: Sequence[Linear] = (),
) -> metaverifiers.Trials:
    """What the strategy would see and pay on every row; NaN where the table does not say."""
    shares = np.column_stack([observation.share for observation in observations])
    if evidence:
        gains = [
            line.predict(observation)
            for line, observation in zip(evidence, observations, strict=True)
        ]
        shares = np.where(np.isfinite(shares), -np.column_stack(gains), np.nan)
    quality = outcomes.pool(ladder).score
    cost = np.where(np.isfinite(quality), _charges(outcomes, ladder), np.nan)
    return metaverifiers.Trials(quality, cost, _verifying(outcomes, ladder, agree), shares)


def observations_of(
    outcomes: Outcomes, ladder: Sequence[str], agree: Sequence[str], answers: Kind
) -> list[Observations]:
    """What is seen of each rung but the last, on every row; the share is NaN where unknown.

    Raises BadInput where there is nothing to look at: no `verify::` or no `answer::` columns.
    """
    about = About.of(outcomes.queries)
    if not agree:
        if "verify" not in outcomes.measures:
            raise BadInput("self-verification needs columns verify::EXPERT; the table has none")
        table = outcomes.pool(ladder).measures["verify"]
        return [Observations(table[:, rung], about) for rung in range(len(ladder) - 1)]
    if outcomes.answers is None:
        raise BadInput("agreement needs columns answer::EXPERT; the table has none")
    members = outcomes.pool(agree)
    arrived = np.isfinite(members.score)
    found = []
    for expert in ladder[:-1]:
        column = outcomes.pool([expert])
        assert column.answers is not None
        assert members.answers is not None
        texts = np.hstack([column.answers, members.answers])
        observation = agreement(equivalence.labels(answers, texts), arrived, about)
        known = np.isfinite(column.score[:, 0]) & arrived.all(axis=1)
        found.append(replace(observation, share=np.where(known, observation.share, np.nan)))
    return found


def _verifying(outcomes: Outcomes, ladder: Sequence[str], agree: Sequence[str]) -> Array:
    """US$ of looking at each rung but the last, (n, N − 1)."""
    rungs = outcomes.pool(ladder[:-1])
    if agree:  # they are asked once, beside the first rung
        cost = np.zeros((len(outcomes), len(ladder) - 1))
        cost[:, 0] = _charges(outcomes, agree).sum(axis=1)
        return cost
    priced = rungs.measures.get("verify_cost", np.full_like(rungs.cost, np.nan))
    return np.where(np.isfinite(priced), priced, _charges(outcomes, ladder[:-1]))


def _charges(outcomes: Outcomes, experts: Sequence[str]) -> Array:
    return outcomes.charges[:, [outcomes.experts.index(name) for name in experts]]
