"""Adds up what asks would cost without sending them, and answers asks from the journal alone."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from routewright.errors import UpstreamError
from routewright.experts.client import Client
from routewright.experts.ledger import Ledger, key_of, recall, recalled
from routewright.experts.providers import input_tokens
from routewright.experts.spending import LIMITS, SPEED
from routewright.types import Answer, Ask, Delta, Expert, Query

TYPICAL_TOKENS = 250  # of an answer by an expert without answers in the journal


@dataclass
class Estimate:
    """What the asks of one expert would take."""

    asks: int = 0
    in_journal: int = 0  # asks whose answers are in the journal already; they are free
    cost: float = 0.0  # expected US$
    bound: float = 0.0  # upper bound, US$
    seconds: float = 0.0  # if one ask follows the other


class DryRun:
    """An `Asker` that asks no expert and adds up what the asks would cost.

    It assumes answers as long and as slow as those of the expert in the journal. Without any, it
    assumes 250 tokens at 50 tokens per second, or at the config's `latency`.
    """

    def __init__(self, experts: Iterable[Expert], entries: Iterable[Mapping[str, Any]]) -> None:
        self.client = Client(experts)
        self.answers, self.account = recall(entries)
        self.estimates = {name: Estimate() for name in self.client.experts}
        self._typical = {
            name: _typical(expert, self.answers.values())
            for name, expert in self.client.experts.items()
        }

    async def ask(self, ask: Ask, query: Query) -> Answer:
        estimate, expert = self.estimates[ask.expert], self.client.experts[ask.expert]
        body, key = self.client.body(ask, query), key_of(self.client, ask, query)
        bound = self.client.bound(ask, query)
        estimate.asks += 1
        if key in self.answers:
            estimate.in_journal += 1
            return recalled(self, key, ask.expert)
        tokens, seconds = (2, 1.0) if ask.kind == "verify" else self._typical[ask.expert]
        tokens = min([tokens, *(body[cap] for cap in LIMITS if body.get(cap) is not None)])
        cost = expert.price(input_tokens(body), tokens)
        estimate.cost += cost
        estimate.bound += bound
        estimate.seconds += seconds
        return Answer(ask.expert, "word" * tokens, ask.kind, cost, seconds)

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return self.client.bill(ask, query, seconds)


class Recall:
    """An `Asker` that returns answers from the journal and sends no ask.

    Raises UpstreamError for an ask whose answer is not in the journal.
    """

    def __init__(self, source: Ledger | DryRun) -> None:
        self.source = source

    async def ask(self, ask: Ask, query: Query) -> Answer:
        key = key_of(self.source.client, ask, query)
        if key not in self.source.answers:
            raise UpstreamError(ask.expert, "its answer is not in the journal")
        return recalled(self.source, key, ask.expert)

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        yield await self.ask(ask, query)

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        return Answer(ask.expert, kind=ask.kind)


def _typical(expert: Expert, answers: Iterable[Answer]) -> tuple[int, float]:
    """The mean tokens and seconds of the expert's answers."""
    answers = [a for a in answers if a.expert == expert.name and a.kind == "answer"]
    if not answers:
        return TYPICAL_TOKENS, expert.latency or TYPICAL_TOKENS / SPEED
    seconds = [answer.latency for answer in answers if not math.isnan(answer.latency)]
    return (
        math.ceil(math.fsum(answer.output_tokens for answer in answers) / len(answers)),
        math.fsum(seconds) / len(seconds) if seconds else TYPICAL_TOKENS / SPEED,
    )
