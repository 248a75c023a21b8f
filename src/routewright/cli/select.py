"""`routewright select`: shows which experts are worth keeping, and which can go."""

from __future__ import annotations

import json as json_module
import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from routewright.cli.fit import DropDuplicates, Experts, Tables, names
from routewright.data import text

SHOWN = 8  # topics, at most

if TYPE_CHECKING:
    from routewright.fitting.selection import Loss, Selection


def select(
    tables: Tables,
    size: Annotated[
        int | None, typer.Option(help="Experts to keep; default: all that add something.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="US$ per query for asking all of them: 0.0003, or 0.30/1000."),
    ] = None,
    experts: Experts = None,
    split: Annotated[str, typer.Option(help="Rows to choose by; `all` takes every row.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap and the folds.")] = 0,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print everything as JSON.")] = False,
) -> None:
    """Choose which experts to keep."""
    from routewright.data import outcomes
    from routewright.fitting import selection
    from routewright.router import targets

    rows = outcomes.read(
        tables, experts=names(experts), split=split, drop_duplicates=drop_duplicates
    )
    dollars = None if budget is None else targets.dollars(budget)
    with Console(stderr=True).status("choosing"):
        choice = selection.select(rows, size, budget=dollars, seed=seed)
    if json:
        typer.echo(json_module.dumps(choice.to_json(), allow_nan=False))
    else:
        show(choice, Console())


def show(choice: Selection, console: Console) -> None:
    """Prints the gain from adding each expert, then the loss from leaving it out."""
    console.print(_steps(choice))
    console.print(_oracle_line(choice))
    console.print(
        "The oracle knows the right expert in advance and profits from every lucky guess, more so"
        " with more experts. Trust the columns of achievable routers: the best single expert and a"
        " table of means per domain (cross-fitted)."
    )
    if choice.removals:
        console.print(_removals(choice))
        console.print(_verdict(choice))
    if choice.gaps:
        console.print(_gaps(choice))
        console.print(_missing(choice))
    for note in choice.notes:
        console.print(f"Note: {note}.", markup=False)


def _oracle_line(choice: Selection) -> str:
    reached = (
        f"An oracle with these experts reaches {100 * choice.coverage:.1f} %; with all experts"
        f" of the table, {100 * choice.coverage_of_all:.1f} %."
    )
    if math.isnan(choice.cost):
        return reached
    cost = text.dollars(choice.cost)
    return f"{reached} Asking all of these experts costs US${cost} per 1,000 queries."


def _steps(choice: Selection) -> Table:
    title = f"Experts to keep, by {choice.rows} rows"
    headings = (
        "US$ per\n1,000",
        "quality\n%",
        "oracle",
        "gain",
        "best\nsingle",
        "domain\ntable",
        "gain",
    )
    table = _table(title, headings)
    before = 0.0
    for step in choice.steps:
        table.add_row(
            step.expert,
            _dollars(step.cost),
            f"{100 * step.quality:.1f}",
            f"{100 * step.coverage:.1f}",
            f"{100 * step.gain:+.1f}",
            f"{100 * step.best_single:.1f}",
            f"{100 * step.table:.1f}",
            f"{100 * (step.table - before):+.1f}",
        )
        before = step.table
    return table


def _removals(choice: Selection) -> Table:
    title = "Loss without the expert, percentage points (95 % interval)"
    area = "quality" if math.isnan(choice.cost) else "AIQ"
    headings = ("oracle quality", f"fixed mix, {area}", f"domain table, {area}", "missed?")
    table = _table(title, headings)
    for removal in choice.removals:
        table.add_row(
            removal.expert,
            _loss(removal.coverage),
            _loss(removal.zero_router),
            _loss(removal.table),
            "yes" if removal.missed else "not shown",
        )
    return table


def _verdict(choice: Selection) -> str:
    removable = [removal for removal in choice.removals if not removal.missed]
    if not removable:
        return "Each of these experts is missed by an achievable router."
    if choice.domains < 2:
        return (
            "Without a `domain` column, `select` cannot tell whether a router would miss"
            f" {', '.join(removal.expert for removal in removable)}: give the rows a `domain`, or"
            " `fit` with --experts, with and without it, and compare on held-out rows."
        )
    first = min(removable, key=lambda removal: removal.zero_router.value + removal.table.value)
    return (
        f"{first.expert} can go first: without it the oracle loses"
        f" {100 * first.coverage.value:.1f} points,"
        " and no achievable router is shown to be worse. Run `select` again without it, because"
        " experts replace one another."
    )


def _gaps(choice: Selection) -> Table:
    title = "Where no expert of the table is right, by topic"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("topic", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("none right, %", justify="right", no_wrap=True)
    table.add_column("best single", overflow="fold")
    for heading in ("its quality", "oracle above it"):
        table.add_column(heading, justify="right")
    for gap in choice.gaps[:SHOWN]:
        table.add_row(
            gap.topic or "all rows",
            str(gap.rows),
            f"{100 * gap.unsolved:.0f} {text.between(gap.unsolved_ci)}",
            gap.best,
            f"{100 * gap.best_single:.1f}",
            text.points(gap.gain),
        )
    return table


def _missing(choice: Selection) -> str:
    missing = [gap for gap in choice.gaps if gap.missing]
    if not missing:
        return "No topic is shown to lack an expert more than the others."
    names = ", ".join(
        f"{gap.topic} ({text.share(gap.unsolved)} of {gap.rows} rows)" for gap in missing[:SHOWN]
    )
    return (
        f"Experts are missing for {names}: there even the best of the table is wrong more often"
        " than on the other rows. Interview others on queries of these topics."
    )


def _table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("expert", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _loss(loss: Loss) -> str:
    return f"{100 * loss.value:.1f}\n{text.between((loss.low, loss.high))}"


def _dollars(amount: float) -> str:
    return "unknown" if math.isnan(amount) else text.dollars(amount)
