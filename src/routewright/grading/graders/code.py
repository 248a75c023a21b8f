"""The answer's code passes the item's tests, run apart with limits on time, memory and network."""

from __future__ import annotations

import json
import os
import re
import secrets
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

from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

SECONDS, MEGABYTES = 10, 512  # of processor time; of memory
RUNNER = Path(__file__).with_name("_run_code.py")
FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Code:
    """Runs the answer's Python and then each of `tests`, statements that raise if it is wrong.

    All must pass. Of an answer with code fences those count, else the whole answer. `setup` of the
    item stands before the code. A process of its own gets 10 s of processor time (`code=SECONDS`),
    512 MB, an empty folder and neither network nor other programs. That keeps mistakes away, not
    malice: run what you do not trust in a container. The name on the command line is the
    permission to run it at all. Linux and macOS only.
    """

    seconds: int | str = SECONDS

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
        if not str(self.seconds).isdecimal() or int(self.seconds) < 1:
            raise BadInput(f"code={self.seconds}: write whole seconds, such as code=10")
        object.__setattr__(self, "seconds", int(self.seconds))

    def grade(self, item: Item, answer: str) -> Grade:
        tests = item.facts.get("tests") or ()
        tests = [tests] if isinstance(tests, str) else [str(test) for test in tests]
        if not tests:
            return ungraded("no tests")
        code = "\n\n".join(FENCE.findall(answer)) or answer
        found = run(f"{item.facts.get('setup') or ''}\n{code}", tests, int(self.seconds))
        wrong = found.get("error") or next(filter(None, found["tests"]), None)
        return Grade(1.0) if wrong is None else Grade(0.0, str(wrong)[:200])


def run(code: str, tests: list[str], seconds: int = SECONDS) -> Mapping[str, Any]:
    """What went wrong in the code (`error`), and in each of the `tests` (None: nothing did).

    Raises BadInput if this machine cannot run it at all.
    """
    seal = secrets.token_hex(8)  # printed text cannot pass for the outcome
    task = {"code": code, "tests": tests, "seconds": seconds, "megabytes": MEGABYTES, "seal": seal}
    with tempfile.TemporaryDirectory(prefix="routewright-code-") as folder:
        process = subprocess.Popen(
            [*_without_network(), sys.executable, "-I", str(RUNNER)],
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
    for line in out.decode(errors="replace").splitlines():
        if line.startswith(seal):
            outcome: Mapping[str, Any] = json.loads(line.removeprefix(seal))
            return outcome
    if process.returncode == -signal.SIGXCPU or process.returncode == 128 + signal.SIGXCPU:
        return {"error": f"took more than {seconds} s", "tests": []}
    return {"error": f"ended early (exit code {process.returncode})", "tests": []}


@cache
def _without_network() -> tuple[str, ...]:
    """A prefix that gives a process no network at all, where the system lets us."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    command = (unshare, "--user", "--map-current-user", "--net")
    works = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else ()
