"""Starts the servers of launched experts, waits until they can answer, and stops them with all
their processes.

A server has a folder with its record and its log, and every process of the server has that folder
and the record's token in its environment. So another process of Routewright finds the server again,
even after a `kill -9`: to start it a second time returns the one that runs, and to stop it also
ends children that outlived their parent.

Configs that name an expert alike have a folder each. One of them uses the server that another has
started with the very same command, and does not stop it.
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
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from routewright import files
from routewright.errors import BadInput
from routewright.types import Expert, Launch

if TYPE_CHECKING:
    import psutil

State: TypeAlias = Literal[
    "absent",  # it was never started
    "starting",  # its process runs, but nothing listens yet
    "loading",  # it listens but is not ready
    "running",  # it can answer
    "degraded",  # it could answer before, but cannot now
    "stopped",  # it was stopped on request
    "failed",  # it ended by itself, or was not ready in time
]
Owner: TypeAlias = Literal["gateway", "user"]

VARIABLE = "ROUTEWRIGHT_LAUNCH"  # the environment variable with the token
PLACE = "ROUTEWRIGHT_LAUNCH_FOLDER"  # and the one with the folder of the record
FIRST = ("", "routewright.yaml")  # configs whose servers have folders without a config's name
FOLDER = Path(".routewright") / "experts"
PATHS = ("/health", "/models")  # of the host and of base_url; the first that is not 404 counts
LOG_BYTES = 10 * 2**20  # a larger log is renamed to log.1 at the next start
PROBE_SECONDS = 2.0
SETTLE = 0.05  # seconds after which the environment of a new process can be read
CLOCK_SHIFT = 2.0  # seconds by which the system clock may have been adjusted
LONGEST_PAUSE = 1.0  # seconds between checks of a server that is getting ready
TAIL = 200  # characters of a log in a message


@dataclass(frozen=True)
class Record:
    """What is stored on disk about a server. Times are seconds since the epoch."""

    name: str
    pid: int
    token: str
    command: tuple[str, ...]
    owner: Owner  # a gateway only stops servers that a gateway started
    began: float  # as the system reports it; together with the pid it identifies the process
    ready: float | None = None  # when it could answer for the first time
    ended: Literal["stopped", "failed"] | None = None
    why: str = ""
    config: str | None = None  # as in Launch; None: an earlier version started it


@dataclass(frozen=True)
class Status:
    """The present state of a server."""

    name: str
    state: State
    record: Record | None = None


class Server:
    """The server of one expert.

    `status` and `until_ready` need an event loop. The other methods do not; those that may block
    say so.
    """

    def __init__(self, expert: Expert) -> None:
        assert expert.launch is not None, f"expert '{expert.name}' has no `launch:`"
        self.expert = expert
        self.launch = expert.launch
        self.name = expert.name
        self.folder = place(self.launch, expert.name)
        self._process: subprocess.Popen[bytes] | None = None

    # --- state --------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def foreign(self) -> str | None:
        """The config that started the server, relative to its folder; None if it was our own."""
        record = self.record()
        if record is None or record.config in (None, self.launch.config):
            return None
        return record.config

    def record(self) -> Record | None:
        return read(self.folder)

    def alive(self) -> bool:
        """Whether the process that was started still runs; reaps it if it is our child."""
        if self._process is not None:
            self._process.poll()
        record = self.record()
        return record is not None and record.ended is None and _is_alive(record)

    async def status(self) -> Status:
        """Checks the process, then its readiness; records when it is ready for the first time."""
        if not self.alive():
            return self._ended_status()
        code = await self._probe()
        record = self.record()
        if record is None or record.ended is not None:  # another process stopped it meanwhile
            return self._ended_status()
        if code == 200:
            if record.ready is None:
                record = replace(record, ready=time.time())
                _try_write(self.folder, record)
            return Status(self.name, "running", record)
        if record.ready is not None:
            return Status(self.name, "degraded", record)
        return Status(self.name, "starting" if code is None else "loading", record)

    def _ended_status(self) -> Status:
        record = self.record()
        if record is None:
            return Status(self.name, "absent")
        if record.ended is None:
            record = replace(record, ended="failed", why=self._crash(record))
            _try_write(self.folder, record)
        return Status(self.name, record.ended or "failed", record)

    def _crash(self, record: Record) -> str:
        """Describes how a server ended that was not stopped."""
        code = None  # only the exit code of our own child is known
        if self._process is not None and self._process.pid == record.pid:
            code = self._process.poll()
        ended = "ended by itself"
        if code is not None:
            ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"it {ended} after {time.time() - record.began:.1f} s{self._last_output()}"

    def _last_output(self) -> str:
        """The last line of the log and the path of the log, as the end of a message."""
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace")[-8192:].split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"; the last line of its log '{self.log}' is: {last[:TAIL] or 'empty'}"

    async def _probe(self) -> int | None:
        """The HTTP status of the readiness check; None if nothing answers."""
        import aiohttp

        parts = urlsplit(self.expert.base_url or "")
        host = f"{parts.scheme}://{parts.netloc}"
        base = host + parts.path.rstrip("/")
        urls = [host + self.launch.ready] if self.launch.ready else []
        urls = urls or [host + PATHS[0], base + PATHS[1]]
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        key = self.expert.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        code: int | None = None
        try:
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
                for url in urls:
                    async with session.get(url, allow_redirects=False) as response:
                        code = response.status
                    if code != 404:
                        break
        except (aiohttp.ClientError, TimeoutError):
            return None
        return code

    # --- starting and stopping ----------------------------------------------------------------

    def start(self, owner: Owner) -> Record:
        """Starts the server unless it runs already; raises BadInput if it cannot. May block."""
        try:
            self.folder = place(self.launch, self.name)
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder):
                return self._start(owner)
        except OSError as error:
            raise BadInput(
                f"expert '{self.name}' cannot start: '{error.filename or self.folder}':"
                f" {(error.strerror or str(error)).lower()}; its record and its log are written"
                " there: make that folder writable"
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
                return  # the server's own message says more than ours would
            raise BadInput(
                f"expert '{self.name}' cannot start: port {port} is taken{_listener(port)}; stop"
                " that process, or change the port in `base_url` (and in `launch.command`)"
            ) from error

    def _spawn(self, owner: Owner) -> Record:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.folder / "log.1")
        token, command = uuid.uuid4().hex, self.launch.command
        marks = {VARIABLE: token, PLACE: str(self.folder)}
        with self.log.open("ab") as log:
            log.write(f"--- {time.strftime('%F %T')} {command[0]}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.launch.folder,
                    env={**os.environ, **self.launch.env, **marks},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # so that Ctrl-C in our terminal does not reach it
                )
            except OSError as error:
                raise BadInput(
                    f"expert '{self.name}' cannot start: {command[0]}:"
                    f" {(error.strerror or str(error)).lower()}; install it, or"
                    " correct `launch.command`"
                ) from error
        pid = self._process.pid
        began, config = _start_time(pid) or time.time(), self.launch.config
        record = Record(self.name, pid, token, command, owner, began, config=config)
        try:
            _write(self.folder, record)
        except BadInput as error:
            end(record, self.launch.grace)  # without a record it could not be found again
            raise BadInput(f"expert '{self.name}' cannot start: {error}") from error
        return record

    async def until_ready(self, patience: float | None = None) -> Status:
        """Waits until the server can answer.

        Raises BadInput if the server ends, or if it is not ready within `patience` seconds; in
        that case it is stopped.
        """
        import asyncio

        patience = self.launch.patience if patience is None else patience
        deadline, pause = time.monotonic() + patience, 0.05
        while (status := await self.status()).state != "running":
            reason = status.record.why if status.record else ""
            if status.state in ("stopped", "failed", "absent"):
                raise BadInput(f"expert '{self.name}' did not start: {reason or status.state}")
            if time.monotonic() > deadline:
                reason = f"it was not ready within {patience:g} s{self._last_output()}"
                await asyncio.to_thread(self.stop, "failed", reason)
                raise BadInput(f"expert '{self.name}' did not start: {reason}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return status

    def stop(self, ended: Literal["stopped", "failed"] = "stopped", why: str = "") -> bool:
        """Ends every process of the server and returns whether there was one. A server that
        another config started is left as it is.

        Blocks for up to `launch.grace` seconds.
        """
        if (record := self.record()) is None or self.foreign is not None:
            return False
        with _locked(self.folder):
            return self._end(record, ended, why)

    def _end(self, record: Record, ended: Literal["stopped", "failed"], why: str) -> bool:
        existed = end(record, self.launch.grace)
        if self._process is not None:
            self._process.poll()
        if existed or record.ended is None:
            _try_write(self.folder, replace(record, ended=ended, why=why))
        return existed


def place(launch: Launch, name: str) -> Path:
    """The folder of a server: its config's own, or that of a server with the same command that
    another config has started and that still runs."""
    root, label = Path(launch.folder) / FOLDER, quote(name, safe="")
    own = root / label
    if launch.config not in FIRST:
        own = root / f"{label}@{_label(launch.config)}"
    for folder in (own, root / label, *sorted(root.glob(f"{label}@*/"))):
        record = read(folder)
        if record is None or record.ended is not None or record.command != launch.command:
            continue
        if _is_alive(record):
            return folder
    return own


def _label(config: str) -> str:
    """The file's name; with a digest of the path if the file is in another folder."""
    file = quote(Path(config).name, safe="")
    return (
        file
        if file == quote(config, safe="")
        else f"{file}-{sha256(config.encode()).hexdigest()[:8]}"
    )


