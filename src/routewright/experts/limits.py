"""Decides which experts a query's limits allow. Every ask, live or replayed, is checked here.

A prompt that was made from other texts, such as the rows of a table, is a `quotation`: it has the
strictest data class among them, and their region.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from routewright.errors import BadInput, NoAdmissibleExpert, NotAdmissible
from routewright.types import DATA_CLASSES, Ask, DataClass, Expert, Query, changed

EVERYTHING = frozenset({"tools", "vision", "json"})
# Tools that an endpoint runs itself, or whose calls only some models write. A request may have
# them under a name with a version, as web_search_20250305.
BUILT_IN_TOOLS = (
    *("apply_patch", "bash", "code_execution", "code_interpreter", "computer", "file_search"),
    *("image_generation", "local_shell", "mcp", "memory", "shell", "text_editor", "tool_search"),
    *("web_fetch", "web_search"),
)
VERSION = re.compile(r"(?:_use)?(?:_preview)?(?:_[0-9]{4}_?[0-9]{2}_?[0-9]{2})?")
TEXT_ONLY = ("echo", "local", "sandbox")  # providers in this process; they ignore tools and images

READ_FILES = ("anthropic",)  # providers whose models all read files


def recorded(name: str) -> Expert:
    """An expert of an outcome table. Its answers exist already, so it admits every query."""
    return Expert(name, capabilities=EVERYTHING, data_classes=frozenset(DATA_CLASSES))


def objection(expert: Expert, query: Query, max_cost: float | None = None) -> str | None:
    """The reason why a query may not reach an expert; None if it may. Unknown limits fail closed.

    `max_cost` is the US$ that may still be spent; the default is the query's own `max_cost`.

    >>> objection(Expert("cloud"), Query.of("my diagnosis", data_class="restricted"))
    'serves data class public, not restricted'
    """
    if (reason := secrecy(expert, query)) is not None:
        return reason
    if missing := query.needs - capabilities(expert):
        return f"lacks {', '.join(sorted(missing))}{_way_out(missing)}"
    if expert.context_window is not None and query.input_tokens > expert.context_window:
        window, length = expert.context_window, query.input_tokens
        return f"has a context window of {window} tokens, and the query has about {length}"
    max_cost = query.max_cost if max_cost is None else max_cost
    if max_cost is not None and (least := expert.price(query.input_tokens, 1)) > max_cost:
        return f"costs at least ${least:.2g}, more than max_cost ${max_cost:.2g}"
    if query.allowed is not None and expert.name not in query.allowed:
        return "is not among the experts that this query may use"
    return None


def capabilities(expert: Expert) -> frozenset[str]:
    """The capabilities that a query may need of an expert; unknown ones count as available."""
    own = expert.capabilities
    if own is None:
        own = frozenset() if expert.provider in TEXT_ONLY else EVERYTHING
    return own | {"files"} if expert.provider in READ_FILES else own


def built_in_needs(tools: Iterable[str], experts: Iterable[Expert]) -> frozenset[str]:
    """The capabilities that a request with built-in tools of these types needs of an expert.

    A tool that no expert lists is none of them: then every expert may be asked, without it.

    >>> web = Expert("web", capabilities=frozenset({"tools", "web_search"}))
    >>> sorted(built_in_needs(["web_search_20250305", "computer_use_preview"], [web]))
    ['web_search']
    """
    needs = {name for tool in tools if (name := built_in_tool(tool)) is not None}
    listed = (expert.capabilities or frozenset() for expert in experts)
    return frozenset(needs.intersection(name for names in listed for name in names))


def built_in_tool(kind: str) -> str | None:
    """The capability for a built-in tool by its type, whatever its version; None: there is none."""
    names = (name for name in BUILT_IN_TOOLS if kind.startswith(name))
    return next((name for name in names if VERSION.fullmatch(kind, len(name))), None)


def _way_out(missing: frozenset[str]) -> str:
    """The advice for capabilities that a config can name; others have no remedy there."""
    names = ", ".join(sorted(missing))
    if not missing <= EVERYTHING | set(BUILT_IN_TOOLS):
        return ""
    return f" (if it can do this, add {names} to its `capabilities:` in the config)"


def secrecy(expert: Expert, query: Query) -> str | None:
    """The reason why an expert may not see a text, by its data class or region; None if it may."""
    if query.data_class not in expert.data_classes:
        serves = ", ".join(sorted(expert.data_classes)) or "nothing"
        return f"serves data class {serves}, not {query.data_class}"
    if query.region is not None and query.region != expert.region:
        return f"runs in region {expert.region or 'unknown'}, not {query.region}"
    return None


def visible(expert: Expert, queries: Sequence[Query]) -> tuple[list[int], str]:
    """The positions of the queries that an expert may see, and a sentence about the others.

    The sentence is empty if it may see all.

    >>> rows = [Query.of("2 + 2?"), Query.of("my diagnosis", data_class="restricted")]
    >>> visible(Expert("cloud"), rows)
    ([0], "'cloud' is not sent 1 of 2 queries: it serves data class public, not restricted")
    """
    reasons = [secrecy(expert, query) for query in queries]
    positions = [place for place, reason in enumerate(reasons) if reason is None]
    others = dict.fromkeys(reason for reason in reasons if reason is not None)
    if not others:
        return positions, ""
    hidden = f"{len(queries) - len(positions)} of {len(queries)} queries"
    return positions, f"'{expert.name}' is not sent {hidden}: it {' or '.join(others)}"


def check_visible(expert: Expert, queries: Sequence[Query]) -> list[int]:
    """The positions of the queries that an expert may see; raises BadInput if it may see none."""
    positions, sentence = visible(expert, queries)
    if sentence and not positions:
        raise BadInput(
            f"{sentence}; choose another expert, or change its `data_classes` or `region` in the"
            " config"
        )
    return positions


def strictest(classes: Iterable[DataClass]) -> DataClass:
    """The data class of a text that was made from texts of these classes.

    >>> strictest(["internal", "public"]), strictest([])
    ('internal', 'public')
    """
    return max(classes, key=DATA_CLASSES.index, default=DATA_CLASSES[0])


def quotation(text: str, sources: Sequence[Query], **limits: Any) -> Query:
    """A query that asks `text`, which was made from the texts of `sources`.

    It has the strictest data class among them, and their region. Raises BadInput if they are bound
    to different regions, because no expert may see all of them.

    >>> rows = [Query.of("2 + 2?"), Query.of("my diagnosis", data_class="restricted", region="eu")]
    >>> quoted = quotation("Write more such questions: …", rows)
    >>> quoted.data_class, quoted.region
    ('restricted', 'eu')
    """
    regions = sorted({query.region for query in sources if query.region is not None})
    if len(regions) > 1:
        raise BadInput(
            f"one prompt cannot quote texts from regions {' and '.join(regions)}: use a table with"
            " one region"
        )
    data_class = strictest(query.data_class for query in sources)
    return Query.of(text, data_class=data_class, region=next(iter(regions), None), **limits)


def admit(query: Query, experts: Iterable[Expert]) -> tuple[Query, dict[str, str]]:
    """The query with `allowed` set, and expert ▶ reason for every rejected expert.

    Raises NoAdmissibleExpert if every expert is rejected.
    """
    objections = {expert.name: objection(expert, query) for expert in experts}
    rejected = {name: reason for name, reason in objections.items() if reason is not None}
    allowed = frozenset(objections) - frozenset(rejected)
    if not allowed:
        raise NoAdmissibleExpert(rejected)
    return changed(query, allowed=allowed), rejected


def guard(ask: Ask, query: Query, experts: Mapping[str, Expert]) -> None:
    """Raises NotAdmissible unless the query's limits and the ask's own `max_cost` allow the ask."""
    expert = experts.get(ask.expert)
    if expert is None:
        raise NotAdmissible(ask.expert, f"it does not exist; the experts are {', '.join(experts)}")
    if (reason := objection(expert, query, ask.max_cost)) is not None:
        raise NotAdmissible(ask.expert, reason)
