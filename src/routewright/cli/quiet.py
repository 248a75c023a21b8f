"""`--quiet` of the long commands: nothing but warnings and errors, and what `--json` prints."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Annotated, Any, TextIO

import typer

LONG = (
    *("add-expert", "compare", "convert", "diversify", "evaluate", "export", "fit", "interview"),
    *("pull", "push", "regrade", "reward", "route", "select", "selfplay", "tag"),
    *("build", "grow", "train"),  # of dedicate
)

Flag = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Show nothing but warnings and errors, and what --json prints."
    ),
]


def flag() -> Any:
    """The option `--quiet`, as Typer makes it."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(quiet: Flag = False) -> None: ...

    return typer.main.get_command(app).params[0]


class Warnings(io.TextIOBase):
    """A text stream that passes on only lines which are warnings or errors. It is no terminal, so
    that nothing is animated on it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith(("Warning:", "Note:", "Error:")):
                self._stream.write(f"{line}\n")
        return len(text)


@contextmanager
def quiet(keeps_output: bool) -> Iterator[None]:
    """Shows only warnings of what is said meanwhile; `keeps_output` lets standard output be."""
    output = sys.stdout if keeps_output else io.StringIO()
    with redirect_stdout(output), redirect_stderr(Warnings(sys.stderr)):
        yield
