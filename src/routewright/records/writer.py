"""The thread that writes to the store, in batches of one transaction each.

While the store cannot be used, charges and decisions wait in memory, and whoever waits for a
verdict gets StoreDown at once. A full disk stops the records of decisions, and no answer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from routewright.errors import BadInput, RoutewrightError
from routewright.records import accounts
from routewright.records.accounts import Charge, End, Keep, Release, Step, Verdict
from routewright.records.store import Store, is_full, reason

BATCH = 256  # steps in one transaction
TICK = 1.0  # seconds between two looks at what other gateways have changed
SLOW_SECONDS = 5.0  # of one transaction, after which the store counts as down
RETRY_SECONDS = 0.25  # between two tries of a store that fails
MOST_WAITING = 100_000  # steps that wait for the store; then decisions are dropped
UNWRITABLE = (DataError, IntegrityError)  # a value that the database does not accept
SAY_SECONDS = 30.0  # between two log lines about the same trouble

log = logging.getLogger(__name__)


class StoreDown(RoutewrightError):
    """The store cannot be used at the moment."""


@dataclass
class Entry:
    """A step, and who waits for its verdict."""

    step: Step
    future: asyncio.Future[Verdict] | None = None
    again: bool = False  # whether it may have been written before


@dataclass
class State:
    """What the writer knows about its store."""

    # Both by the monotonic clock: the first failure in a row, and the transaction in progress.
    failed_since: float | None = None
    busy_since: float | None = None
    full: bool = False
    dropped: int = 0  # decisions that were not recorded
    waiting: int = 0  # steps that were not written yet
    said: float = field(default=-SAY_SECONDS, repr=False)

    @property
    def down_since(self) -> float | None:
        """Since when the store fails, or does not reply; None while it can be used."""
        busy = self.busy_since
        if self.failed_since is None and busy is not None:
            return busy if time.monotonic() - busy > SLOW_SECONDS else None
        return self.failed_since

    @property
    def is_up(self) -> bool:
        return self.down_since is None


class Writer:
    """Writes steps in the order in which they are submitted. `tick` is called every second, in the
    thread, with the store.

    `submit` and `close` may be called from any thread; futures belong to `loop`. What one turn of
    the loop submits is handed over at its end, so that one transaction writes it: a busy loop would
    otherwise hand over, and write, step by step.
    """

    def __init__(
        self,
        store: Store,
        replica: str,
        loop: asyncio.AbstractEventLoop,
        tick: Callable[[Store], None] = lambda store: None,
    ) -> None:
        self.store, self.replica, self.loop = store, replica, loop
        self.state = State()
        self._tick = tick
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._gathered: deque[Entry] = deque()  # in this turn of the loop
        self._kept: deque[Entry] = deque()  # that wait for a store that fails
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._loop_thread: int | None = None

    def start(self) -> None:
        """Starts the thread; to be called by the one that runs the loop."""
        self._loop_thread = threading.get_ident()
        self._thread.start()

    def submit(self, step: Step, future: asyncio.Future[Verdict] | None = None) -> None:
        """Writes a step soon; sets the future to its verdict, or to StoreDown."""
        if future is None and isinstance(step, End | Keep) and self._queue.qsize() >= MOST_WAITING:
            self.state.dropped += 1
            return
        entry = Entry(step, future)
        if threading.get_ident() != self._loop_thread:
            self._queue.put(entry)
            return
        if not self._gathered:
            self.loop.call_soon(self._hand_over)
        self._gathered.append(entry)

    def _hand_over(self) -> None:
        with suppress(IndexError):  # none is left; a closing gateway may hand over beside the loop
            while True:
                self._queue.put(self._gathered.popleft())

    def close(self, seconds: float = 10.0) -> None:
        """Writes what waits, for at most so many seconds."""
        self._closing.set()
        self._hand_over()
        self._queue.put(None)
        self._thread.join(seconds)
        if waiting := self.state.waiting + self._queue.qsize():
            log.error("%d records were not written to the store", waiting)

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        next_tick = 0.0
        while True:
            if time.monotonic() >= next_tick:
                self._ticked()
                next_tick = time.monotonic() + TICK
            batch = self._next(max(0.0, next_tick - time.monotonic()))
            if batch:
                self._write(batch)
            elif self._closing.is_set() and not self._kept and self._queue.empty():
                return
            elif self._closing.is_set() and self._kept and self.state.failed_since is not None:
                time.sleep(RETRY_SECONDS)

    def _next(self, seconds: float) -> list[Entry]:
        """The next steps; waits at most so many seconds for the first one."""
        batch: list[Entry] = []
        if self._kept and self.state.failed_since is not None:
            seconds = min(seconds, RETRY_SECONDS)
        try:
            entry = self._queue.get(timeout=seconds)
            while True:
                if entry is not None:
                    batch.append(entry)
                if len(batch) >= BATCH:
                    break
                entry = self._queue.get_nowait()
        except queue.Empty:
            pass
        older = [self._kept.popleft() for _ in range(min(len(self._kept), BATCH))]
        return older + batch

    def _write(self, batch: list[Entry]) -> None:
        steps = [entry.step for entry in batch]
        self.state.waiting = len(batch) + len(self._kept)
        try:
            with self._busy(), self.store.begin() as connection:
                again = any(entry.again for entry in batch)
                verdicts = accounts.apply(connection, steps, self.replica, time.time(), again)
        except UNWRITABLE as error:
            self._separately(batch, error)
        except SQLAlchemyError as error:
            self._failed(batch, error)
        except Exception as error:  # of a driver that cannot encode a value
            self._separately(batch, error)
        else:
            self._succeeded()
            self.state.waiting = len(self._kept)
            self._deliver([(e, v) for e, v in zip(batch, verdicts, strict=True) if e.future])

    def _separately(self, batch: list[Entry], error: Exception) -> None:
        """Writes the steps one by one, and drops the one that no database accepts."""
        if len(batch) > 1:
            for entry in batch:
                self._write([entry])
            return
        self.state.dropped += 1
        log.error("a record could not be written (%s): it is dropped", type(error).__name__)
        down = StoreDown("the gateway's store cannot be used at the moment")
        self._deliver([(entry, down) for entry in batch if entry.future])

    def _deliver(self, verdicts: list[tuple[Entry, Verdict | StoreDown]]) -> None:
        def deliver() -> None:
            for entry, verdict in verdicts:
                future = entry.future
                if future is None or future.cancelled():
                    continue
                if isinstance(verdict, StoreDown):
                    future.set_exception(verdict)
                else:
                    future.set_result(verdict)

        if verdicts:
            with suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(deliver)

    def _succeeded(self) -> None:
        state = self.state
        if state.failed_since is not None:
            log.warning("the store %s can be used again", self.store.label)
        state.failed_since, state.full = None, False

    def _failed(self, batch: list[Entry], error: Exception) -> None:
        """Keeps what must be written, and tells the others that the store is down."""
        state, now = self.state, time.monotonic()
        state.full = is_full(error)
        state.failed_since = now if state.failed_since is None else state.failed_since
        down = StoreDown("the gateway's store cannot be used at the moment")
        self._deliver([(entry, down) for entry in batch if entry.future])
        kept = [
            Entry(entry.step, None, True)
            for entry in batch
            if isinstance(entry.step, Charge | Keep | End | Release)
        ]
        if state.full or len(self._kept) + len(kept) > MOST_WAITING:
            charges = [entry for entry in kept if not isinstance(entry.step, End | Keep)]
            state.dropped += sum(isinstance(entry.step, End) for entry in kept)
            kept = charges
        self._kept.extend(kept)
        state.waiting = len(self._kept)
        if now - state.said >= SAY_SECONDS:
            state.said = now
            why = reason(error)
            log.error(
                "the store %s fails (%s): %d records wait, %d decisions were not recorded",
                *(self.store.label, why, state.waiting, state.dropped),
            )

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """While this lasts for long, the store counts as down: it does not reply."""
        self.state.busy_since = time.monotonic()
        try:
            yield
        finally:
            self.state.busy_since = None

    def _ticked(self) -> None:
        try:
            with self._busy():
                self._tick(self.store)
        except (SQLAlchemyError, BadInput) as error:
            self._failed([], error)
        except Exception:
            log.exception("the store could not be read")
        else:
            self._succeeded()
