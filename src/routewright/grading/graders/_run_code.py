"""Runs one piece of code and its tests under limits; started by `code.py` as a process.

Reads {code, tests, seconds, megabytes, seal} from standard input and prints the seal and what
went wrong as JSON. Nothing of Routewright is imported here.
"""

import json
import os
import resource
import sys
from contextlib import suppress

FORBIDDEN = (
    *("socket.", "subprocess.", "ctypes.", "urllib.", "ftplib.", "smtplib.", "http."),
    *("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.kill", "os.killpg"),
)


def main() -> None:
    task = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    limit(task["seconds"], task["megabytes"])
    sys.addaudithook(refuse)
    scope: dict[str, object] = {"__name__": "answer"}
    error = attempt(task["code"], scope)
    tests = [attempt(test, scope) for test in task["tests"]] if error is None else []
    out.write(f"\n{task['seal']}{json.dumps({'error': error, 'tests': tests})}\n")
    out.flush()
    os._exit(0)


def limit(seconds: int, megabytes: int) -> None:
    size = megabytes * 2**20
    for what, most, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, size, size),
        (resource.RLIMIT_FSIZE, 2**20, 2**20),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        with suppress(ValueError, OSError):  # macOS knows no limit on memory
            resource.setrlimit(what, (most, hard))


def refuse(event: str, args: tuple[object, ...]) -> None:
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} is not allowed here")


def attempt(code: str, scope: dict[str, object]) -> str | None:
    try:
        exec(compile(code, "answer.py", "exec"), scope)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:500]
    return None


if __name__ == "__main__":
    main()
