"""Ask every expert and let a reward model pick: K generations and K scorings for one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routewright.errors import BadInput, NoAdmissibleExpert, NotAdmissible, UpstreamError
from routewright.grading import rewards
from routewright.grading.rewards import RewardModel
from routewright.types import Answer, Array, Ask, Decision, Plan, Query


@dataclass(frozen=True)
class Ranking:
    """Asks `experts` side by side and gives the answer with the highest reward.

    What Zooter is distilled from, and the dear upper bound that it is compared with: every
    generation and every scoring is counted. `reward` names the model as `routewright reward`
    does (`judge=EXPERT`, `classifier=FOLDER`; `recorded` for replays), but not a `function`: a
    strategy is data and runs no code. Where no reward can be had, the first expert of the list
    that answered is taken.
    """

    experts: tuple[str, ...]
    reward: str = "recorded"

    def __post_init__(self) -> None:
        if self.reward.partition("=")[0] == "function":
            raise BadInput("strategy 'ranking' takes no reward function: name another model")

    def plan(self, query: Query) -> Plan:
        able = [expert for expert in self.experts if query.permits(expert)]
        if not able:
            raise NoAdmissibleExpert(dict.fromkeys(self.experts, "may not see this query"))
        answers = yield tuple(Ask(expert) for expert in able)
        came = [answer for answer in answers if answer.status == "ok"]
        if not came:
            raise UpstreamError(able[0], f"and every other expert failed: {answers[0].reason}")
        try:
            rated = yield from rewards.consider(self._model(), query, came)
        except (NotAdmissible, UpstreamError) as error:
            return Decision(came[0], because=f"no reward: {error}")
        return _best(came, rated.rewards)

    def _model(self) -> RewardModel:
        return rewards.build(self.reward)


def _best(answers: Sequence[Answer], earned: Array) -> Decision:
    if np.isnan(earned).all():
        return Decision(answers[0], because="no reward could be had; the first that answered")
    best = int(np.nanargmax(earned))
    expert = answers[best].expert
    return Decision(
        answers[best], because=f"{expert} earned {earned[best]:.3g}, the most of {len(answers)}"
    )
