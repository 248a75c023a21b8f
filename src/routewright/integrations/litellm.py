"""A routing strategy for LiteLLM's Router: a fitted router chooses the deployment.

LiteLLM asks for one deployment per call, so the choice is that of `single`: it reads the prompt and
asks one expert. Committees, cascades, sessions and budgets need the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from routewright.errors import BadInput, NoAdmissibleExpert
from routewright.policies import choose
from routewright.router.router import Router
from routewright.types import Query


class Routing:
    """For `litellm.Router.set_custom_routing_strategy`.

    `model_list` is that of the LiteLLM router. A deployment belongs to the expert that its
    `model_info.id` names, or else its `litellm_params.model`. The goal is one of `max_cost` (US$
    per query), `max_cost_fraction` (of the most expensive expert's cost) and `min_quality` (0..1).

    Raises BadRouter if the folder cannot be loaded, and BadInput if the goal is out of reach or no
    deployment belongs to an expert.
    """

    def __init__(
        self, folder: Path | str, model_list: Iterable[Mapping[str, Any]], **goal: float
    ) -> None:
        self.router = Router.load(folder)
        self.price = self.router.within(**goal).price
        self.model_list = list(model_list)
        if not any(_expert(deployment) in self.router.experts for deployment in self.model_list):
            names = ", ".join(self.router.experts)
            raise BadInput(
                f"no deployment belongs to an expert of the router ({names}): write the expert's"
                " name into its model_info.id"
            )

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, Any]] | None = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """The deployment of the group `model` whose expert has the best quality − λ · cost.

        Raises NoAdmissibleExpert if no deployment of the group belongs to an expert.
        """
        group = [d for d in self.model_list if d.get("model_name") == model]
        by_expert = {_expert(deployment): deployment for deployment in group}
        experts = self.router.experts
        if by_expert.keys().isdisjoint(experts):
            raise NoAdmissibleExpert(dict.fromkeys(experts, f"no deployment in group '{model}'"))
        query = Query(tuple(messages or ())) if messages else Query.of(str(input or ""))
        prediction = self.router.predict([query])
        admissible = np.array([name in by_expert for name in experts])
        best = choose(prediction, self.price, admissible=admissible)
        return by_expert[experts[int(best[0])]]

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, Any]] | None = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """The same for asynchronous calls; a decision takes about a millisecond."""
        return self.get_available_deployment(
            model, messages, input, specific_deployment, request_kwargs
        )


def _expert(deployment: Mapping[str, Any]) -> str:
    """The expert that a deployment belongs to."""
    named = (deployment.get("model_info") or {}).get("id")
    return str(named or (deployment.get("litellm_params") or {}).get("model", ""))
