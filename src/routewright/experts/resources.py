"""What this machine has to offer: file descriptors, memory and a name server.

Every client and every upstream takes a descriptor. `raise_limit` gets as many as the system allows,
and `connections` shares them out. `lack` tells a failure of this machine from one of an expert.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from routewright.errors import LocalFailure, StreamBroken, UpstreamError

MOST = 65_536  # descriptors that are requested; some systems allow a billion
RESERVE = 96  # descriptors for files, logs, name look-ups and clients that are refused
WAY_OUT = "raise the limit on open files (`ulimit -n`), or send fewer requests at once"
LACKS = {
    errno.EMFILE: f"no file descriptor is free: {WAY_OUT}",
    errno.ENFILE: "no file descriptor is free in the whole system: close other programs",
    errno.ENOBUFS: "no network buffer is free: send fewer requests at once",
    errno.ENOMEM: "no memory is free: send fewer requests at once",
}
NAME_SERVER = "its host name could not be looked up: check the name server of this machine"


@dataclass(frozen=True)
class Connections:
    """How many connections may be open at once."""

    clients: int
    upstream: int  # in use; as many again may stay open without use


def raise_limit() -> int:
    """Raises the soft limit on open files towards the hard limit and returns it."""
    try:
        import resource
    except ImportError:  # on Windows
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    for limit in (highest, 10_240):  # macOS refuses more than this, whatever its hard limit says
        if soft == resource.RLIM_INFINITY or soft >= limit:
            break
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return limit
    return MOST if soft == resource.RLIM_INFINITY else soft


def connections() -> Connections:
    """Shares the descriptors of this process among clients and upstream connections."""
    try:
        import resource
    except ImportError:
        return _shared(MOST)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _shared(MOST if soft == resource.RLIM_INFINITY else min(soft, MOST))


def _shared(descriptors: int) -> Connections:
    # A third each for clients, upstream connections in use, and those that are kept for later.
    third = max(4, max(descriptors - RESERVE, descriptors // 2) // 3)
    return Connections(third, third)


def lack(error: BaseException | None) -> str | None:
    """What this machine lacked when an error arose; None if the machine is not to blame."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, LocalFailure):
            return error.reason
        if isinstance(error, MemoryError):
            return LACKS[errno.ENOMEM]
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return "no thread can be started: raise the limit on processes (`ulimit -u`)"
        if isinstance(error, OSError) and (reason := _lack_of(error)):
            return reason
        error = getattr(error, "os_error", None) or error.__cause__
    return None


def _lack_of(error: OSError) -> str | None:
    if not isinstance(error, socket.gaierror):
        return LACKS.get(error.errno or 0)
    if not _has_descriptor():
        return LACKS[errno.EMFILE]
    ours = {socket.EAI_AGAIN, socket.EAI_MEMORY, getattr(socket, "EAI_SYSTEM", None)}
    return NAME_SERVER if error.errno in ours else None


def _has_descriptor() -> bool:
    """Whether a descriptor is free: without one, name look-ups fail with an unrelated error."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


@contextmanager
def local_failures(expert: str) -> Iterator[None]:
    """Raises LocalFailure for an ask that fails because of this machine.

    A stream that has begun stays broken: no other ask can take its place.
    """
    try:
        yield
    except StreamBroken:
        raise
    except Exception as error:
        if (reason := lack(error)) is None:
            raise
        cost, sent = 0.0, False
        if isinstance(error, UpstreamError):
            cost, sent = error.cost, bool(error.sent)
        raise LocalFailure(expert, reason, cost=cost, sent=sent) from error
