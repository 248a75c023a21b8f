"""Calls functions in a process of its own, which ends if one of them takes too long.

For work on foreign text that cannot be bounded from inside: a formula with a tower of powers, or a
pattern that a user wrote. Arguments and results are JSON.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from threading import Lock, Timer
from typing import Any

SECONDS = 2.0  # of processor time for one call
PATIENCE = 60.0  # seconds in all, also those in which the machine was busy
MEGABYTES = 2048
# The child finds this package as its parent does, and does not import its parent's main module.
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import routewright.apart as apart"


class TooLong(Exception):
    """A call took too long or too much memory."""


class Worker:
    """A process that answers one call at a time. It starts with the first call, and again after a
    call that took too long."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a forked copy of this process must not share the pipes

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of `function` ("module:name"); raises TooLong, and ValueError if it fails."""
        with self._lock:
            process = self._running()
            limit = Timer(PATIENCE, process.kill)
            limit.start()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps([function, arguments]) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except OSError:
                reply = ""
            finally:
                limit.cancel()
            if not reply:
                self._end()
                raise TooLong(f"{function} took more than {SECONDS:g} s")
        result, error = json.loads(reply)
        if error is not None:
            raise ValueError(error)
        return result

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{BOOT}; apart.serve()", json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            atexit.register(self._end)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()


call = Worker().call


def serve() -> None:
    """Answers calls from standard input until it ends. Runs in the child."""
    replies, sys.stdout = sys.stdout, sys.stderr  # a library may print
    _limit_memory()
    functions: dict[str, Any] = {}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        if name not in functions:
            functions[name] = _load(*name.split(":"))
        _limit_time(SECONDS)
        try:
            reply = json.dumps([functions[name](*arguments), None])
        except (Exception, MemoryError) as error:
            reply = json.dumps([None, f"{type(error).__name__}: {error}"])
        _limit_time(0)
        print(reply, file=replies, flush=True)


def _load(module: str, function: str) -> Any:
    """The function; its module's `prepare` imports what takes long, before the time counts."""
    loaded = importlib.import_module(module)
    getattr(loaded, "prepare", lambda: None)()
    return getattr(loaded, function)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # not on Windows, or limited further already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))


def _limit_time(seconds: float) -> None:
    """Ends this process after so many seconds of processor time, whatever it does then; 0: never.
    Where there is no such timer, PATIENCE alone holds."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
