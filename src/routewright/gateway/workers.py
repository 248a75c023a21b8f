"""Runs the worker processes of one gateway (`serve --workers`) and keeps them running.

The parent opens the listening socket, and every worker inherits it and accepts from it: so a worker
that has nothing to do takes the next connection, and connections that wait for one that was killed
go to the others. With SO_REUSEPORT the kernel would give each worker a queue of its own, and what
waits in the queue of a killed one would be lost.

Workers are new processes of the same command. On the store they are gateways like any other; what
is in memory they ask each other through the parent (`team`). Worker 0 starts first, so that
mistakes are told once, and the store is made once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from routewright.config import Config
from routewright.errors import BadInput
from routewright.gateway.logs import unblocked
from routewright.gateway.prometheus import Figures, added
from routewright.gateway.server import listen, url_of
from routewright.gateway.team import Answer, Link

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds before a worker that ended is started again
STEADY_SECONDS = 60.0  # after which earlier ends of a worker no longer count
RELOAD_SECONDS = 600.0  # that the workers get to read the config again

log = logging.getLogger(__name__)


def check(config: Config, count: int) -> None:
    """Raises BadInput if several workers cannot serve a config."""
    if sys.platform == "win32":
        raise BadInput("--workers needs Linux or macOS: leave it out, and run several gateways")
    if config.server.feedback is not None:
        raise BadInput(
            f"--workers {count}: only one process can write server.feedback: take it out, because"
            " the store keeps scores, too (`routewright export` writes them as a table)"
        )
    if config.store_url is not None:
        return
    paced = [f"pacing of policy '{n}'" for n, policy in config.policies.items() if policy.pace]
    windows = [f"the window of expert '{e.name}'" for e in config.experts if e.window]
    if needs := [*paced, *windows]:
        raise BadInput(
            f"--workers {count}: the workers share {needs[0]} through the store, and there is none:"
            " remove `store: none`, or leave out --workers"
        )


def command(path: Path, quiet: bool) -> list[str]:
    """What starts a worker: this program again, with the same modules in reach."""
    has_folder = not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()])
    safe = [] if has_folder else ["-P"]
    verb = [sys.executable, *safe, "-m", "routewright", "serve", str(path)]
    return [*verb, *(["--quiet"] if quiet else []), "--as-worker"]


def run(
    words: Sequence[str], count: int, host: str, port: int, ready: Callable[[str], None]
) -> int:
    """Serves with so many workers until it is told to stop; returns the exit code.

    `words` start a worker (`command`). Calls `ready` with the URL as soon as all workers answer.
    Raises BadInput if the port is taken.
    """
    with unblocked(), listen(host, port) as listener:
        return asyncio.run(Workers(words, count, listener, ready).run())


class Worker:
    """One worker process and the link to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.figures: Figures | None = None  # of its metrics, as far as they were told
        self.ready = asyncio.Event()
        self.link: Link | None = None
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, words: Sequence[str], listener: socket.socket, answers: Any) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (listener.fileno(), theirs.fileno())
            self.process = await asyncio.create_subprocess_exec(
                *words,
                ",".join(map(str, (self.number, *descriptors))),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # so that Ctrl-C reaches the parent alone
            )
        self.link = await Link.over(ours, answers)

    def stop(self, how: str) -> None:
        if self.link is not None:
            self.link.tell("stop", how)

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()


