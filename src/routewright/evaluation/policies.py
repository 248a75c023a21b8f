"""What the policies of a config would have done on recorded outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from routewright.config import Config, PolicyConfig
from routewright.data import text
from routewright.data.outcomes import Outcomes
from routewright.drive import replay
from routewright.errors import BadInput, BadTable, RoutewrightError
from routewright.evaluation import figures
from routewright.evaluation.evaluate import evaluate
from routewright.gateway.policies import Policies, Policy
from routewright.router.frontier import parts
from routewright.types import Answer, Query, Strategy

TRIED = 20  # rows on which a strategy is tried for what it asks
FREE = "the limit has no meaning here: no expert costs anything"
ASKED_FOR = ("price", "max_cost", "max_cost_fraction", "min_quality", "latency_price")


@dataclass(frozen=True)
class Judged:
    """A policy of a config, measured on recorded outcomes as one operating point."""

    name: str
    config: PolicyConfig
    policy: Policy
    evaluation: figures.Evaluation
    unverified: tuple[str, ...] = ()  # whose verifications it asks for, and no row records

    @property
    def learned(self) -> bool:
        """Whether it makes a choice that depends on the query, or mixes fixed experts only."""
        point = self.policy.point
        return set(parts(self.config.spec() if point is None else point.spec)) != {"fixed"}

    @property
    def warnings(self) -> list[str]:
        """What the reader of its figures must know first."""
        if not self.unverified:
            return []
        names = " and ".join(self.unverified)
        whose = "its" if len(self.unverified) == 1 else "their"
        return [
            f"policy '{self.name}' asks {names} to verify {whose} own answers, and these"
            " rows record no verification, which counts as doubt: `interview --verify 1` records"
            " them, and pays for no answer again."
        ]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Its entry of `evaluate --json`."""
        return figures.served(self.evaluation) | {"asked_for": asked_for(self.config)}


def measure(
    config: Config,
    outcomes: Outcomes,
    policy: str | None = None,
    *,
    without_domain: bool = False,
    seed: int = 0,
) -> tuple[Judged, ...]:
    """The policies of a config, or the one that is named, each measured on the outcomes of the
    config's experts.

    Only experts of the config that the table has are compared with. A policy is judged without its
    fallback: what is not recorded is unknown, and no failure. Raises BadInput for a policy that
    does not exist, BadTable where the table lacks an expert that a policy asks.
    """
    if policy is not None and policy not in config.policies:
        there = ", ".join(config.policies)
        raise BadInput(f"no policy '{policy}' in this config: choose one of {there}")
    table = _pool(config, outcomes)
    chosen = {n: p for n, p in config.policies.items() if policy in (None, n)}
    built = Policies(config.model_copy(update={"policies": chosen})).by_name
    judged = []
    for name in chosen:
        strategy = replace(built[name], fallback=()).strategy_for(Query.of(""))
        try:
            measured = evaluate(strategy, table, without_domain=without_domain, seed=seed)
        except BadInput as error:
            raise BadTable(f"policy '{name}': {error}") from error
        unverified = _unverified(strategy, table)
        judged.append(Judged(name, chosen[name], built[name], measured, unverified))
    return tuple(judged)


class _Record(dict[str | tuple[str, str], Answer]):
    """The answers to one query; `absent` collects the experts whose verification is asked for and
    not there."""

    def __init__(self, answers: Mapping[str | tuple[str, str], Answer], absent: set[str]) -> None:
        super().__init__(answers)
        self.absent = absent

    def get(self, key: Any, default: Any = None) -> Any:
        if key not in self and key[1:] == ("verify",):
            self.absent.add(key[0])
        return super().get(key, default)


def _unverified(strategy: Strategy, outcomes: Outcomes) -> tuple[str, ...]:
    """The experts whose verification the strategy asks for, and of which no row has any."""
    recorded = outcomes.measures.get("verify")
    absent: set[str] = set()
    for row, query in enumerate(outcomes.queries[:TRIED]):
        with suppress(RoutewrightError):
            replay(strategy, query, _Record(outcomes.record(row), absent))
    return tuple(
        name
        for m, name in enumerate(outcomes.experts)
        if name in absent and (recorded is None or not np.isfinite(recorded[:, m]).any())
    )


def _pool(config: Config, outcomes: Outcomes) -> Outcomes:
    """The outcomes of the config's experts. Raises BadTable if there are none."""
    names = [entry.name for entry in config.experts]
    if not (known := [name for name in names if name in outcomes.experts]):
        raise BadTable(
            f"the table has outcomes of {', '.join(outcomes.experts)}, the config has the experts"
            f" {', '.join(names)}: none of them is in both"
        )
    return outcomes.pool(known)


