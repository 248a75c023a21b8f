"""Records paid work in an append-only file: one JSON line per event, synced to disk at once.

Code that spends money records every result, so that a run which was killed can continue and pays
nothing twice. `ledger.Ledger` records the asks of experts in a journal. Other work that costs money
or hours can have a journal of its own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from routewright.errors import BadInput


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)  # unbuffered: a failed write can be undone
        except OSError as error:
            raise BadInput(
                f"the journal '{path}' cannot be opened ({error.strerror}): name another one"
            ) from error
        try:
            _lock(self._file.fileno(), path)
            self._file.seek(0)
            raw = self._file.read()
            self.entries = _parse(raw, path)
            self._file.truncate(raw.rfind(b"\n") + 1)
        except BaseException:
            self._file.close()
            raise

    def write(self, **event: Any) -> None:
        """Appends an event and syncs it to disk, so that it survives a crash of the machine.

        Raises BadInput if the disk refuses it; the file then holds only whole lines.
        """
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        line = memoryview(text.encode("utf-8", "replace") + b"\n")
        with self._lock:
            try:
                end = os.fstat(self._file.fileno()).st_size
                while line:
                    line = line[self._file.write(line) :]
                os.fsync(self._file.fileno())
                return
            except OSError as error:
                failure = error
                with suppress(OSError):  # half a line would damage the next one
                    self._file.truncate(end)
            raise BadInput(
                f"the journal '{self.path}' cannot be written ({failure.strerror}): free some"
                " space and run this again"
            ) from failure

    def close(self) -> None:
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
    return _parse(path.read_bytes(), path) if path.exists() else []


def _parse(raw: bytes, path: Path) -> list[dict[str, Any]]:
    lines = raw.split(b"\n")[:-1]  # a crash cut off what follows the last line break
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
