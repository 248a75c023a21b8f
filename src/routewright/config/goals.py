"""Changes the goal of a policy in the text of a routewright.yaml, and nothing else in it."""

from __future__ import annotations

from typing import Any

import yaml

from routewright.config.policies import OPERATING_POINTS
from routewright.errors import BadInput


def with_goal(text: str, policy: str, key: str, value: float) -> str:
    """The text of a config in which a policy has another goal; comments and order stay.

    Raises BadInput if the policy is not written in a way that can be changed.

    >>> with_goal("policies: {a: {strategy: auto, price: 0}}  # mine", "a", "max_cost", 0.01)
    'policies: {a: {strategy: auto, max_cost: 0.01}}  # mine'
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    policies = _value(root, "policies")
    node = _value(policies, policy)
    if not isinstance(node, yaml.MappingNode) or _shared(policies, node):
        raise BadInput(f"policy '{policy}' is not written as a mapping of its own: edit the file")
    goal = f"{key}: {value!r}"
    for name, old in node.value:
        if name.value in OPERATING_POINTS:
            return text[: name.start_mark.index] + goal + text[old.end_mark.index :]
    for name, old in node.value:
        if name.value == "strategy":
            between = ", " if node.flow_style else f"\n{' ' * name.start_mark.column}"
            place = old.end_mark.index
            return text[:place] + between + goal + text[place:]
    raise BadInput(f"policy '{policy}' names no strategy: edit the file")


def _value(node: Any, name: str) -> Any:
    """The value of a key of a mapping; None if there is none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _shared(policies: Any, node: yaml.Node) -> bool:
    """Whether another policy is the same mapping, by an alias or a merge."""
    merged = any(key.value == "<<" for key, _ in node.value)
    return merged or sum(value is node for _, value in policies.value) > 1