def orphans(config: Path, used: Container[Path]) -> Iterator[Record]:
    """The servers that this config started and that are in none of the folders in use, wherever
    they are; of those that an earlier version started, the ones beside the config."""
    beside = config.parent.absolute() / FOLDER
    for folder in sorted({*beside.glob("*/"), *_places()}):
        record = read(folder)
        if record is None or folder in used:
            continue
        own = record.config == files.relative(config, folder.parents[2])
        if own or (record.config is None and folder.parent == beside):
            yield record


def _places() -> Iterator[Path]:
    """The folders of all servers of this user that have a process."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and (path := process.environ().get(PLACE)):
                yield Path(path)


def end(record: Record, grace: float) -> bool:
    """Ends every process of a server and returns whether there was one. Blocks.

    The processes are asked to end first, and killed after `grace` seconds.
    """
    import psutil

    members = _members(record)
    existed = bool(members)
    for process in members:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(members, timeout=grace)
    time.sleep(SETTLE if existed else 0)
    while members := _members(record):  # includes processes that were started meanwhile
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(members, timeout=1)
        time.sleep(SETTLE)
    return existed


def _members(record: Record) -> list[psutil.Process]:
    """All processes of a server."""
    import psutil

    members = [process for process in psutil.process_iter() if _has_token(process, record.token)]
    if _is_alive(record) and record.pid not in {process.pid for process in members}:
        members.append(psutil.Process(record.pid))
    return members


def _has_token(process: psutil.Process, token: str) -> bool:
    import psutil

    try:
        matches = process.environ().get(VARIABLE) == token
        return bool(matches and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


def _is_alive(record: Record) -> bool:
    """Whether the process that was started still runs; a later one may have the same pid."""
    began = _start_time(record.pid)
    return began is not None and abs(began - record.began) < CLOCK_SHIFT


def _start_time(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def _listener(port: int) -> str:
    """The name and pid of the process that listens on a port; empty if we may not know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            matches = connection.laddr and connection.laddr.port == port
            if matches and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def read(folder: Path) -> Record | None:
    """The record in a folder; None if there is none or it cannot be read."""
    try:
        fields = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        return Record(**{**fields, "command": tuple(fields["command"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(folder: Path, record: Record) -> None:
    files.write(folder / "server.json", json.dumps(asdict(record), indent=1) + "\n")


def _try_write(folder: Path, record: Record) -> None:
    """Writes a record unless the disk is full: its changes can also be seen from the process."""
    with contextlib.suppress(BadInput):
        _write(folder, record)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets only one process at a time start or stop the server of a folder."""
    import fcntl

    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
