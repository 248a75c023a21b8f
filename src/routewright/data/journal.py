"""Records paid work in an append-only file: one JSON line per event, synced to disk at once.

Code that spends money records every result, so that a run which was killed can continue and pays
nothing twice. `ledger.Ledger` records the asks of experts in a journal. Other work that costs money
or hours can have a journal of its own. Before the money is spent, `make_room` sets aside the space
on the disk that the result will need.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from routewright.errors import BadInput

OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class DiskFull(BadInput):
    """The disk has no room for further events. All events so far are in the journal."""


class Journal:
    """A JSONL file that one process at a time reads once and then only appends to.

    `entries` are the events that the file held when it was opened. A last line that a crash cut
    off is dropped. Raises BadInput if any other line is damaged, if the file cannot be opened, or
    if another process is writing to it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> with Journal(path) as journal:
    ...     journal.write(query="q1", cost=0.002)
    >>> with Journal(path) as journal:
    ...     journal.entries
    [{'query': 'q1', 'cost': 0.002}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._end: int | None = None  # of the events, while space is reserved behind them
        if path.exists() and not path.is_file():  # to read a pipe would wait for its writer
            raise BadInput(f"the journal '{path}' is not a regular file: name another one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that a failed write can be undone; not for appending, because events
            # are written in front of the reserved space.
            self._file = os.fdopen(os.open(path, OPEN, 0o666), "r+b", buffering=0)
        except OSError as error:
            raise BadInput(
                f"the journal '{path}' cannot be opened ({error.strerror}): name another one"
            ) from error
        try:
            _lock(self._file.fileno(), path)
            self._file.seek(0)
            raw = _whole(self._file.read())
            self.entries = _parse(raw, path)
            self._file.truncate(len(raw))
        except BaseException:
            self._file.close()
            raise

    def make_room(self, size: int) -> None:
        """Sets aside `size` bytes behind the events, in place of an earlier reservation.

        These bytes can be written even if the disk fills up meanwhile. They are zeros, which a
        reader ignores and `close` removes. Raises DiskFull if there are not so many.
        """
        with self._lock:
            length = os.fstat(self._file.fileno()).st_size
            end = length if self._end is None else self._end
            try:
                if end + size > length:
                    _allocate(self._file, length, end + size - length)
            except OSError as error:
                with suppress(OSError):
                    self._file.truncate(length)
                raise DiskFull(
                    f"the disk has no room for further answers in the journal '{self.path}'"
                    f" ({error.strerror}): free some space and run the same command again; every"
                    " answer that was paid for is in the journal"
                ) from error
            self._end = end

    def write(self, **event: Any) -> None:
        """Appends an event and syncs it to disk, so that it survives a crash of the machine.

        Raises BadInput if the disk refuses it; the file then holds only whole lines.
        """
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        line = memoryview(text.encode("utf-8", "replace") + b"\n")
        with self._lock:
            length = os.fstat(self._file.fileno()).st_size
            end = length if self._end is None else self._end
            try:
                self._file.seek(end)
                while line:
                    line = line[self._file.write(line) :]
                os.fsync(self._file.fileno())
                if self._end is not None:
                    self._end = self._file.tell()
                return
            except OSError as error:
                failure = error
                with suppress(OSError):  # half a line would damage the next one
                    self._file.truncate(end)
                    if self._end is not None:
                        _allocate(self._file, end, length - end)  # other events need this room
            raise BadInput(
                f"the journal '{self.path}' cannot be written ({failure.strerror}): free some"
                " space and run this again"
            ) from failure

    def close(self) -> None:
        if self._end is not None:
            with suppress(OSError):  # the next process removes the reserved space, too
                self._file.truncate(self._end)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The events of a journal, even while a process writes to it; none if there is no such file."""
    return _parse(_whole(path.read_bytes()), path) if path.exists() else []


def _whole(raw: bytes) -> bytes:
    """The whole lines; a crash cut off what follows the last line break.

    If the machine stopped while a line was written into the reserved space, parts of this line may
    still be zeros, which JSON does not contain.
    """
    end = raw.rfind(b"\n") + 1
    last = raw.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return raw[: last if b"\0" in raw[last:end] else end]


def _allocate(file: Any, start: int, size: int) -> None:
    """Sets aside `size` bytes of zeros on the disk from `start`, the end of the file."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), start, size)
        except OSError as error:  # a file system without it
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    file.seek(start)
    zeros = memoryview(bytes(size))
    while zeros:
        zeros = zeros[file.write(zeros) :]


def _parse(raw: bytes, path: Path) -> list[dict[str, Any]]:
    lines = raw.split(b"\n")[:-1]
    return [_event(line, number, path) for number, line in enumerate(lines, start=1)]


def _event(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise BadInput(
            f"'{path}' line {number} is damaged, so the amount paid is unknown: fix or delete"
            " that line, or name another journal to start again"
        )
    return event


def _lock(file: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BadInput(
            f"another process is writing to the journal '{path}': wait for it, or stop it"
        ) from error
