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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PositiveInt

from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

SECONDS, MEGABYTES = 10, 512  # of processor time; of memory
RUNNER = Path(__file__).with_name("_run_code.py")
FENCE = "```"


@dataclass(frozen=True)
class Code:
    """Runs the answer's Python and then each of `tests`, statements that raise if it is wrong.

    All must pass. Of an answer with code fences those count, else the whole answer. `setup` of the
    item runs before the code. The answer runs in a process of its own with 10 s of processor time
    (`code=SECONDS`), 512 MB and an empty folder; the tests run in another process, so an answer can
    neither see them nor write its own grade. On Linux with Landlock and user namespaces it can read
    only Python's files, write only its folder, start no program and reach no network; without
    them a hook inside Python refuses these, which stops mistakes and not malice: then run code
    that you do not trust in a container. Tests that derive classes from the answer's cannot be
    run so: such answers are not graded. The grader must be named on the command line to run at all.
    Linux and macOS only.
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


def fenced(text: str) -> list[str]:
    """The contents of code fences; the last one may be open.

    >>> fenced("Try ```python\\nx = 1\\n``` or ```\\ny = 2")
    ['x = 1\\n', 'y = 2']
    """
    contents = []
    opening = text.find(FENCE)
    while opening >= 0 and (line_end := text.find("\n", opening)) >= 0:
        closing = text.find(FENCE, line_end)
        contents.append(text[line_end + 1 : closing if closing >= 0 else len(text)])
        opening = text.find(FENCE, closing + len(FENCE)) if closing >= 0 else -1
    return contents


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
    with tempfile.TemporaryDirectory(prefix="routewright-code-") as folder:
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
            out, _ = process.communicate(json.dumps(task).encode(), timeout=4 * seconds + 5)
        except subprocess.TimeoutExpired:
            return {"error": f"still ran after {4 * seconds + 5} s", "tests": []}
        finally:
            with suppress(ProcessLookupError):  # whatever the code left running ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if out.strip():
        outcome: Mapping[str, Any] = json.loads(out)
        return outcome
    if process.returncode == -signal.SIGXCPU or process.returncode == 128 + signal.SIGXCPU:
        return {"error": f"took more than {seconds} s", "tests": []}
    return {"error": f"ended early (exit code {process.returncode})", "tests": []}


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
