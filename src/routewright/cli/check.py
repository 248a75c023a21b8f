"""`routewright check`: reports what is wrong with a config, where, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from routewright.config import Config, Examination, ExpertConfig
    from routewright.config.document import Document, Problem


def check(
    config: Annotated[Path, typer.Argument(help="The file to check.")] = Path("routewright.yaml"),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Validate a config: report what is wrong, where, and how to fix it.

    All mistakes are reported at once. The exit code is 0 if there are none, else 2; warnings do
    not change it.
    """
    from routewright.config import examine

    examination = examine(config)
    if json:
        problems = [_row(problem) for problem in examination.problems]
        summary = {
            "ok": examination.config is not None,
            "problems": problems,
            "from_price_list": examination.from_price_list,
        }
        typer.echo(dumps(summary, indent=2))
    else:
        _show(config, examination)
    if examination.config is None:
        raise typer.Exit(2)


def _row(problem: Problem) -> dict[str, str | int | None]:
    keys = ("line", "column", "where", "value", "problem", "fix", "level")
    return {"mend" if key == "fix" else key: getattr(problem, key) for key in keys}


def _show(path: Path, examination: Examination) -> None:
    for problem in examination.problems:
        typer.echo(problem.text(path))
    if examination.config is None:
        warnings = len(examination.problems) - len(examination.mistakes)
        typer.echo(f"{_count(len(examination.mistakes), 'mistake')}, {_count(warnings, 'warning')}")
        return
    for line in examination.from_price_list:
        typer.echo(line)
    console = Console()
    console.print(_experts(examination.config, examination))
    console.print(_policies(examination.config))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _experts(config: Config, examination: Examination) -> Table:
    from routewright.types import DATA_CLASSES

    table = Table("expert")
    table.add_column("endpoint", overflow="fold")  # two servers may differ in their ports alone
    table.add_column("US$ in/out per Mtok")
    table.add_column("data classes")
    for i, entry in enumerate(config.experts):
        endpoint = "\n".join(_endpoints(entry, i, examination.document))
        classes = [name for name in DATA_CLASSES if name in entry.data_classes]
        prices = f"{entry.input_per_mtok:g} / {entry.output_per_mtok:g}"
        table.add_row(Text(entry.name), Text(endpoint), prices, ", ".join(classes))
    return table


def _endpoints(entry: ExpertConfig, position: int, document: Document) -> Iterator[str]:
    """The address of an expert, or those of its deployments.

    It is the text of the file, because the content of a variable may be a secret.
    """
    loc = ("experts", position)
    own = document.written((*loc, "base_url")) or entry.expert().base_url or entry.provider
    if not entry.deployments:
        yield own
    for i in range(len(entry.deployments)):
        yield document.written((*loc, "deployments", i, "base_url")) or own


def _policies(config: Config) -> Table:
    table = Table("policy", "strategy", "router", "fallback")
    for name, policy in config.policies.items():
        label = f"{name} (default)" if name == config.default_policy else name
        router = "" if policy.router is None else str(policy.router)
        fallback = ", ".join(policy.fallback)
        table.add_row(Text(label), policy.strategy, Text(router), Text(fallback))
    return table
