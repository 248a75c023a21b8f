"""What a client's key allows: which policies, experts and data classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from routewright.experts.limits import built_in_needs, strictest
from routewright.gateway.body import ChatRequest
from routewright.gateway.errors import BadRequest
from routewright.gateway.policies import DIRECT, Policies, Policy
from routewright.records.keys import Key
from routewright.strategies.fixed import Fixed
from routewright.types import DATA_CLASSES, Expert, changed


def permitted(request: ChatRequest, key: Key | None) -> ChatRequest:
    """The request within what its key allows; raises BadRequest (403).

    A text whose data class the client does not state gets the strictest one that the key allows, if
    the key does not allow the default.
    """
    if key is None:
        return request
    query = request.query
    if key.data_classes is not None and query.data_class not in key.data_classes:
        classes = [name for name in DATA_CLASSES if name in key.data_classes]
        if request.has_data_class:
            raise BadRequest(
                f"the key '{key.name}' does not allow the data class '{query.data_class}', only"
                f" {', '.join(classes)}",
                "data_class",
                status=403,
                code="data_class_not_allowed",
            )
        query = changed(query, data_class=strictest(classes))
    if key.experts is not None:
        query = changed(query, allowed=frozenset(key.experts))
    return changed(request, query=query)


def with_built_in_tools(request: ChatRequest, experts: Iterable[Expert]) -> ChatRequest:
    """The request with the need of its built-in tools, as far as any expert lists them."""
    needs = request.query.needs | built_in_needs(request.built_in, experts)
    return replace(request, query=replace(request.query, needs=needs)) if needs else request


def visible(policies: Policies, key: Key | None) -> list[str]:
    """The model names that a key may request."""
    return [name for name in policies.names() if _is_allowed(policies.find(name), key)]


def _is_allowed(policy: Policy, key: Key | None) -> bool:
    try:
        check_policy(policy, key)
    except BadRequest:
        return False
    return True


def check_policy(policy: Policy, key: Key | None) -> None:
    """Raises BadRequest (403) if a key does not allow a policy, or an expert named as the model."""
    if key is None:
        return
    if policy.name == DIRECT:
        assert isinstance(policy.strategy, Fixed)
        names, name, kind = key.experts, policy.strategy.expert, "expert"
    else:
        names, name, kind = key.policies, policy.name, "policy"
    if names is not None and name not in names:
        raise BadRequest(
            f"the key '{key.name}' does not allow the {kind} '{name}', only {', '.join(names)}",
            "model",
            status=403,
            code=f"{kind}_not_allowed",
        )
