"""Decides which experts a query's limits allow. Every ask, live or replayed, is checked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from routewright.errors import NoAdmissibleExpert, NotAdmissible
from routewright.types import DATA_CLASSES, Ask, Expert, Query

EVERYTHING = frozenset({"tools", "vision", "json"})


def recorded(name: str) -> Expert:
    """An expert of an outcome table. Its answers exist already, so it admits every query."""
    return Expert(name, capabilities=EVERYTHING, data_classes=frozenset(DATA_CLASSES))


def objection(expert: Expert, query: Query, max_cost: float | None = None) -> str | None:
    """The reason why a query may not reach an expert; None if it may. Unknown limits fail closed.

    `max_cost` is the US$ that may still be spent; the default is the query's own `max_cost`.

    >>> objection(Expert("cloud"), Query.of("my diagnosis", data_class="restricted"))
    'serves data class public, not restricted'
    """
    if query.data_class not in expert.data_classes:
        serves = ", ".join(sorted(expert.data_classes)) or "nothing"
        return f"serves data class {serves}, not {query.data_class}"
    if query.region is not None and query.region != expert.region:
        return f"runs in region {expert.region or 'unknown'}, not {query.region}"
    if missing := query.needs - expert.capabilities:
        return f"lacks {', '.join(sorted(missing))}"
    if expert.context_window is not None and query.input_tokens > expert.context_window:
        window, length = expert.context_window, query.input_tokens
        return f"has a context window of {window} tokens, and the query has about {length}"
    max_cost = query.max_cost if max_cost is None else max_cost
    if max_cost is not None and (least := expert.price(query.input_tokens, 1)) > max_cost:
        return f"costs at least ${least:.2g}, more than max_cost ${max_cost:.2g}"
    if query.allowed is not None and expert.name not in query.allowed:
        return "is not among the experts that this query may use"
    return None


def admit(query: Query, experts: Iterable[Expert]) -> tuple[Query, dict[str, str]]:
    """The query with `allowed` set, and expert ▶ reason for every rejected expert.

    Raises NoAdmissibleExpert if every expert is rejected.
    """
    objections = {expert.name: objection(expert, query) for expert in experts}
    rejected = {name: reason for name, reason in objections.items() if reason is not None}
    allowed = frozenset(objections) - frozenset(rejected)
    if not allowed:
        raise NoAdmissibleExpert(rejected)
    return replace(query, allowed=allowed), rejected


def guard(ask: Ask, query: Query, experts: Mapping[str, Expert]) -> None:
    """Raises NotAdmissible unless the query's limits and the ask's own `max_cost` allow the ask."""
    expert = experts.get(ask.expert)
    if expert is None:
        raise NotAdmissible(ask.expert, f"it does not exist; the experts are {', '.join(experts)}")
    if (reason := objection(expert, query, ask.max_cost)) is not None:
        raise NotAdmissible(ask.expert, reason)
