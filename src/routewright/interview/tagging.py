"""Tags queries by topic: an expert writes the tags, or the vectors of the queries are clustered.

An expert spells the same tag in several ways (InsTag, arXiv 2308.07074), so spellings are merged,
and tags that too few queries share are dropped.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from routewright import prompts
from routewright.data.journal import Journal
from routewright.data.unicode import nfkc
from routewright.drive import consult
from routewright.errors import BadInput
from routewright.experts import ledger
from routewright.experts.limits import check_visible
from routewright.experts.providers import Provider
from routewright.types import Answer, Ask, Expert, Query

Tags = tuple[str, ...]
Progress = Callable[[int, int, float], None]  # queries tagged, queries in total, US$ spent


@dataclass
class Tally(ledger.Tally):
    """The counts of a tagged query set."""

    queries: int = 0
    tagged: int = 0
    tags: int = 0  # distinct tags


def ask_for_tags(expert: str, query: Query) -> Generator[Ask, Answer, Tags | None]:
    """The tags that an expert writes for a query; None if the reply cannot be read."""
    reply = yield Ask(expert, "judge", prompt=prompts.tag(query))
    return prompts.tags(reply.text)


def by_expert(
    queries: Sequence[Query],
    expert: str,
    experts: Sequence[Expert],
    journal: Journal,
    *,
    min_count: int = 2,
    budget: float | None = None,
    providers: Mapping[str, Provider] | None = None,
    progress: Progress = lambda done, of, cost: None,
    watch: ledger.Watch = nullcontext,
) -> tuple[list[Tags], Tally]:
    """The tags of each query and a tally; a query has no tags if the reply cannot be read.

    A query that the expert may not see, by its data class or region, is not sent and has no tags.
    `watch` is entered with the ledger while the expert is asked.
    Raises BadInput if `expert` is not one of `experts`, or may see none of the queries.
    """
    by_name = {one.name: one for one in experts}
    if expert not in by_name:
        raise BadInput(f"no expert '{expert}' in the config: it has {', '.join(by_name)}")
    positions = check_visible(by_name[expert], queries)
    tally = Tally(queries=len(queries))

    done = 0

    async def tag_query(query: Query, client: ledger.Ledger) -> Tags:
        nonlocal done
        tags = await consult(ask_for_tags(expert, query), query, experts, client)
        done += 1
        progress(done, len(positions), client.account.spent)
        tally.unread += tags is None
        return tags or ()

    async def run() -> list[Tags | None]:
        client = ledger.Ledger(experts, journal, budget=budget, providers=providers)
        sent = [queries[place] for place in positions]
        return await ledger.side_by_side(tag_query, sent, client, tally, watch=watch)

    tagged = dict(zip(positions, asyncio.run(run()), strict=True))
    rows = merged([tagged.get(place) or () for place in range(len(queries))], min_count)
    tally.tagged = sum(bool(tags) for tags in rows)
    tally.tags = len({tag for tags in rows for tag in tags})
    return rows, tally


def by_cluster(queries: Sequence[Query], count: int, encoder: str, seed: int = 0) -> list[Tags]:
    """One tag per query: the k-means cluster of its vector."""
    from routewright.prediction.encoders import build
    from routewright.prediction.predictors.zooter import clusters

    reader = build(encoder).fit(queries, seed=seed)
    member = clusters(reader.encode(queries), reader.blocks, count, seed)
    return [(f"cluster {number}",) for number in member.argmax(axis=1).A1]


def normalised(tag: str) -> str:
    """The tag with unified case, character width, hyphens and spaces.

    >>> normalised("  Word-Problems. ")
    'word problems'
    """
    plain = nfkc(tag).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", plain).split())


def merged(rows: Sequence[Sequence[str]], min_count: int = 1) -> list[Tags]:
    """The rows with one spelling per tag, without repeats and without tags of too few queries.

    Tags that differ only in spaces and plurals are the same tag, and the most frequent spelling is
    used. A tag that fewer than `min_count` queries share is dropped.

    >>> merged([["Word problem", "word-problems"], ["wordproblem", "Logic"], ["word problem"]], 2)
    [('word problem',), ('word problem',), ('word problem',)]
    """
    plain = [[tag for text in row if (tag := normalised(text))] for row in rows]
    spellings: dict[str, Counter[str]] = {}
    for row in plain:
        for tag in row:
            spellings.setdefault(_key(tag), Counter())[tag] += 1
    best = {
        key: min(counts, key=lambda tag: (-counts[tag], len(tag), tag))
        for key, counts in spellings.items()
    }
    keys = [list(dict.fromkeys(_key(tag) for tag in row)) for row in plain]
    carriers = Counter(key for row in keys for key in row)
    return [tuple(best[key] for key in row if carriers[key] >= min_count) for row in keys]


def _key(tag: str) -> str:
    words = [word.removesuffix("s") if len(word) > 3 else word for word in tag.split()]
    return "".join(words)
