"""Runs the servers of experts that we run ourselves: starts them, waits until they can answer,
and stops them without leaving a process behind.

A server has a folder with its record and its log, and every process of it carries the record's
token in its environment. So whoever comes later finds it again, after `kill -9` too: starting it
twice gives the one that runs, and stopping it reaches children that outlived their parent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from routewright.errors import BadInput
from routewright.types import Expert

if TYPE_CHECKING:
    import psutil

State: TypeAlias = Literal[
    "absent",  # never started
    "starting",  # the process is there, nothing listens yet
    "loading",  # it listens and is not ready
    "running",  # it can answer
    "degraded",  # it could, and does not now
    "stopped",  # ended because somebody wished so
    "failed",  # ended by itself, or was not ready in time
]
Owner: TypeAlias = Literal["gateway", "user"]

VARIABLE = "ROUTEWRIGHT_LAUNCH"  # holds the token, in the environment of every process of a server
PLACE = Path(".routewright") / "experts"
PATHS = ("/health", "/models")  # of the host and of base_url; the first that is no 404 counts
LOG_BYTES = 10 * 2**20  # a larger log begins anew at the next start; one older is kept
PROBE_SECONDS = 2.0
SETTLE = 0.05  # seconds in which a process that is just being born gets its environment
SAME = 2.0  # seconds by which the clock may have been set meanwhile
LONGEST_PAUSE = 1.0  # seconds between looks at a server that is getting ready
TAIL = 200  # characters of a log in a message


@dataclass(frozen=True)
class Record:
    """What is known of a server on disk. Times are seconds since the epoch."""

    name: str
    pid: int
    token: str
    command: tuple[str, ...]
    owner: Owner  # a gateway stops what gateways started
    began: float  # as the system tells it: with the pid it names the process
    ready: float | None = None  # when it first could answer
    ended: Literal["stopped", "failed"] | None = None
    why: str = ""


@dataclass(frozen=True)
class Status:
    """A server as it is now."""

    name: str
    state: State
    record: Record | None = None


class Server:
    """The server of one expert. Methods that may block say so; none needs an event loop but
    `status` and `until_ready`."""

    def __init__(self, expert: Expert) -> None:
        assert expert.launch is not None, "only experts with `launch:` have a server of ours"
        self.expert = expert
        self.launch = expert.launch
        self.name = expert.name
        self.folder = Path(self.launch.folder) / PLACE / quote(expert.name, safe="")
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    # --- what is known ------------------------------------------------------------------------

    def record(self) -> Record | None:
        return read(self.folder)

    def alive(self) -> bool:
        """Whether the process that was started is still there; reaps it if it is ours."""
        if self._process is not None:
            self._process.poll()
        record = self.record()
        return record is not None and record.ended is None and _lives(record)

    async def status(self) -> Status:
        """Looks at the process, then asks it; writes down the first time that it is ready."""
        if not self.alive():
            return self._at_rest()
        code = await self._probe()
        record = self.record()
        if record is None or record.ended is not None:  # somebody stopped it meanwhile
            return self._at_rest()
        if code == 200:
            if record.ready is None:
                record = replace(record, ready=time.time())
                _note(self.folder, record)
            return Status(self.name, "running", record)
        if record.ready is not None:
            return Status(self.name, "degraded", record)
        return Status(self.name, "starting" if code is None else "loading", record)

    def _at_rest(self) -> Status:
        record = self.record()
        if record is None:
            return Status(self.name, "absent")
        if record.ended is None:
            record = replace(record, ended="failed", why=self._crash(record))
            _note(self.folder, record)
        return Status(self.name, record.ended or "failed", record)

    def _crash(self, record: Record) -> str:
        code = None  # known of our own child only
        if self._process is not None and self._process.pid == record.pid:
            code = self._process.poll()
        ended = "ended by itself"
        if code is not None:
            ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"it {ended} after {time.time() - record.began:.1f} s{self._said()}"

    def _said(self) -> str:
        """The last line of the log, and where the rest is."""
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace")[-8192:].split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"; its last words: {last[:TAIL]} (all of them: {self.log})"

    async def _probe(self) -> int | None:
        """The HTTP status of its readiness; None if nothing answers."""
        import aiohttp

        base = (self.expert.base_url or "").rstrip("/")
        host = f"{urlsplit(base).scheme}://{urlsplit(base).netloc}"
        asked = [host + self.launch.ready] if self.launch.ready else []
        asked = asked or [host + PATHS[0], base + PATHS[1]]
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        key = self.expert.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        code: int | None = None
        try:
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
                for url in asked:
                    async with session.get(url, allow_redirects=False) as response:
                        code = response.status
                    if code != 404:
                        break
        except (aiohttp.ClientError, TimeoutError):
            return None
        return code

    # --- starting and stopping ----------------------------------------------------------------

    def start(self, owner: Owner) -> Record:
        """Starts it unless it runs already; raises BadInput where it cannot. May block."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder):
                return self._start(owner)
        except OSError as error:
            raise BadInput(
                f"expert '{self.name}' cannot start: '{error.filename or self.folder}':"
                f" {(error.strerror or str(error)).lower()}; its record and log need a place there"
            ) from error

    def _start(self, owner: Owner) -> Record:
        record = self.record()
        if record is not None and self.alive():
            if record.command == self.launch.command:
                return record
            self._end(record, "stopped", "its command has changed")
        elif record is not None:
            self._end(record, "failed" if record.ended is None else record.ended, record.why)
        self._check_port()
        return self._spawn(owner)

    def _check_port(self) -> None:
        url = urlsplit(self.expert.base_url or "")
        host, port = url.hostname or "127.0.0.1", url.port or 80
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return  # its own message will be better than our guess
            raise BadInput(
                f"expert '{self.name}' cannot start: port {port} is taken{_holder(port)}; stop"
                " that, or change the port in `base_url` (and in `launch.command`)"
            ) from error

    def _spawn(self, owner: Owner) -> Record:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.folder / "log.1")
        token, command = uuid.uuid4().hex, self.launch.command
        with self.log.open("ab") as log:
            log.write(f"--- {time.strftime('%F %T')} {command[0]}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.launch.folder,
                    env={**os.environ, **self.launch.env, VARIABLE: token},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in our terminal is not for it
                )
            except OSError as error:
                raise BadInput(
                    f"expert '{self.name}' cannot start: {command[0]}:"
                    f" {(error.strerror or str(error)).lower()}; install it, or mend"
                    " `launch.command`"
                ) from error
        pid = self._process.pid
        record = Record(self.name, pid, token, command, owner, _began(pid) or time.time())
        try:
            _write(self.folder, record)
        except OSError:
            end(record, self.launch.grace)  # without a record nobody would find it again
            raise
        return record

    async def until_ready(self, patience: float | None = None) -> Status:
        """Waits for it; raises BadInput if it ends or is not ready in time (it is stopped then)."""
        import asyncio

        patience = self.launch.patience if patience is None else patience
        deadline, pause = time.monotonic() + patience, 0.05
        while (found := await self.status()).state != "running":
            why = found.record.why if found.record else ""
            if found.state in ("stopped", "failed", "absent"):
                raise BadInput(f"expert '{self.name}' did not start: {why or found.state}")
            if time.monotonic() > deadline:
                why = f"it was not ready within {patience:g} s{self._said()}"
                await asyncio.to_thread(self.stop, "failed", why)
                raise BadInput(f"expert '{self.name}' did not start: {why}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return found

    def stop(self, ended: Literal["stopped", "failed"] = "stopped", why: str = "") -> bool:
        """Ends every process of it, and says whether there was one. Blocks up to `grace`."""
        if (record := self.record()) is None:
            return False
        with _alone(self.folder):
            return self._end(record, ended, why)

    def _end(self, record: Record, ended: Literal["stopped", "failed"], why: str) -> bool:
        there = end(record, self.launch.grace)
        if self._process is not None:
            self._process.poll()
        if there or record.ended is None:
            _note(self.folder, replace(record, ended=ended, why=why))
        return there


def left_behind(folder: Path, names: set[str]) -> Iterator[tuple[Path, Record]]:
    """Servers recorded below a folder whose experts are not among the names."""
    for place in sorted((folder / PLACE).glob("*/")):
        record = read(place)
        if record is not None and record.name not in names:
            yield place, record


def end(record: Record, grace: float) -> bool:
    """Ends every process of a server: asked first, killed after `grace` seconds.

    Says whether there was one. Blocks.
    """
    import psutil

    there = members = _members(record)
    for process in members:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(members, timeout=grace)
    time.sleep(SETTLE if there else 0)
    while members := _members(record):  # also those that were born meanwhile
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(members, timeout=1)
        time.sleep(SETTLE)
    return bool(there)


def _members(record: Record) -> list[psutil.Process]:
    import psutil

    found = [process for process in psutil.process_iter() if _carries(process, record.token)]
    if _lives(record) and record.pid not in {process.pid for process in found}:
        found.append(psutil.Process(record.pid))
    return found


def _carries(process: psutil.Process, token: str) -> bool:
    import psutil

    try:
        here = process.environ().get(VARIABLE) == token
        return bool(here and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


def _lives(record: Record) -> bool:
    """Whether the process that was started is there, and not another one with its number."""
    began = _began(record.pid)
    return began is not None and abs(began - record.began) < SAME


def _began(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None if it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def _holder(port: int) -> str:
    """Who listens there, as far as we may know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr and connection.laddr.port == port
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def read(folder: Path) -> Record | None:
    """The record in a folder; None if there is none that can be read."""
    try:
        described = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        return Record(**{**described, "command": tuple(described["command"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(folder: Path, record: Record) -> None:
    partial = folder / f"server.json.{os.getpid()}"
    partial.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "server.json")


def _note(folder: Path, record: Record) -> None:
    """Writes what is also seen from the process itself; a full disk is no reason to give up."""
    with contextlib.suppress(OSError):
        _write(folder, record)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time starts or stops what is in a folder."""
    import fcntl

    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