def judge(config: Config, outcomes: Outcomes, judged: Sequence[Judged]) -> dict[str, Any]:
    """The keys of `evaluate --json` that tell of the config's experts and of its policies."""
    costed = _pool(config, outcomes).costed()
    return {
        "experts": figures.experts(costed),
        "references": figures.references(costed),
        "policies": {one.name: one.facts for one in judged},
        "n": len(costed),
        "warnings": [*figures.warnings(costed), *(w for one in judged for w in one.warnings)],
    }


def first_of(config: Config, judged: Sequence[Judged]) -> Judged:
    """The policy that is served to a request that names none, or else the first one."""
    return next((one for one in judged if one.name == config.default_policy), judged[0])


def in_words(facts: dict[str, Any], policy: PolicyConfig, dearest: str) -> str:
    """What a policy costs and reaches on the rows, beside what was asked for; `facts` is its entry
    of `evaluate --json`, `dearest` the expert that cost fractions refer to."""
    reached = f"{text.percent(facts['quality'])} {text.between(facts['quality_ci'])}"
    if facts["cost_fraction_ci"] is None:
        return f"{reached}{_beside(facts, policy)}"
    fraction, ends = facts["cost_fraction"], facts["cost_fraction_ci"]
    low, high = (f"{100 * end:.0f}" for end in ends)
    costs = f"{reached} at {text.share(fraction)} ({low} … {high} %) of {dearest}'s cost"
    if policy.strategy == "fixed":
        beside = _beside(facts, policy)
        why = ". It mixes fixed experts, because the fit proved no learned choice better"
        return f"{costs}{beside}{why if beside else ''}"
    gain, pair = text.points(facts["gain_over_zero_router"]), text.between(facts["gain_ci"], True)
    proof = "" if facts["gain_ci"][0] > 0 or facts["gain_ci"][1] < 0 else ", which proves no gain"
    return (
        f"{costs}{_beside(facts, policy)}. That is {gain} points {pair} over mixing fixed"
        f" experts at the same cost{proof}"
    )


def _beside(facts: dict[str, Any], policy: PolicyConfig) -> str:
    """What was asked for, and whether the rows keep it; empty without a goal."""
    goal, kept = goal_of(facts, policy)
    if not goal:
        return "" if policy.price is None else f"; you set λ = {policy.price:g} per US$"
    if kept == FREE:
        return f"; {kept}"
    return f"; you asked for {goal}{f' ({kept})' if kept else ''}"


def goal_of(facts: dict[str, Any], policy: PolicyConfig) -> tuple[str, str]:
    """What was asked for, and how well the rows keep it; both empty without a goal, the second one
    where the goal is kept."""
    fraction, ends = facts["cost_fraction"], facts["cost_fraction_ci"]
    free = facts["cost"] == 0 and fraction is None
    if policy.max_cost_fraction is not None:
        goal = policy.max_cost_fraction
        kept = FREE if free else _kept(goal, fraction, ends)
        return f"at most {100 * goal:g} %", kept
    if policy.max_cost is not None:
        limit = policy.max_cost * fraction / facts["cost"] if ends else 0.0
        most = text.dollars(policy.max_cost)
        kept = FREE if free else _kept(limit, fraction, ends)
        return f"at most US${most} per 1,000 queries", kept
    if policy.min_quality is not None:
        low, high = facts["quality_ci"]
        kept = _kept(-policy.min_quality, -facts["quality"], (-high, -low))
        return f"at least {100 * policy.min_quality:g} %", kept
    return "", ""


def _kept(limit: float, value: float, ends: Sequence[float] | None) -> str:
    if ends is None:
        return ""
    if value <= limit + 1e-9:
        return "" if ends[1] <= limit else "kept on these rows, but not proven"
    return "not kept" if ends[0] > limit else "not kept on these rows, but not proven"


def asked_for(policy: PolicyConfig) -> str:
    """What the policy's operating point was chosen by; empty where its strategy has none.

    >>> asked_for(PolicyConfig(strategy="auto", router="router", max_cost_fraction=0.5))
    'max_cost_fraction 0.5'
    """
    goals = {key: getattr(policy, key) for key in ASKED_FOR}
    return ", ".join(f"{key} {goal:g}" for key, goal in goals.items() if goal is not None)
