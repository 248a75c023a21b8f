"""Writes to stdout and stderr without ever waiting for whoever reads them.

A log that nobody reads blocks every process that writes to it once its pipe is full. So while the
gateway runs, its lines go into a bounded queue, and a thread writes them. Lines that do not fit are
dropped and counted, and the log tells how many as soon as it is read again.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from routewright.gateway.lines import Stderr

LINES = 10_000  # that wait for their reader
PIECE = 4096  # bytes per write; a pipe takes so many whole
FLUSH_SECONDS = 2.0  # that the last lines get at the end

_dropped = 0  # lines of this process


def dropped() -> int:
    """How many lines of this process were dropped because nobody read them."""
    return _dropped


class Unblocked(io.TextIOBase):
    """A text stream in front of another one; a thread of its own writes its lines."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding or "utf-8"
        self._isatty = stream.isatty()
        self._lines: queue.Queue[bytes] = queue.Queue(LINES)
        self._lock = threading.Lock()
        self._rest = ""  # the line that has no end yet
        self._unreported = 0  # dropped lines that were not reported yet
        # A daemon: a process that ends does not wait until somebody reads.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self._isatty

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Takes a text; never waits."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._add(f"{line}\n")
        return len(text)

    def drain(self, seconds: float) -> None:
        """Waits until everything is written, at most so many seconds."""
        with self._lock:
            rest, self._rest = self._rest, ""
            if rest:
                self._add(rest)
        deadline = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)

    def _add(self, line: str) -> None:
        global _dropped
        try:
            self._lines.put_nowait(line.encode(self._encoding, self.errors))
        except queue.Full:
            _dropped += 1
            self._unreported += 1

    def _run(self) -> None:
        global _dropped
        while True:
            line = self._lines.get()
            try:
                self._put(line)
                with self._lock:
                    count, self._unreported = self._unreported, 0
                if count:
                    self._put(f"{count} log lines were dropped: nobody read the log\n".encode())
            except OSError:  # the reader is gone, or the disk is full
                _dropped += 1
                self._unreported += 1
            finally:
                self._lines.task_done()

    def _put(self, line: bytes) -> None:
        # Not through the stream itself: a thread that waits in it would keep its lock for ever.
        while line:
            try:
                line = line[os.write(self._descriptor, line[:PIECE]) :]
            except BlockingIOError:  # another process has made the pipe non-blocking
                select.select([], [self._descriptor], [])


@contextmanager
def unblocked() -> Iterator[None]:
    """Nothing that is printed or logged inside the block waits for its reader.

    Logs at `WARNING` and above, and what `routewright` logs at `INFO`, go to stderr unless the
    program has set up its own log. At the end the last lines get `FLUSH_SECONDS`.
    """
    with ExitStack() as stack:
        streams = [_unblocked(sys.stdout), _unblocked(sys.stderr)]
        if streams[0]:
            stack.enter_context(redirect_stdout(streams[0]))
        if streams[1]:
            stack.enter_context(redirect_stderr(streams[1]))
        logging.getLogger("routewright").setLevel(logging.INFO)
        root, handler = logging.getLogger(), Stderr()
        if not root.handlers:
            root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            for stream in filter(None, streams):
                stream.drain(FLUSH_SECONDS)


def _unblocked(stream: TextIO | None) -> Unblocked | None:
    try:
        return Unblocked(stream) if stream is not None else None
    except (io.UnsupportedOperation, ValueError):  # not a file: it cannot block
        return None
