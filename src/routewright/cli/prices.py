"""`routewright prices`: shows a price list, what it says of a config's experts, and adopts it."""

from __future__ import annotations

import json as json_module
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routewright import files
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.experts.prices import Listing, PriceList

CONFIG = Path("routewright.yaml")


def prices(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A price file in LiteLLM's format (model_prices_and_context_window.json);"
            " default: the extract that is shipped."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The config whose experts to look up; default: routewright.yaml here."),
    ] = None,
    use: Annotated[
        bool,
        typer.Option(
            "--use",
            help="Write `price_list: FILE` into the config. The file stays where it is, and"
            " nothing else in the config changes.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a price file, show what a config's experts cost by it, and let the config use it.

    Prices that a config names itself always count; the list gives only what the config leaves
    out. Without --use nothing is written. The exit code is 2 if the file is no price list.
    """
    from routewright.experts.prices import read, shipped

    source = shipped() if file is None else read(file)
    if config is None and (CONFIG.exists() or use):
        config = CONFIG
    rows = [] if config is None else _rows(config, source)
    if use:
        assert config is not None
        _point(config, file)
    if json:
        summary = {"source": source.label, "models": len(source.models), "experts": rows}
        typer.echo(json_module.dumps(summary, indent=2))
        return
    typer.echo(f"{source.label} has prices of {len(source.models):,} chat models")
    console = Console(soft_wrap=True)
    if config is None:
        console.print(_models(source) if file is None else "Name a --config to look up its experts")
        return
    console.print(_experts(rows))
    if use:
        typer.echo(f"'{config}' takes what it does not name from '{file}' now (`price_list:`)")
    elif file is not None:
        typer.echo(f"To let '{config}' use it, run this again with --use")


def _rows(config: Path, source: PriceList) -> list[dict[str, Any]]:
    """The prices of a config's experts, as the config names them and as the list does."""
    from routewright.config.document import read

    document = read(config)
    if document.data is None and document.problems:
        raise BadInput("\n".join(problem.text(config) for problem in document.problems))
    entries = [entry for _, entry in document.items("experts") if isinstance(entry, dict)]
    if not entries:
        raise BadInput(f"'{config}' names no expert: add entries under `experts:`")
    return [_row(entry, source.of(entry)) for entry in entries]


def _row(entry: dict[str, Any], listing: Listing | None) -> dict[str, Any]:
    own = [entry.get("input_per_mtok"), entry.get("output_per_mtok")]
    listed = [None, None] if listing is None else [listing.input_per_mtok, listing.output_per_mtok]
    used = [
        theirs if mine is None and theirs is not None else mine
        for mine, theirs in zip(own, listed, strict=True)
    ]
    return {
        "name": str(entry.get("name")),
        "entry": listing.name if listing else None,
        "config": own,
        "list": listed,
        "used": [price or 0 for price in used],
        "context_window": entry.get("context_window") or (listing and listing.context_window),
    }


def _experts(rows: list[dict[str, Any]]) -> Table:
    table = Table("expert", "entry of the list", title="US$ in/out per million tokens")
    for heading in ("config", "list", "used"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = (_pair(row[key]) for key in ("config", "list", "used"))
        table.add_row(Text(row["name"]), Text(row["entry"] or "–"), *cells)
    return table


def _pair(prices: list[float | None]) -> str:
    return " / ".join("–" if price is None else f"{price:g}" for price in prices)


def _models(source: PriceList) -> Table:
    table = Table("model", "US$ in/out per million tokens", "context window", "capabilities")
    for name, (_, listing) in source.models.items():
        window = "" if listing.context_window is None else f"{listing.context_window:,}"
        capabilities = ", ".join(sorted(listing.capabilities or ()))
        prices = _pair([listing.input_per_mtok, listing.output_per_mtok])
        table.add_row(Text(name), prices, window, capabilities)
    return table


def _point(config: Path, file: Path | None) -> None:
    """Sets `price_list` in a config and leaves every other line as it is."""
    from routewright.config import examine

    if file is None:
        raise BadInput("--use needs a FILE: without `price_list:`, a config uses the shipped list")
    path = os.path.relpath(file, config.parent)
    line = f"price_list: {json_module.dumps(path, ensure_ascii=False)}"
    before = config.read_bytes().decode()
    end = "\r\n" if "\r\n" in before else "\n"
    text, count = re.subn(r"(?m)^price_list:[^\r\n]*", lambda _: line, before, count=1)
    if not count:
        pattern = r"(?m)^version:[^\r\n]*"
        text, count = re.subn(pattern, lambda match: f"{match[0]}{end}{line}", before, count=1)
    if not count:
        raise BadInput(f"'{config}' has no line `version: 1`: add `{line}` to it yourself")
    with files.replacing(config) as changed:
        changed.write_bytes(text.encode())
        if examine(changed).document.get("price_list") != path:
            raise BadInput(f"'{config}' cannot be changed as it is: add `{line}` to it yourself")
