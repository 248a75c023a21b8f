"""`routewright card`: what a router was fitted on, where it holds, and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from routewright import files
from routewright.cli.evaluate import Html, Json, as_json, short_path


def card(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    tables: Annotated[
        list[Path] | None,
        typer.Argument(help="Outcome tables; the card says which of their prompts were fitted on."),
    ] = None,
    split: Annotated[str, typer.Option(help="Rows of the tables; `all` takes every row.")] = "dev",
    json: Json = None,
    html: Html = None,
) -> None:
    """Tell what a router was fitted on, where it holds, how sure it is, and what it cost."""
    import shlex

    from routewright.data import outcomes
    from routewright.evaluation import card as cards
    from routewright.router.router import Router

    loaded = Router.load(router)
    rows = [outcomes.read([table], split=split) for table in tables or []]
    facts = cards.facts(loaded, rows)
    written = as_json(facts, json)
    if html is not None:
        from routewright.evaluation.report import render_card

        words = ["card", short_path(router), *map(short_path, tables or []), "--split", split]
        command = shlex.join(["routewright", *words, "--html", short_path(html)])
        files.write(html, render_card(facts, command))
        typer.echo(f"wrote '{html}'", err=True)
    if str(json) == "-":
        typer.echo(written)
        return
    console = Console(soft_wrap=True, highlight=False)
    for sentence in cards.in_words(facts):
        console.print(f"- {sentence}", markup=False)
