"""A real PostgreSQL server for the tests, in a temporary folder, reached through a Unix socket.

`make test` installs the programs. Every process that runs tests starts a server of its own when the
first test needs one, so that a test may stop, restart or kill it. A guard process removes server
and folder when the process that runs the tests ends, however it ends.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

SECONDS = 600  # that a stop may take
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # a killed server loses nothing of it, a machine without power would
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
}
GUARD = """\
cat
"$1/pg_ctl" --mode=immediate --timeout=10 stop
rm -rf "$2"
"""


def missing() -> str | None:
    """Why no server can be started here; None if one can."""
    if programs() is None:
        return "no PostgreSQL server: install Debian's package postgresql"
    if find_spec("psycopg") is None:
        return "no driver: pip install 'routewright[postgres]'"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody'"
    return None


def programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`, the newest version first."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    folders = [folder for folder in folders if (folder / "initdb").exists()]
    if folders:
        return max(folders, key=lambda folder: float(folder.parent.name))
    path = shutil.which("initdb")
    return Path(path).resolve().parent if path else None


def _user() -> str | None:
    """The user that runs the server if the tests run as root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


class Server:
    """A server and its databases. All methods return when their work is done."""

    def __init__(self, folder: Path) -> None:
        bin = programs()
        assert bin is not None, "ask missing() first"
        self.bin, self.folder = bin, folder
        self.process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._surroundings: dict[str, Any] = {
            "cwd": folder,
            "env": {**os.environ, "PGDATA": str(folder / "data"), "LC_ALL": "C.UTF-8"},
        }
        if os.geteuid() == 0:
            entry = pwd.getpwnam(str(_user()))
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            self._surroundings |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        lines = [f"{name} = '{value}'" for name, value in SETTINGS.items()]
        lines.append(f"unix_socket_directories = '{folder}'")
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._surroundings,
        )
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        assert self.process is None, "it runs already"
        log = self.folder / "log"
        for _ in range(600):  # after a kill, what is left of the old server may take a moment to go
            with log.open("ab") as file:
                self.process = subprocess.Popen(
                    [str(self.bin / "postgres")],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                    **self._surroundings,
                )
            while self.process.poll() is None:
                with suppress(AssertionError):
                    return self._run("pg_isready", "--quiet", f"--host={self.folder}")
                time.sleep(0.05)
            self.process = None
            time.sleep(1)
        raise AssertionError(log.read_text(errors="replace")[-2000:])

    def stop(self) -> None:
        """Ends all connections and shuts down in order."""
        assert self.process is not None, "it does not run"
        self.process.send_signal(signal.SIGINT)
        self.process.wait(SECONDS)
        self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It accepts connections meanwhile, and replies to nothing."""
        assert self.process is not None, "it does not run"
        server = psutil.Process(self.process.pid)
        processes = [server, *server.children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """kill -9, of the server and of everything that it runs."""
        assert self.process is not None, "it does not run"
        self.process.send_signal(signal.SIGSTOP)  # it starts nothing new meanwhile
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait(SECONDS)
        self.process = None

    def new_database(self) -> str:
        """The URL of an empty database, for SQLAlchemy."""
        name = f"test_{next(self._names)}"
        self._run("createdb", f"--host={self.folder}", "--username=postgres", name)
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path.removeprefix("/")
        options = (f"--host={self.folder}", "--username=postgres", "--force", "--if-exists")
        self._run("dropdb", *options, name)


@contextmanager
def server() -> Iterator[Server]:
    """A server that runs, and is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="rw-pg-", dir="/tmp"))  # a socket's path must be short
    cluster = Server(folder)
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "guard", str(cluster.bin), str(folder)],
        stdin=subprocess.PIPE,  # closed by the system when this process ends
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the terminal does not reach it
        **cluster._surroundings,
    )
    try:
        cluster.start()
        yield cluster
    finally:
        if cluster.process is not None:
            cluster.stop()
        guard.communicate()
