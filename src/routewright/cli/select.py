"""`routewright select`: which experts are worth keeping, and which can go."""

from __future__ import annotations

import json as json_module
import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from routewright.cli.fit import Experts, Tables, names

if TYPE_CHECKING:
    from routewright.fitting.selection import Loss, Selection


def select(
    tables: Tables,
    size: Annotated[
        int | None, typer.Option(help="How many to keep; default: all that add something.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="US$ per query for asking every one of them: 0.0003, or 0.30/1000."),
    ] = None,
    experts: Experts = None,
    split: Annotated[str, typer.Option(help="Rows to choose by; `all` takes every row.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and the folds.")] = 0,
    json: Annotated[bool, typer.Option(help="Print everything as JSON.")] = False,
) -> None:
    """Choose which experts to keep."""
    from routewright.data import outcomes
    from routewright.fitting import selection
    from routewright.router import targets

    rows = outcomes.read(tables, experts=names(experts), split=split)
    dollars = None if budget is None else targets.dollars(budget)
    with Console(stderr=True).status("choosing"):
        chosen = selection.select(rows, size, budget=dollars, seed=seed)
    if json:
        typer.echo(json_module.dumps(chosen.to_json(), allow_nan=False))
    else:
        show(chosen, Console())


def show(chosen: Selection, console: Console) -> None:
    """Prints the gain of each expert, then the loss of leaving each out."""
    console.print(_steps(chosen))
    console.print(_together(chosen))
    console.print(
        "The oracle knows the right expert beforehand and profits from every lucky guess, the"
        " more so the more experts there are. Trust the columns of routers that can be had: the"
        " best single expert and a table of means per domain (cross-fitted)."
    )
    if chosen.removals:
        console.print(_removals(chosen))
        console.print(_verdict(chosen))
    for note in chosen.notes:
        console.print(f"Note: {note}.", markup=False)


def _together(chosen: Selection) -> str:
    text = (
        f"Together an oracle reaches {chosen.coverage:.4f}; with every expert of the table it"
        f" would be {chosen.coverage_of_all:.4f}."
    )
    if math.isnan(chosen.cost):
        return text
    return f"{text} Asking all of the chosen costs ${chosen.cost:.3g} per query."


def _steps(chosen: Selection) -> Table:
    title = f"Which experts to keep, by {chosen.rows} rows"
    heads = ("US$/query", "quality", "oracle", "gain", "best\nsingle", "domain\ntable", "gain")
    table = _table(title, heads)
    before = 0.0
    for step in chosen.steps:
        table.add_row(
            step.expert,
            _dollars(step.cost),
            f"{step.quality:.4f}",
            f"{step.coverage:.4f}",
            f"{step.gain:+.4f}",
            f"{step.best_single:.4f}",
            f"{step.table:.4f}",
            f"{step.table - before:+.4f}",
        )
        before = step.table
    return table


def _removals(chosen: Selection) -> Table:
    title = "What is lost without it (95 % interval)"
    area = "quality" if math.isnan(chosen.cost) else "AIQ"
    heads = ("oracle quality", f"fixed mix, {area}", f"domain table, {area}", "missed?")
    table = _table(title, heads)
    for removal in chosen.removals:
        table.add_row(
            removal.expert,
            _loss(removal.coverage),
            _loss(removal.zero_router),
            _loss(removal.table),
            "yes" if removal.missed else "not shown",
        )
    return table


def _verdict(chosen: Selection) -> str:
    spare = [removal for removal in chosen.removals if not removal.missed]
    if not spare:
        return "Every one of them is missed by a router that can be had."
    if chosen.domains < 2:
        return (
            f"Whether a router would miss {', '.join(removal.expert for removal in spare)} cannot"
            " be told without domains: give the rows a `domain`, or `fit` with --experts, with"
            " and without it, and compare on rows held out."
        )
    first = min(spare, key=lambda removal: removal.zero_router.value + removal.table.value)
    return (
        f"{first.expert} can go first: leaving it out costs the oracle"
        f" {first.coverage.value:.4f}, and no router that can be had is shown to be worse."
        " Ask again without it: experts stand in for one another."
    )


def _table(title: str, heads: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("expert", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _loss(loss: Loss) -> str:
    return f"{loss.value:.3f}\n({loss.low:.3f} … {loss.high:.3f})"


def _dollars(amount: float) -> str:
    return "unknown" if math.isnan(amount) else f"{amount:.3g}"
