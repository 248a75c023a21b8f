"""Runs a tutorial from its first line to its last, and holds its figures to what came out.

Of a page's fenced blocks `sh` is run, all of it in one shell that stops at the first failure, in
an empty folder; a block of another language whose first line is a comment with a file's name, such
as `# ask.py`, becomes that file; the rest is only for reading. A figure in the text is checked
where a comment follows it that says what it is and how far it may be off:

    It scores 0.91 <!-- figures.json#/quality ± 0.02 -->, so 0.08 more
    <!-- figures.json#/quality - before.json#/quality ± 0.02 -->.

The part after # is a JSON pointer (RFC 6901) into a file that the tutorial wrote.

`python dev/run_tutorial.py [PAGE]`; exit code 1 if a command fails, a figure is off, or a process
is left behind.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).parent.parent / "docs" / "tutorials" / "from-zero.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w.-]+)\n")
CLAIM = re.compile(
    r"(?P<figure>[-+−]?\d[\d.,]*)(?P<percent> ?%)?\W*<!-- (?P<what>[^>]*?) ± (?P<off>[\d.]+) -->"
)
MARK = "ROUTEWRIGHT_TUTORIAL"  # in the environment of everything that the tutorial starts
SHELL = ("bash", "-e", "-o", "pipefail", "-v")


@dataclass(frozen=True)
class Claim:
    """A figure of the text, what it is of, and how far it may be off."""

    figure: float
    what: str
    off: float

    def found(self, folder: Path) -> float:
        """The figure that came out; NaN if there is none."""
        first, *rest = (_look_up(folder, place) for place in self.what.split(" - "))
        return first - sum(rest)


def script(page: str, folder: Path) -> str:
    """Everything that a reader types; the files are there when their turn comes."""
    lines = []
    for language, text in BLOCK.findall(page):
        if language == "sh":
            lines.append(text)
        elif named := FILE.match(text):
            kept = folder / f".{len(lines)}"
            kept.write_text(text, encoding="utf-8")
            lines.append(f"cp {shlex.quote(str(kept))} {named[1]}\n")
    return "\n".join(lines)


def claims(page: str) -> list[Claim]:
    """
    >>> claims("a **0.91** <!-- a.json#/q ± 0.02 -->, 40 % <!-- b.json#/s ± 0.1 -->")
    [Claim(figure=0.91, what='a.json#/q', off=0.02), Claim(figure=0.4, what='b.json#/s', off=0.1)]
    """
    return [
        Claim(
            float(m["figure"].replace("−", "-").replace(",", "")) / (100 if m["percent"] else 1),
            " ".join(m["what"].split()),
            float(m["off"]),
        )
        for m in CLAIM.finditer(page)
    ]


def _look_up(folder: Path, place: str) -> float:
    name, _, pointer = place.partition("#/")
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        for step in pointer.split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            found = found[int(step) if isinstance(found, list) else step]
        return float(found)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return float("nan")


def run(text: str, folder: Path, token: str) -> int:
    """Runs the script as a reader would, with this Python's commands first; gives its exit code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, MARK: token}
    with (folder / ".script").open("w+", encoding="utf-8") as file:
        file.write(text)
    shell = subprocess.Popen([*SHELL, ".script"], cwd=folder, env=environment)
    try:
        return shell.wait()
    finally:
        shell.kill()


def left_behind(token: str) -> Iterator[psutil.Process]:
    """Processes of the tutorial that go on after it."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == token:
                yield process
        except (psutil.Error, OSError):
            continue


def main(page: Path) -> int:
    token, console = uuid.uuid4().hex, Console(soft_wrap=True)
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="routewright-tutorial-") as name:
        folder = Path(name)
        try:
            code = run(script(text, folder), folder, token)
            orphans = list(left_behind(token))
        finally:
            for process in left_behind(token):
                process.kill()
        right = _show(claims(text), folder, console)
    if code:
        console.print(f"{page.name}: a command failed with exit code {code}: the last one above")
    for process in orphans:
        console.print(f"{page.name}: left a process behind: {process.pid}")
    return 0 if right and not code and not orphans else 1


def _show(told: list[Claim], folder: Path, console: Console) -> bool:
    table = Table(title="what the text says, and what came out", title_justify="left")
    table.add_column("", overflow="fold")
    for heading in ("says", "may be off by", "came out", ""):
        table.add_column(heading, no_wrap=True)
    right = True
    for claim in told:
        found = claim.found(folder)
        fits = abs(found - claim.figure) <= claim.off
        right &= fits
        cells = (claim.what, f"{claim.figure:g}", f"{claim.off:g}", f"{found:.4g}")
        table.add_row(*cells, "" if fits else "off")
    console.print(table)
    return right


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:] or [PAGE])))
