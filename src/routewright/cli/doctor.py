"""`routewright doctor`: says what keeps a config from working, with the way out."""

from __future__ import annotations

import asyncio
import dataclasses
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.doctor import Finding

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}


def doctor(
    config: Annotated[Path, typer.Argument(help="The config.")] = Path("routewright.yaml"),
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Ask nobody; only list models, and say what asking costs."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only warnings and errors.")
    ] = False,
) -> None:
    """Ask every expert one small question; say what is wrong, with the way out.

    Tools, JSON and images are tried where the config or the price list says that an expert can use
    them. Also checked: address, key, model, clock, policies, disk, port and extras. The cost is
    shown; it is usually far below a cent. The exit code is 1 if something is wrong.
    """
    from routewright.doctor import diagnose, total

    if not config.is_file():
        raise BadInput(
            f"there is no '{config}': write one with `routewright init`, or give its path"
        )
    findings = asyncio.run(diagnose(config, ask=not dry_run))
    wrong = [finding for finding in findings if finding.level == "error"]
    warnings = [finding for finding in findings if finding.level == "warning"]
    if json:
        summary = {
            "ok": not wrong,
            "cost": total(findings),
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        typer.echo(json_module.dumps(summary, indent=2, ensure_ascii=False))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for finding in findings:
            if finding.level != "ok" or not quiet:
                _show(finding, console)
        counts = f"{_count(len(wrong), 'error')}, {_count(len(warnings), 'warning')}"
        console.print(f"{counts}; ${total(findings):.6f} spent")
    if wrong:
        raise typer.Exit(1)


def _show(finding: Finding, console: Console) -> None:
    mark, style = MARKS[finding.level]
    who = finding.expert or finding.check
    console.print(Text.assemble((mark, style), " ", (who, "bold"), f": {finding.text}"))
    if finding.fix:
        console.print(Text(f"    {finding.fix}"))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
