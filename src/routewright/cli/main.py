"""The command `routewright`. An error prints one message, without a traceback, and sets the exit
code."""

from __future__ import annotations

import atexit
import errno
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from routewright import __version__, files
from routewright.cli.asking import EXIT_INTERRUPTED, exit_at_once
from routewright.cli.quiet import LONG, flag, quiet
from routewright.errors import BadConfig, DataWarning, MissingExtra, RoutewrightError, extra_of

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PLACED = re.compile(r"[^\n]*: error: ")  # a mistake in a config: its place and its level come first
PYTHON_WARNING = warnings.showwarning


class Verbs(TyperGroup):
    """The verbs; one whose packages are not installed says which extra installs them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = Commands()  # type: ignore[assignment]  # nothing adds to it

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            signal.signal(signal.SIGINT, exit_at_once)
            signal.signal(signal.SIGTERM, exit_at_once)
            how = "".join(f"; {resume}" for resume in interrupt.args)
            typer.echo(f"Interrupted{how}.", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except ImportError as error:
            if extra_of(error) is None:
                raise
            raise MissingExtra(f"`routewright {ctx.invoked_subcommand}`", error) from error


FOLDERS = ("fit", "add-expert", "selfplay", "train", "grow", "pull")  # whose --out is a folder


class Verb(TyperCommand):
    """A verb; it looks whether its results can be written before it does anything. Those that take
    long have `--quiet`."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        if name in LONG:
            self.params.append(flag())

    def invoke(self, ctx: Any) -> Any:
        names = ["out", "html", "json", "picture", *(["folder"] if self.name == "demo" else [])]
        for name in names:
            path = ctx.params.get(name)
            if isinstance(path, Path) and str(path) != "-":
                is_folder = name == "folder" or (name == "out" and self.name in FOLDERS)
                files.check_writable(path, folder=is_folder)
        if self.name in LONG and ctx.params.pop("quiet"):
            printed = ctx.params.get("json")  # a flag, or a file in which `-` stands for the output
            with quiet(keeps_output=printed is True or str(printed) == "-"):
                return super().invoke(ctx)
        return super().invoke(ctx)


