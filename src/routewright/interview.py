"""Asks every expert every question and grades what it says: the rows that routers learn from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl

from routewright.drive import Asker, decide
from routewright.errors import UpstreamError
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Expert, Outcome, Query

Grader = Callable[[Query, Answer], float]  # 0..1, NaN for what it cannot grade
CONCURRENCY = 4  # questions under way at once, per expert


async def interview(
    queries: Sequence[Query],
    experts: Iterable[Expert],
    asker: Asker,
    grade: Grader,
    *,
    split: Callable[[Query], str] = lambda query: "train",
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """One outcome per query and expert. An expert that fails gives score NaN, and its cost.

    `on_outcome` is called for each as it arrives.
    """

    async def one(query: Query, expert: Expert, turn: asyncio.Semaphore) -> Outcome:
        async with turn:
            try:
                answer = (await decide(Fixed(expert.name), query, [expert], asker)).answer
                score = grade(query, answer)
            except UpstreamError as error:
                answer, score = Answer(expert.name, cost=error.cost), float("nan")
        outcome = Outcome(
            id=query.id,
            expert=expert.name,
            prompt=query.text,
            score=score,
            cost=answer.cost,
            domain=query.domain,
            split=split(query),
            answer=answer.text,
            latency=answer.latency,
            out_tokens=answer.output_tokens,
        )
        on_outcome(outcome)
        return outcome

    turns = {expert: asyncio.Semaphore(CONCURRENCY) for expert in [e.name for e in experts]}
    asked = [one(query, expert, turns[expert.name]) for query in queries for expert in experts]
    return list(await asyncio.gather(*asked))


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes a wide outcome table (design section 4)."""
    facts: dict[str, dict[str, object]] = {}
    for outcome in outcomes:
        row = facts.setdefault(
            outcome.id,
            {
                "id": outcome.id,
                "prompt": outcome.prompt,
                "domain": outcome.domain,
                "split": outcome.split,
            },
        )
        for measure in ("score", "cost", "answer", "latency", "out_tokens"):
            row[f"{measure}::{outcome.expert}"] = getattr(outcome, measure)
    pl.DataFrame(list(facts.values()), infer_schema_length=None).write_parquet(path)
