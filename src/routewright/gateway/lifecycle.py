"""Starts the services of a gateway, replaces them when its config is read again, and ends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from routewright.config import Config
from routewright.errors import BadConfig, BadInput
from routewright.experts.client import Client
from routewright.experts.resources import connections
from routewright.gateway.breaker import Breaker
from routewright.gateway.feedback import Feedback
from routewright.gateway.makers import Makers
from routewright.gateway.personal import Detector
from routewright.gateway.policies import Policies
from routewright.gateway.prometheus import Counters, Figures
from routewright.gateway.records import Records
from routewright.gateway.services import Services
from routewright.gateway.sessions import Sessions
from routewright.gateway.slots import Slots
from routewright.gateway.team import Team
from routewright.gateway.tracing import Tracing
from routewright.gateway.windows import Windows

WARM_SECONDS = 2.0  # that the experts get to accept a connection before the gateway is ready
ALL_SECONDS = 60.0  # that the other workers get to read the config again
RELOAD_SECONDS = 5.0  # that a reload in progress gets when the gateway ends
TRACES_SECONDS = 5.0  # that the last spans get to reach their collector
THREADS = 32  # for the steps of strategies; while one predicts, the others wait for the next batch
# keys of `server` that only a restart changes
FIXED = ("host", "port", "store", "traces")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Generation:
    """The services of one reading of the config, and the requests that use them."""

    services: Services
    users: int = 0


class Lifecycle:
    """The services of a gateway. A request uses the same ones from its start to its end.

    `load` reads the config again; without it the gateway cannot. Raises BadInput if the config
    cannot be served.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config] | None = None,
        team: Team | None = None,
    ) -> None:
        self.stopping = False  # whether `/ready` tells load balancers to send no more requests
        self.counters = Counters()
        self.config = config
        self.tracing = Tracing() if config.server.traces else None
        self.team = team or Team()
        self.team.answers |= {
            "reload": self._reload_for_others,
            "metrics": self._figures,
            "slots": self._slots,
            "need": self._need,
        }
        self._load = load
        self._policies = Policies(config)
        self._feedback = _feedback(config)
        self.records = Records(config)
        self.counters.records = self.records
        self.sessions = Sessions(self.records)
        self.windows = Windows()
        self._personal = _personal(config)
        self._makers = Makers()
        self._first = config.server
        self._threads = ThreadPoolExecutor(THREADS, "routewright")
        self._living: list[Generation] = []  # the last one is current
        self._closing: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()

    @property
    def services(self) -> Services:
        return self._living[-1].services

    async def start(self) -> None:
        """Starts the services and connects to the experts, as far as they answer."""
        self.records.start()
        self._open(self.config, self._policies, self._feedback)
        if self.records.store is not None:  # what other gateways have spent counts from the start
            await asyncio.to_thread(self._policies.pacers.save)
        await self.services.client.warm(WARM_SECONDS)

    @contextmanager
    def use(self) -> Iterator[Services]:
        """The present services, which stay open until the end of the block."""
        generation = self._living[-1]
        generation.users += 1
        try:
            yield generation.services
        finally:
            generation.users -= 1
            self._close_unused()

    async def reload(self) -> list[str]:
        """Reads the config and its routers again; returns the changed keys that need a restart.

        Requests in progress end with the services that they began with. If the config cannot be
        served, the old one stays in force: raises BadInput, whose message tells why.
        """
        if self._load is None:
            raise BadInput("this gateway was started without a config file: restart it instead")
        # A client that disconnects meanwhile does not leave it half done.
        return await asyncio.shield(asyncio.ensure_future(self._reload()))

    async def reload_all(self) -> list[str]:
        """The same for all workers of the gateway; the others begin when it has worked here."""
        changed = await self.reload()
        await self.team.gather("reload", seconds=ALL_SECONDS)
        return changed

    async def _reload_for_others(self, value: object) -> bool:
        with suppress(BadInput):  # the log tells why
            await self.reload()
        return True

    async def _figures(self, value: object) -> Figures:
        return self.counters.figures()

    async def _slots(self, value: object) -> list[int]:
        slots = self.services.slots
        return [slots.in_progress, slots.waiting, slots.running]

    async def _need(self, expert: str) -> None:
        """Runs the server of a launched expert for another worker."""
        if self._living and (supervisor := self.services.client.servers.get(expert)) is not None:
            supervisor.needed()

    async def _reload(self) -> list[str]:
        async with self._reloading:
            try:
                config, policies, feedback = await asyncio.to_thread(self._read)
            except BadInput as error:
                log.error("the config was not read again, the old one stays in force: %s", error)
                raise
            except Exception as error:  # a file may be damaged in any way
                log.exception("the config was not read again, the old one stays in force")
                message = f"the config cannot be read ({type(error).__name__}): the log says why"
                raise BadConfig(message) from error
            self.config = config
            self._open(config, policies, feedback)
            await self.services.client.warm(WARM_SECONDS)
            self._close_unused()
        changed = [
            f"server.{key}"
            for key in FIXED
            if getattr(config.server, key) != getattr(self._first, key)
        ]
        restart = f"; {', '.join(changed)} will change with a restart" if changed else ""
        log.info("the config was read again: %d experts%s", len(config.experts), restart)
        return changed

    async def close(self) -> None:
        """Closes everything, also what is still in use.

        A reload in progress may wait for a file system that does not answer: it is left behind.
        """
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(RELOAD_SECONDS):
                    await stack.enter_async_context(self._reloading)
            await asyncio.gather(*self._closing, return_exceptions=True)
            if self._living and self.services.client.servers:  # others may still ask them
                await self.team.alone(self.config.server.drain_seconds + RELOAD_SECONDS)
            while self._living:
                await self._close(self._living.pop(0))
            await self.records.close()
            if self.tracing is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.to_thread(self.tracing.close), TRACES_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self) -> tuple[Config, Policies, Feedback | None]:
        assert self._load is not None
        config = self._load()
        policies = Policies(config)
        if self._personal is None or self._personal.settings != config.server.pii:
            self._personal = _personal(config)
        path = config.server.feedback
        for generation in self._living:  # a file has one writer
            feedback = generation.services.feedback
            if path and feedback and feedback.journal.path == config.folder / path:
                return config, policies, feedback
        return config, policies, _feedback(config)

    def _open(self, config: Config, policies: Policies, feedback: Feedback | None) -> None:
        experts = config.experts_by_name()
        old = [generation.services for generation in self._living]
        client = Client(
            experts.values(),
            predecessors=[services.client for services in old],
            need=self.team.need if self.team.number else None,
        )
        servers = {id(server) for services in old for server in services.client.servers.values()}
        for supervisor in client.servers.values():
            if supervisor.launch.start == "serve" and id(supervisor) not in servers:
                supervisor.begin()
        breaker = Breaker(client, client.is_down)
        if old:
            before = old[-1]
            same = [name for name, expert in experts.items() if before.experts.get(name) == expert]
            breaker.inherit(before.breaker, same)
            policies.pacers.inherit(before.policies.pacers)
        if feedback is not None:
            feedback.answers = config.server.feedback_answers
        running = min(config.server.max_concurrency, connections().upstream)
        slots = Slots(running, config.server.queue)
        services = Services(
            config,
            policies,
            experts,
            client,
            breaker,
            self._threads,
            feedback=feedback,
            counters=self.counters,
            slots=slots,
            records=self.records,
            personal=self._personal,
            windows=self.windows,
            sessions=self.sessions,
            makers=self._makers,
        )
        self.windows.set(experts.values())
        self.counters.pacers = policies.pacers.by_policy
        self.records.settings = config.server
        if (store := self.records.store) is not None:
            policies.pacers.update = store.update_state
            self.records.exchanges = (
                policies.pacers.exchange,
                partial(breaker.exchange, store.update_state),
                partial(self.windows.exchange, store.update_state),
            )
        self._living.append(Generation(services))

    def _close_unused(self) -> None:
        """Closes old services that no request uses any longer."""
        for generation in self._living[:-1]:
            if not generation.users:
                self._living.remove(generation)
                task = asyncio.ensure_future(self._close(generation))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def _close(self, generation: Generation) -> None:
        services, others = generation.services, [other.services for other in self._living]
        if not others:
            await asyncio.to_thread(services.policies.pacers.save)
        await services.client.close([other.client for other in others])
        feedback = services.feedback
        if feedback is not None and all(other.feedback is not feedback for other in others):
            feedback.journal.close()


def _personal(config: Config) -> Detector | None:
    return None if config.server.pii is None else Detector(config.server.pii)


def _feedback(config: Config) -> Feedback | None:
    path = config.server.feedback
    if path is None:
        return None
    return Feedback(config.folder / path, answers=config.server.feedback_answers)