app = typer.Typer(
    name="routewright",
    cls=Verbs,
    help="Picks, for every query, which language model should answer it, and proves that it pays.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(version: bool) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options before the command."""


EXAMPLES = {
    "demo": "routewright demo --once",
    "init": "routewright init --yes",
    "doctor": "routewright doctor routewright.yaml --dry-run",
    "chat": 'routewright chat routewright.yaml "What is 2 + 2?" --policy cheap',
    "serve": "routewright serve routewright.yaml --port 8080",
    "experts": "routewright experts start routewright.yaml small",
    "check": "routewright check routewright.yaml",
    "prices": "routewright prices model_prices_and_context_window.json --use",
    "convert": "routewright convert lm_eval samples_a.jsonl --model a --out a.parquet",
    "interview": "routewright interview routewright.yaml q.jsonl --out outcomes.parquet --dry-run",
    "regrade": "routewright regrade outcomes.parquet --grader match",
    "tag": "routewright tag outcomes.parquet --clusters 20 --out tagged.parquet",
    "diversify": "routewright diversify tagged.parquet --per-tag 10 --out queries.parquet",
    "reward": "routewright reward outcomes.parquet --model judge=large --config routewright.yaml"
    " --out rewarded.parquet",
    "fit": "routewright fit outcomes.parquet --out router",
    "evaluate": "routewright evaluate router outcomes.parquet --html report.html",
    "compare": "routewright compare old new outcomes.parquet --html comparison.html",
    "card": "routewright card router --html card.html",
    "calibrate": "routewright calibrate router --max-cost-fraction 0.5",
    "route": 'routewright route router "What is 2 + 2?" --explain',
    "push": "routewright push router hf://my-team/router",
    "pull": "routewright pull hf://my-team/router --out router",
    "select": "routewright select outcomes.parquet --size 3",
    "add-expert": "routewright add-expert router outcomes.parquet --expert new",
    "selfplay": "routewright selfplay routewright.yaml router --generator large --out rounds",
    "dedicate build": "routewright dedicate build outcomes.parquet --expert small --out l.jsonl",
    "dedicate train": "routewright dedicate train l.jsonl --base ./small --out model",
    "dedicate grow": "routewright dedicate grow outcomes.parquet --teacher large --base ./small"
    " --out next",
    "dedicate calibrate": "routewright dedicate calibrate model outcomes.parquet --share 0.3",
    "dedicate serve": "routewright dedicate serve model routewright.yaml --then large",
    "spend": "routewright spend --by expert --since 30d",
    "decisions": "routewright decisions --key web --since 1h",
    "export": "routewright export routewright.yaml --out outcomes.parquet --since 30d",
    "keys create": "routewright keys create web --budget 5/day --rpm 60 --team search",
    "keys list": "routewright keys list",
    "keys revoke": "routewright keys revoke web",
    "keys change": "routewright keys change web --rpm 120 --experts none",
    "keys rotate": "routewright keys rotate web --keep-old 1h",
    "keys budget": "routewright keys budget --team search 100/month",
    "db upgrade": "routewright db upgrade",
    "db check": "routewright db check",
    "db prune": "routewright db prune --older-than 90d --dry-run",
}


def _example(name: str) -> str:
    return f"Example: {EXAMPLES[name]}"


class Commands(Mapping[str, Any]):
    """The commands by their names; each is imported when it is used, as most start no other."""

    def __init__(self) -> None:
        self._names = tuple(dict.fromkeys(name.partition(" ")[0] for name in EXAMPLES))
        self._made: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _command(name)
        return self._made[name]


def _command(name: str) -> Any:
    """The command of the file that is named after it: its `app`, or the function of that name."""
    file = name.replace("-", "_")
    module = import_module(f"routewright.cli.{file}")
    group = getattr(module, "app", None)
    if group is None:
        single = typer.Typer(add_completion=False)
        single.command(name, cls=Verb, epilog=_example(name))(getattr(module, file))
        return typer.main.get_command(single)
    for subcommand in group.registered_commands:
        assert subcommand.callback is not None
        subcommand.cls = Verb
        verb = subcommand.name or subcommand.callback.__name__
        subcommand.epilog = _example(f"{name} {verb}")
    return typer.main.get_group(group)


def run() -> None:
    """The entry point: exit code 2 for an error that the user can fix, 130 after Ctrl-C."""
    warnings.showwarning = _note
    atexit.register(_keep_exit_code)
    try:
        app()
    except RoutewrightError as error:
        is_placed = isinstance(error, BadConfig) and PLACED.match(str(error))
        prefix = "" if is_placed else "[bold red]Error:[/] "
        Console(stderr=True, soft_wrap=True).print(f"{prefix}{_plain(error)}", highlight=False)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f"'{error.filename}' cannot be written" if error.filename else "the disk is full"
        reason = f"{where} ({error.strerror}): free some space and run the same command again"
        Console(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/] {_plain(reason)}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)


def _keep_exit_code() -> None:
    """Lets no signal change the exit code, which says more.

    Python gives every signal with a handler its default back at its very end; ignored ones it
    leaves ignored. And where Ctrl-C has interrupted code that was made from a text, as
    `dataclasses` makes it, Python remembers that until the next such code, and ends by SIGINT.
    """
    if threading.current_thread() is threading.main_thread():
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        eval("None")  # noqa: S307


def _note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Prints a warning about data as a note, and others as Python does."""
    if not issubclass(category, DataWarning):
        return PYTHON_WARNING(message, category, *place, **more)
    Console(stderr=True, soft_wrap=True).print(f"Note: {_plain(message)}.", highlight=False)


def _plain(error: object) -> str:
    from rich.markup import escape

    return escape(str(error))


if __name__ == "__main__":
    run()
