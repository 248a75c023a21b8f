"""Chooses which deployment of an expert is asked next, and keeps the limits on asks in progress.

An expert without `deployments` has one, which is its own address. Nothing here uses the network.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from routewright.errors import Busy, UpstreamError, UpstreamRefused
from routewright.experts import rate_limits
from routewright.experts.dialect import dialect_of
from routewright.experts.resources import lack
from routewright.types import Deployment, Expert

MINUTE = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds for which one that failed is left alone
LONGEST_WAIT = 10.0  # seconds that an ask waits for a rate limit
# Statuses of refusals that concern the key or the address, so that another deployment may answer.
OF_A_DEPLOYMENT = {401, 402, 403, 404, 407}

log = logging.getLogger(__name__)


class Endpoint:
    """One deployment, what is in progress there, and until when it is left alone.

    `expert` is the expert with the address and the key of the deployment. Times are those of the
    monotonic clock.
    """

    def __init__(self, expert: Expert, deployment: Deployment, number: int) -> None:
        self.expert = _at(expert, deployment)
        self.deployment = deployment
        self.name = deployment.name or str(number)
        self.dialect = dialect_of(self.expert)
        self.running = 0
        self.place = 0.0  # among those that are as busy: the lowest place is next
        self.failures = 0  # in a row
        self.cool_until = 0.0  # after failures; then it is asked only if all others fail too
        self.limited_until = 0.0  # as its replies say
        self.minute: deque[list[float]] = deque()  # time and tokens of what was sent

    def heed(self, headers: Mapping[str, str]) -> None:
        """Keeps the rate limit that a reply tells."""
        if seconds := rate_limits.pause(headers):
            until = time.monotonic() + min(seconds, LONGEST_PAUSE)
            self.limited_until = max(self.limited_until, until)

    def wait(self, now: float, tokens: float) -> float:
        """The seconds until it has room for an ask; infinite if first another one must end."""
        limit = self.deployment.max_concurrency
        if limit is not None and self.running >= limit:
            return math.inf
        wait = self.limited_until - now
        if self.deployment.rpm or self.deployment.tpm:
            wait = max(wait, self._wait_for_minute(now, tokens))
        return max(0.0, wait)

    def _wait_for_minute(self, now: float, tokens: float) -> float:
        while self.minute and self.minute[0][0] <= now - MINUTE:
            self.minute.popleft()
        requests, total = len(self.minute), math.fsum(sent for _, sent in self.minute)
        rpm = math.inf if self.deployment.rpm is None else self.deployment.rpm
        tpm = math.inf if self.deployment.tpm is None else self.deployment.tpm
        wait = 0.0
        for began, sent in self.minute:  # an ask of more than `tpm` is sent when nothing else is
            if requests < rpm and total + tokens <= tpm:
                break
            requests, total, wait = requests - 1, total - sent, began + MINUTE - now
        return wait

    def answered(self) -> None:
        self.failures, self.cool_until = 0, 0.0

    def failed(self, error: UpstreamError) -> float:
        """Leaves it alone for a while, unless the failure is not its own; returns the seconds."""
        if isinstance(error, Busy) or lack(error):
            return 0.0
        if isinstance(error, UpstreamRefused) and error.status not in OF_A_DEPLOYMENT:
            self.answered()
            return 0.0
        self.failures += 1
        pause = min(FIRST_PAUSE * 2.0 ** min(self.failures - 1, 10), LONGEST_PAUSE)
        if error.retry_after is not None:
            pause = min(error.retry_after, LONGEST_PAUSE)
        self.cool_until = time.monotonic() + pause
        return pause


@dataclass
class Turn:
    """The right to send one ask to an endpoint, until `end`."""

    endpoint: Endpoint
    endpoints: Endpoints
    sent: list[float] | None = None  # its entry among those of the last minute

    def end(self, tokens: int = 0) -> None:
        """Lets others go on; `tokens` are those of the answer, input and output."""
        if self.sent is not None and tokens:
            self.sent[1] = tokens
        self.endpoint.running -= 1
        self.endpoints.running -= 1
        self.endpoints.freed.set()


class Endpoints:
    """The deployments of one expert: weighted, the least busy first, those that fail last.

    At most the expert's `max_concurrency` asks are in progress; others wait in order.
    """

    def __init__(self, expert: Expert) -> None:
        self.expert = expert
        deployments = expert.deployments or (Deployment(),)
        self.all = [Endpoint(expert, one, i + 1) for i, one in enumerate(deployments)]
        self.running = 0
        self.counts_tokens = any(one.tpm is not None for one in deployments)
        self.freed = asyncio.Event()
        self._line = asyncio.Lock()  # the head of those who wait
        self._place = 0.0  # that of the last ask

    async def turn(self, tokens: float, patience: float, tried: Collection[Endpoint] = ()) -> Turn:
        """The turn of an ask of so many tokens, at an endpoint that is not among `tried` if others
        have room.

        Waits up to `patience` seconds; raises Busy if that is not enough.
        """
        if not self._line.locked():
            turn, _ = self._take(tokens, tried)
            if turn is not None:
                return turn
        with suppress(TimeoutError):
            async with asyncio.timeout(patience), self._line:
                while True:
                    turn, wait = self._take(tokens, tried)
                    if turn is not None:
                        return turn
                    if math.isfinite(wait) and wait > min(patience, LONGEST_WAIT):
                        break
                    self.freed.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.freed.wait(), min(wait, patience))
        raise self._busy(tokens)

    def others(self, tried: Collection[Endpoint]) -> bool:
        """Whether there are endpoints beside those that were tried."""
        return len(tried) < len(self.all)

    def failed(self, endpoint: Endpoint, error: UpstreamError) -> None:
        """Counts a failure of an endpoint."""
        pause = endpoint.failed(error)
        if pause and len(self.all) > 1:
            # Without the upstream's words, which may quote the query.
            why = f"HTTP {error.status}" if error.status else type(error).__name__
            message = "expert '%s': deployment '%s' failed (%s); others are preferred for %.0f s"
            log.warning(message, self.expert.name, endpoint.name, why, pause)

    def _take(self, tokens: float, tried: Collection[Endpoint]) -> tuple[Turn | None, float]:
        """A turn, if an endpoint has room; else the seconds until one may have it."""
        if self.expert.max_concurrency is not None and self.running >= self.expert.max_concurrency:
            return None, math.inf
        now = time.monotonic()
        if len(self.all) > 1:
            endpoint, wait = self._pick(now, tokens, tried)
        else:
            endpoint, wait = self.all[0], self.all[0].wait(now, tokens)
        return (None, wait) if wait else (self._begin(endpoint, now, tokens), 0.0)

    def _pick(
        self, now: float, tokens: float, tried: Collection[Endpoint]
    ) -> tuple[Endpoint, float]:
        """The endpoint to ask next, and the seconds until it may have room.

        One that failed lately is asked only if no other has room soon.
        """
        members = [endpoint for endpoint in self.all if endpoint not in tried] or self.all
        waits = {endpoint: endpoint.wait(now, tokens) for endpoint in members}
        healthy = [endpoint for endpoint in members if endpoint.cool_until <= now]
        if free := [endpoint for endpoint in healthy if not waits[endpoint]]:
            return min(free, key=self._order), 0.0
        hopeless = all(LONGEST_WAIT < waits[endpoint] < math.inf for endpoint in healthy)
        free = [endpoint for endpoint in members if not waits[endpoint]]
        if hopeless and free:
            return min(free, key=lambda endpoint: endpoint.cool_until), 0.0
        first = min(members, key=lambda endpoint: waits[endpoint])
        return first, waits[first] or math.inf  # others are free, but healthy ones will be soon

    def _order(self, endpoint: Endpoint) -> tuple[float, float]:
        """The least busy comes first; of those that are as busy, the one whose turn it is."""
        return endpoint.running / endpoint.deployment.weight, max(endpoint.place, self._place)

    def _begin(self, endpoint: Endpoint, now: float, tokens: float) -> Turn:
        self._place = max(endpoint.place, self._place)  # one that was left alone catches up nothing
        endpoint.place = self._place + 1 / endpoint.deployment.weight
        endpoint.running += 1
        self.running += 1
        sent = None
        if endpoint.deployment.rpm or endpoint.deployment.tpm:
            sent = [now, tokens]
            endpoint.minute.append(sent)
        return Turn(endpoint, self, sent)

    def _busy(self, tokens: float) -> Busy:
        now = time.monotonic()
        wait = min(endpoint.wait(now, tokens) for endpoint in self.all)
        if 0.0 < wait < math.inf:
            reason = f"its rate limit is used up for another {math.ceil(wait)} s"
            return Busy(self.expert.name, reason, wait)
        reason = f"{self.running} asks are in progress, as many as its `max_concurrency` allows"
        return Busy(self.expert.name, reason, 1.0)


def endpoints_of(
    experts: Iterable[Expert], before: Mapping[str, Endpoints]
) -> dict[str, Endpoints]:
    """The endpoints of experts, by name. Those of unchanged experts keep what is known of them."""
    return {
        expert.name: before[expert.name]
        if expert.name in before and before[expert.name].expert == expert
        else Endpoints(expert)
        for expert in experts
    }


def _at(expert: Expert, deployment: Deployment) -> Expert:
    """The expert with the address, the key and the headers of a deployment."""
    if not expert.deployments:
        return expert
    return replace(
        expert,
        base_url=deployment.base_url or expert.base_url,
        api_key=deployment.api_key or expert.api_key,
        headers={**expert.headers, **deployment.headers},
    )