class Workers:
    """The parent of the workers.

    SIGTERM, Ctrl-C and SIGHUP mean what they mean to a gateway of one process, for all workers.
    """

    def __init__(
        self,
        words: Sequence[str],
        count: int,
        listener: socket.socket,
        ready: Callable[[str], None] = lambda url: None,
    ) -> None:
        self.words, self.count, self.listener = words, count, listener
        self._ready = ready
        self._workers: dict[int, Worker] = {}  # that run
        self._gone: Figures = {}  # of workers that have ended
        self._changed = asyncio.Condition()  # a worker has ended
        self._signals = 0  # to stop
        self._code = 0
        self._stopping = asyncio.Event()
        self._begun = [asyncio.Event() for _ in range(count)]  # they have been ready
        self._has_terminal = os.isatty(0)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        keepers = []
        for numbers in ([0], range(1, self.count)):  # the first one checks the config for all
            first = [asyncio.create_task(self._keep(number)) for number in numbers]
            keepers += first
            await self._until_ready(numbers)
        if not self._stopping.is_set():
            self._ready(url_of(self.listener))
        await asyncio.gather(*keepers)
        return self._code

    # --- their lives --------------------------------------------------------------------------

    async def _until_ready(self, numbers: Sequence[int]) -> None:
        """Waits until these workers answer requests, or until the gateway is to stop."""

        async def ready() -> None:
            for number in numbers:
                await self._begun[number].wait()

        tasks = [asyncio.create_task(ready()), asyncio.create_task(self._until_stopping())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _until_stopping(self) -> None:
        await self._stopping.wait()

    async def _keep(self, number: int) -> None:
        """Runs a worker, and starts it again whenever it ends."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run(number)
            if self._stopping.is_set():
                return
            if not all(event.is_set() for event in self._begun):  # it has told why
                self._code = code if code > 0 else 1
                return self._stop("now")
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            log.error("worker %d %s; it is started again in %g s", number, how, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run(self, number: int) -> int:
        """Runs a worker until it ends; returns its exit code."""
        worker = Worker(number)
        answers: dict[str, Answer] = {
            "ready": lambda value: self._note_ready(worker),
            "others": lambda value: self._others(worker, **value),
            "need": self._need,
            "alone": lambda value: self._alone(worker),
        }
        await worker.start(self.words, self.listener, answers)
        assert worker.process is not None
        assert worker.link is not None
        self._workers[number] = worker
        if self._stopping.is_set():
            worker.stop("now")
        reading = asyncio.create_task(worker.link.run())
        code = await worker.process.wait()
        await reading
        del self._workers[number]
        if worker.figures:
            self._gone = added(self._gone, worker.figures)
        async with self._changed:
            self._changed.notify_all()
        return code

    # --- signals ------------------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and not (self._has_terminal and not os.isatty(0)):
            task = asyncio.create_task(self._reload())
            self._tasks.add(task)
            return task.add_done_callback(self._tasks.discard)
        self._signals += 1
        if self._signals == 1:
            return self._stop("linger" if number == signal.SIGTERM else "now")
        self._code = 1 if self._signals > 2 else self._code
        for worker in self._workers.values():
            if self._signals > 2 or not worker.ready.is_set():
                worker.kill()
            else:
                worker.stop("cut")

    def _stop(self, how: str) -> None:
        """Tells all workers to stop. The port is closed when the last one has closed it."""
        self._stopping.set()
        self.listener.close()
        for worker in self._workers.values():
            worker.stop(how)

    async def _reload(self) -> None:
        await self._ask(list(self._workers.values()), "reload", None, RELOAD_SECONDS)

    # --- what workers ask ---------------------------------------------------------------------

    async def _note_ready(self, worker: Worker) -> None:
        worker.ready.set()
        self._begun[worker.number].set()

    async def _others(self, origin: Worker, name: str, value: Any, seconds: float) -> list[Any]:
        """Asks all workers but one; of metrics, those of workers that have ended belong to it."""
        others = [worker for worker in self._workers.values() if worker is not origin]
        values = await self._ask(others, name, value, seconds)
        if name != "metrics":
            return [value for value in values if value is not None]
        # What was shown once is remembered, so that no sum falls when a worker ends.
        for worker, figures in zip((origin, *others), (value, *values), strict=True):
            worker.figures = worker.figures if figures is None else figures
        return [self._gone, *(worker.figures for worker in others if worker.figures)]

    async def _ask(
        self, workers: Sequence[Worker], name: str, value: Any, seconds: float
    ) -> list[Any]:
        links = [worker.link for worker in workers if worker.link is not None]
        return await asyncio.gather(*(link.ask(name, value, seconds) for link in links))

    async def _need(self, expert: str) -> None:
        if (first := self._workers.get(0)) is not None and first.link is not None:
            first.link.tell("need", expert)

    async def _alone(self, worker: Worker) -> None:
        """Waits until no other worker is left, if all of them are to stop."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._stopping.is_set() or list(self._workers.values()) == [worker]
            )
