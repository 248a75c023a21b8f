"""What every request of the gateway shares."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from starlette.requests import Request

from routewright.config import Config
from routewright.experts.client import Client
from routewright.gateway import body as chat
from routewright.gateway.body import ChatRequest, read
from routewright.gateway.breaker import Breaker
from routewright.gateway.budgets import point_within
from routewright.gateway.feedback import Feedback
from routewright.gateway.makers import Makers
from routewright.gateway.personal import Detector
from routewright.gateway.policies import Policies, Policy
from routewright.gateway.prometheus import Counters
from routewright.gateway.records import Records
from routewright.gateway.sessions import Sessions
from routewright.gateway.slots import Slots
from routewright.gateway.windows import Windows
from routewright.router.frontier import OperatingPoint
from routewright.types import DataClass, Expert

MOST_POINTS = 1000  # that are kept for steered budgets


class Parse(Protocol):
    """Validates the body of a request in one protocol; raises BadRequest."""

    def __call__(self, body: Any, default_data_class: DataClass) -> ChatRequest: ...


@dataclass(frozen=True)
class Services:
    """What every request shares: config, policies, client, counters."""

    config: Config
    policies: Policies
    experts: dict[str, Expert]
    client: Client
    breaker: Breaker  # sends asks through the client
    threads: ThreadPoolExecutor  # for the steps of strategies, which read prompts and answers
    feedback: Feedback | None = None  # None: the gateway accepts no scores
    counters: Counters = field(default_factory=Counters)
    slots: Slots = field(default_factory=Slots)  # for requests that ask experts
    records: Records = field(default_factory=Records)  # of keys, budgets and decisions
    personal: Detector | None = None  # None: nobody looks for personal data
    windows: Windows = field(default_factory=Windows)  # of the experts' subscriptions
    sessions: Sessions = field(default_factory=lambda: Sessions(Records()))
    makers: Makers = field(default_factory=Makers)  # of reasoning that only its expert can read
    # Policy, allowance and own cost in US$ per query ▶ the cheaper point that is served.
    points: dict[tuple[str, float, float], OperatingPoint | None] = field(default_factory=dict)

    async def read(self, request: Request, parse: Parse = chat.parse) -> ChatRequest:
        """Reads a request and validates it by a protocol's `parse`; raises BadRequest."""
        server = self.config.server
        validate = partial(parse, default_data_class=server.default_data_class)
        return await read(request, server.max_body_bytes, validate)

    async def steered(self, policy: Policy, allowed: float) -> Policy:
        """The policy at a point that costs at most `allowed` US$ per query on average."""
        if math.isinf(allowed) or policy.router is None or policy.point is None:
            return policy
        place = policy.name, allowed, policy.point.cost
        if place not in self.points:
            if len(self.points) >= MOST_POINTS:
                self.points.clear()
            self.points[place] = await self.run(point_within, policy, allowed)
        point = self.points[place]
        if point is None:
            return policy
        return policy.at(point)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function in a thread, so that other requests go on meanwhile."""
        loop = asyncio.get_running_loop()
        context = copy_context()  # so that its log lines name the request
        return await loop.run_in_executor(self.threads, context.run, function, *arguments)
