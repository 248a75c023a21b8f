"""What the policies of a config would have done on recorded outcomes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from routewright.config import Config, PolicyConfig
from routewright.data.outcomes import Outcomes
from routewright.errors import BadInput, BadTable
from routewright.evaluation import figures
from routewright.evaluation.evaluate import evaluate
from routewright.gateway.policies import Policies
from routewright.types import Query

ASKED_FOR = ("price", "max_cost", "max_cost_fraction", "min_quality", "latency_price")
KEYS = ("quality", "quality_ci", "cost", "cost_fraction")


def judge(
    config: Config,
    outcomes: Outcomes,
    policy: str | None = None,
    *,
    without_domain: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The keys of `evaluate --json` that tell of the config's experts and of its policies, or of
    the one that is named.

    Only experts of the config that the table has are compared with. A policy is judged without its
    fallback: what is not recorded is unknown, and no failure. Raises BadInput for a policy that
    does not exist, BadTable where the table lacks an expert that a policy asks.
    """
    if policy is not None and policy not in config.policies:
        there = ", ".join(config.policies)
        raise BadInput(f"no policy '{policy}' in this config: choose one of {there}")
    names = [entry.name for entry in config.experts]
    if not (known := [name for name in names if name in outcomes.experts]):
        raise BadTable(
            f"the table has outcomes of {', '.join(outcomes.experts)}, the config has the experts"
            f" {', '.join(names)}: none of them is in both"
        )
    table = outcomes.pool(known)
    judged = {n: p for n, p in config.policies.items() if policy in (None, n)}
    built = Policies(config.model_copy(update={"policies": judged})).by_name
    points = {}
    for name in judged:
        strategy = replace(built[name], fallback=()).strategy_for(Query.of(""))
        try:
            measured = evaluate(strategy, table, without_domain=without_domain, seed=seed)
        except BadInput as error:
            raise BadTable(f"policy '{name}': {error}") from error
        (point,) = figures.curve(measured)
        points[name] = {key: point[key] for key in KEYS} | {"asked_for": asked_for(judged[name])}
    costed = table.costed()
    return {
        "experts": figures.experts(costed),
        "references": figures.references(costed),
        "policies": points,
        "n": len(table),
    }


def asked_for(policy: PolicyConfig) -> str:
    """What the policy's operating point was chosen by; empty where its strategy has none.

    >>> asked_for(PolicyConfig(strategy="auto", router="router", max_cost_fraction=0.5))
    'max_cost_fraction 0.5'
    """
    goals = {key: getattr(policy, key) for key in ASKED_FOR}
    return ", ".join(f"{key} {goal:g}" for key, goal in goals.items() if goal is not None)
