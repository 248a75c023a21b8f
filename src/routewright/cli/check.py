"""`routewright check`: what is wrong with a config, where, and how to mend it."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from routewright.config import Config, Examination
    from routewright.config.document import Problem


def check(
    config: Annotated[Path, typer.Argument(help="The file to check, e.g. routewright.yaml.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Validate a config: say what is wrong, where, and how to mend it.

    Every mistake is told at once. Exit code 0 if there is none, else 2; warnings do not count.
    """
    from routewright.config import examine

    found = examine(config)
    if json:
        problems = [_row(problem) for problem in found.problems]
        typer.echo(dumps({"ok": found.config is not None, "problems": problems}, indent=2))
    else:
        _tell(config, found)
    if found.config is None:
        raise typer.Exit(2)


def _row(problem: Problem) -> dict[str, str | int | None]:
    keys = ("line", "column", "where", "value", "problem", "mend", "level")
    return {key: getattr(problem, key) for key in keys}


def _tell(path: Path, found: Examination) -> None:
    for problem in found.problems:
        typer.echo(problem.text(path))
    if found.config is None:
        warnings = len(found.problems) - len(found.mistakes)
        typer.echo(f"{_count(len(found.mistakes), 'mistake')}, {_count(warnings, 'warning')}")
        return
    console = Console()
    console.print(_experts(found.config, found))
    console.print(_policies(found.config))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _experts(config: Config, found: Examination) -> Table:
    from routewright.types import DATA_CLASSES

    table = Table("expert", "endpoint", "US$ in/out per Mtok", "data classes")
    for i, entry in enumerate(config.experts):
        # As written: what a variable held may be a secret.
        written = found.document.written(("experts", i, "base_url"))
        endpoint = written or entry.expert().base_url or entry.provider
        classes = [name for name in DATA_CLASSES if name in entry.data_classes]
        prices = f"{entry.input_per_mtok:g} / {entry.output_per_mtok:g}"
        table.add_row(Text(entry.name), Text(endpoint), prices, ", ".join(classes))
    return table


def _policies(config: Config) -> Table:
    table = Table("policy", "strategy", "router", "fallback")
    for name, policy in config.policies.items():
        label = f"{name} (default)" if name == config.default_policy else name
        router = "" if policy.router is None else str(policy.router)
        fallback = ", ".join(policy.fallback)
        table.add_row(Text(label), policy.strategy, Text(router), Text(fallback))
    return table
