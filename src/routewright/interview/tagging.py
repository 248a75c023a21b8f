"""What queries are about: tags by an expert in its own words, or clusters of vectors.

An open vocabulary spells one thing in many ways (InsTag, arXiv 2308.07074), so tags are brought
to one spelling, and those that too few queries share are dropped.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from routewright import prompts
from routewright.data.journal import Journal
from routewright.drive import consult
from routewright.errors import BadInput
from routewright.experts import ledger
from routewright.experts.providers import Provider
from routewright.types import Answer, Ask, Expert, Query

Tags = tuple[str, ...]
Progress = Callable[[int, int, float], None]  # queries tagged, of how many, US$ spent


@dataclass
class Tally(ledger.Tally):
    """What tagging came to."""

    queries: int = 0
    tagged: int = 0
    tags: int = 0  # different ones


def ask_for_tags(expert: str, query: Query) -> Generator[Ask, Answer, Tags | None]:
    """What an expert says that a query is about; None where that cannot be read."""
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
) -> tuple[list[Tags], Tally]:
    """Tags of each query, none where the expert said none that can be read, and a tally."""
    if expert not in (there := [one.name for one in experts]):
        raise BadInput(f"no expert '{expert}' in the config: it has {', '.join(there)}")
    tally = Tally(queries=len(queries))

    done = 0

    async def one(query: Query, purse: ledger.Ledger) -> Tags:
        nonlocal done
        tags = await consult(ask_for_tags(expert, query), query, experts, purse)
        done += 1
        progress(done, len(queries), purse.account.spent)
        tally.unread += tags is None
        return tags or ()

    async def run() -> list[Tags]:
        purse = ledger.Ledger(experts, journal, budget=budget, providers=providers)
        return [tags or () for tags in await ledger.side_by_side(one, queries, purse, tally)]

    found = merged(asyncio.run(run()), min_count)
    tally.tagged = sum(bool(tags) for tags in found)
    tally.tags = len({tag for tags in found for tag in tags})
    return found, tally


def by_cluster(queries: Sequence[Query], count: int, encoder: str, seed: int = 0) -> list[Tags]:
    """One tag per query: which k-means cluster of the encoder's vectors it lies in."""
    from routewright.prediction.encoders import build
    from routewright.prediction.predictors.zooter import clusters

    reader = build(encoder).fit(queries, seed=seed)
    member = clusters(reader.encode(queries), reader.blocks, count, seed)
    return [(f"cluster {number}",) for number in member.argmax(axis=1).A1]


def normalised(tag: str) -> str:
    """One spelling of case, width, hyphens and spaces.

    >>> normalised("  Word-Problems. ")
    'word problems'
    """
    plain = unicodedata.normalize("NFKC", tag).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", plain).split())


def merged(rows: Sequence[Sequence[str]], min_count: int = 1) -> list[Tags]:
    """The same rows with one spelling per tag, each once, without those of fewer queries.

    Tags that differ in spaces and plurals are one; the commonest spelling stands for all.

    >>> merged([["Word problem", "word-problems"], ["wordproblem", "Logic"], ["word problem"]], 2)
    [('word problem',), ('word problem',), ('word problem',)]
    """
    plain = [[tag for one in row if (tag := normalised(one))] for row in rows]
    spellings: dict[str, Counter[str]] = {}
    for row in plain:
        for tag in row:
            spellings.setdefault(_key(tag), Counter())[tag] += 1
    best = {
        key: min(known, key=lambda tag: (-known[tag], len(tag), tag))
        for key, known in spellings.items()
    }
    keys = [list(dict.fromkeys(_key(tag) for tag in row)) for row in plain]
    carriers = Counter(key for row in keys for key in row)
    return [tuple(best[key] for key in row if carriers[key] >= min_count) for row in keys]


def _key(tag: str) -> str:
    words = [word.removesuffix("s") if len(word) > 3 else word for word in tag.split()]
    return "".join(words)
