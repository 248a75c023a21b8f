"""Ask every expert and let a reward model choose: K generations and K rewards for one answer."""

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
    """Asks `experts` concurrently and returns the answer with the highest reward.

    Zooter is distilled from this strategy and compared with it, an expensive upper bound: every
    generation and every reward is paid. `reward` names the model as `routewright reward` does
    (`judge=EXPERT`, `classifier=FOLDER`; `recorded` for replays), but not a `function`: a strategy
    is data and runs no code. If no reward is available, the answer of the first expert in the list
    that answered is returned.
    """

    experts: tuple[str, ...]
    reward: str = "recorded"

    def __post_init__(self) -> None:
        if self.reward.partition("=")[0] == "function":
            raise BadInput("strategy 'ranking' takes no reward function: name another model")

    def plan(self, query: Query) -> Plan:
        permitted = [expert for expert in self.experts if query.permits(expert)]
        if not permitted:
            raise NoAdmissibleExpert(dict.fromkeys(self.experts, "may not be asked this query"))
        answers = yield tuple(Ask(expert) for expert in permitted)
        arrivals = [answer for answer in answers if answer.status == "ok"]
        if not arrivals:
            raise UpstreamError.of(*answers)
        try:
            rated = yield from rewards.consider(self._model(), query, arrivals)
        except (NotAdmissible, UpstreamError) as error:
            return Decision(arrivals[0], because=f"no reward: {error}")
        return _best(arrivals, rated.rewards)

    def _model(self) -> RewardModel:
        return rewards.build(self.reward)


def _best(answers: Sequence[Answer], reward: Array) -> Decision:
    if np.isnan(reward).all():
        return Decision(
            answers[0], because="no reward is available; the first expert that answered is used"
        )
    best = int(np.nanargmax(reward))
    expert = answers[best].expert
    return Decision(
        answers[best],
        because=f"{expert} has the highest reward of {len(answers)}, {reward[best]:.3g}",
    )
