"""Stops a process at each of its system calls (Linux: ptrace)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TRACEME, CONT, SYSCALL, SETOPTIONS = 0, 7, 24, 0x4200
OPTIONS = 1 | 2 | 4 | 8 | 0x100000  # name system calls; follow children; end with the tracer
EVERY_THREAD = 0x40000000
BEGIN = signal.SIGUSR1  # the process sends it to itself where the work begins


def at_every_system_call(arguments: list[str], check: Callable[[], object]) -> int:
    """Runs Python with the arguments and calls `check` before each of its system calls, from the
    first BEGIN on; the number of calls. The process must end with exit code 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    first = os.fork()
    if first == 0:
        os.setpgid(0, 0)  # the tracer waits for this group, and for nobody else's children
        libc.ptrace(TRACEME, 0, 0, 0)
        os.execv(sys.executable, [sys.executable, *arguments])
    _, status = os.waitpid(first, 0)
    if os.WIFEXITED(status):
        pytest.skip("this system does not allow ptrace")
    if libc.ptrace(SETOPTIONS, first, 0, OPTIONS) != 0:
        os.kill(first, signal.SIGKILL)
        pytest.skip("this system does not allow ptrace")
    libc.ptrace(CONT, first, 0, 0)
    begun, calls = False, 0
    while True:
        pid, status = os.waitpid(-first, EVERY_THREAD)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if pid == first:
                assert status == 0, f"the process ended with {status}"
                return calls
            continue
        passed_on = 0
        match os.WSTOPSIG(status):
            case int(number) if number == signal.SIGTRAP | 0x80:
                calls += 1
                check()
            case int(number) if number == BEGIN:
                begun = True
            case int(number) if number not in (signal.SIGTRAP, signal.SIGSTOP):
                passed_on = number
        libc.ptrace(SYSCALL if begun else CONT, pid, 0, passed_on)


def state(folder: Path) -> list[tuple[object, ...]]:
    """All that a crash could leave of a folder: names, sizes and times of change."""
    entries = []
    for path in sorted(folder.rglob("*")):
        try:
            facts = path.lstat()
        except FileNotFoundError:
            continue
        entries.append((path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
    return entries
