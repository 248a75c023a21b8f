"""The answer's code passes the item's tests, run apart with limits on time, memory and network."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PositiveInt

from routewright.answers.fences import fenced
from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

SECONDS, MEGABYTES = 10, 512  # of processor time; of memory
DISK, MOST_FILES = 64 << 20, 1000  # bytes and files that the code may leave at any time
PAUSE = 0.25  # seconds between two looks at the folder
RUNNER = Path(__file__).with_name("_run_code.py")


@dataclass(frozen=True)
class Code:
    """Runs the answer's Python and then each of `tests`, statements that raise if it is wrong.

    All must pass. Of an answer with code fences those count, else the whole answer. `setup` of the
    item runs before the code. The modules of Python and NumPy that it imports are the tests' own;
    an answer may define anything else anew, so helpers of tests belong into `tests`. The answer
    runs in a process of its own with 10 s of processor time (`code=SECONDS`), 512 MB and an empty
    folder for 64 MB; the tests run in another process, so an answer can neither see them nor write
    its own grade. On Linux, seccomp (x86-64, arm64) lets it
    start no process, signal none and open no socket, and Landlock (Linux 5.13) lets it read only
    Python's files and write only its folder; user namespaces, where they are allowed, give it no
    network and no view of other processes. What a system lacks of these, a hook inside Python
    refuses, which stops mistakes and not malice: then run code that you do not trust in a
    container. Tests that derive classes from the answer's, or measure its objects with a number,
    cannot be run so: such answers are not graded. The grader must be named on the command line to
    run at all. Linux and macOS only.
    """

    seconds: PositiveInt = SECONDS

    by_name_only: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        Item(
            Query.of("Write double(x)."),
            facts={"tests": ["assert double(2) == 4", "assert double(-1) == -2"]},
        ),
        "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```",
        "def double(x):\n    return x ** 2",
    )

    def __post_init__(self) -> None:
        if sys.platform == "win32":
            raise BadInput("grader 'code' cannot limit processes on Windows: use Linux or macOS")

    def grade(self, item: Item, answer: str) -> Grade:
        tests = item.facts.get("tests") or ()
        tests = [tests] if isinstance(tests, str) else [str(test) for test in tests]
        if not tests:
            return ungraded("no tests")
        code = "\n\n".join(fenced(answer)) or answer
        setup = str(item.facts.get("setup") or "")
        outcome = run(code, tests, self.seconds, setup=setup)
        if outcome.get("note"):
            return ungraded(outcome["note"])
        wrong = outcome.get("error") or next(filter(None, outcome["tests"]), None)
        return Grade(1.0) if wrong is None else Grade(0.0, str(wrong)[:200])


def run(
    code: str, tests: list[str], seconds: int = SECONDS, *, setup: str = ""
) -> Mapping[str, Any]:
    """What went wrong in the code (`error`), and in each of the `tests` (None: nothing did).

    A `note` says why the tests could not be run on this answer's objects; then nothing is known.
    `setup` runs before the code. Raises BadInput if this machine cannot run it at all.
    """
    task = {
        "setup": setup,
        "code": code,
        "tests": tests,
        "seconds": seconds,
        "megabytes": MEGABYTES,
    }
    folder = tempfile.mkdtemp(prefix="routewright-code-")
    process = subprocess.Popen(
        [*_apart(), sys.executable, "-I", str(RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": folder, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        out = _output(process, json.dumps(task).encode(), 4 * seconds + 5, folder)
    except _Stopped as stopped:
        return {"error": str(stopped), "tests": []}
    finally:
        with suppress(ProcessLookupError):  # whatever the code left running ends with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _remove(folder)
    if out.strip():
        outcome: Mapping[str, Any] = json.loads(out)
        return outcome
    if process.returncode == -signal.SIGXCPU or process.returncode == 128 + signal.SIGXCPU:
        return {"error": f"took more than {seconds} s", "tests": []}
    return {"error": f"ended early (exit code {process.returncode})", "tests": []}


class _Stopped(Exception):
    """The process was stopped; the message says why."""


def _output(process: subprocess.Popen[bytes], task: bytes, seconds: int, folder: str) -> bytes:
    """What the process prints. Raises _Stopped if it takes too long, or fills the disk."""
    deadline, unsent = time.monotonic() + seconds, task
    while True:
        try:
            return process.communicate(unsent, timeout=PAUSE)[0]
        except subprocess.TimeoutExpired:
            unsent = b""  # `communicate` remembers what it has to send
            if time.monotonic() > deadline:
                raise _Stopped(f"still ran after {seconds} s") from None
        if _is_full(folder):
            raise _Stopped(f"wrote more than {DISK >> 20} MB or {MOST_FILES} files")


def _is_full(folder: str) -> bool:
    """Whether a folder holds more than DISK bytes or MOST_FILES files."""
    size = count = 0
    folders = [folder]
    while folders and count <= MOST_FILES and size <= DISK:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                size += 512 * entry.stat(follow_symlinks=False).st_blocks
                if count > MOST_FILES:
                    break
    return count > MOST_FILES or size > DISK


def _remove(folder: str) -> None:
    """Deletes a folder, even one that is nested too deeply for Python or that forbids reading."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        for command in (("chmod", "-R", "u+rwx"), ("rm", "-rf")):
            subprocess.run([*command, folder], capture_output=True)


@cache
def is_confined() -> bool:
    """Whether the system confines answers: Linux with Landlock, and namespaces that users may
    make."""
    if sys.platform != "linux" or not _apart():
        return False
    create_ruleset, version = 444, 1  # landlock_create_ruleset(2) with LANDLOCK_..._VERSION
    return int(ctypes.CDLL(None).syscall(create_ruleset, None, 0, version)) >= 1


@cache
def _apart() -> tuple[str, ...]:
    """A prefix that gives a process no network, and ends what it started with it, where the system
    lets us."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    command = (unshare, "--user", "--map-current-user", "--net", "--ipc", "--pid", "--kill-child")
    works = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else ()
