"""`routewright add-expert`: adds an expert to a fitted router from about a hundred answers."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from routewright.cli.fit import DropDuplicates, Tables
from routewright.data import text
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.data.queries import Item
    from routewright.fitting.add_expert import AddedExpert
    from routewright.router.router import Router


def add_expert(
    router: Annotated[Path, typer.Argument(help="Folder of a fitted router.")],
    tables: Tables,
    expert: Annotated[str, typer.Option(help="The expert to add, as named in the tables.")],
    answers: Annotated[
        int, typer.Option(help="Most of its answers to use; the most informative ones are chosen.")
    ] = 100,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: replace the router.")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to use; `all` takes every row.")] = "train",
    choose: Annotated[
        Path | None,
        typer.Option(help="Only write its next queries to this JSONL file, the most useful first."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Number of queries that --choose writes.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random queries.")] = 0,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the figures as JSON.")] = False,
) -> None:
    """Add an expert to a router, or choose what to ask it."""
    from routewright.data import outcomes, queries
    from routewright.fitting import add_expert
    from routewright.router.router import Router

    loaded = Router.load(router)
    add_expert.check_new(loaded, expert)
    rows = outcomes.read(tables, split=split, drop_duplicates=drop_duplicates)
    console = Console(soft_wrap=True, highlight=False)
    if choose is not None:
        items = queries.recorded(tables)
        figures = _choose(loaded, rows, expert, choose, n, seed, items)
        count = figures["chosen"]
        message = f"{count} queries for '{expert}' are in '{choose}', the most useful first."
    else:
        joined = _join(loaded, rows, expert, answers, seed)
        joined.router.save(out or router)
        figures = joined.to_json()
        message = _summary(joined, out or router)
    if json:
        typer.echo(json_module.dumps(figures))
        return
    console.print(message, markup=False)
    console.print(_expected(figures))


def _choose(
    router: Router,
    rows: Outcomes,
    expert: str,
    path: Path,
    n: int,
    seed: int,
    items: Mapping[str, Item],
) -> dict[str, Any]:
    """Writes the queries with the facts for their grading; returns the figures."""
    import numpy as np

    from routewright.data import queries
    from routewright.fitting import add_expert

    column = add_expert.only(rows, expert)
    with Console(stderr=True).status("choosing"):
        study = add_expert.study(router, rows, held_out=False)
        chosen, left, ahead = add_expert.interview(study, column, n, seed)
    selected = [rows.queries[row] for row in chosen]
    queries.write([_gradable(replace(items[query.id], query=query)) for query in selected], path)
    answered = int(np.isfinite(column.score).sum())
    return {
        "expert": expert,
        "answers": answered,
        "chosen": len(chosen),
        **add_expert.errors_json(left, ahead),
    }


def _gradable(item: Item) -> Item:
    """The item with only the facts that graders read."""
    from routewright.data.queries import FACTS

    return replace(item, facts={name: item.facts[name] for name in FACTS if name in item.facts})


def _join(router: Router, rows: Outcomes, expert: str, answers: int, seed: int) -> AddedExpert:
    from routewright.fitting import add_expert

    column = rows.pool([expert])
    add_expert.check(router, column)
    if answers < add_expert.FEWEST:
        raise BadInput(f"--answers {answers} is too few: at least {add_expert.FEWEST} are needed")
    with progress() as show:
        study = add_expert.study(router, rows, seed=seed, progress=show)
        return add_expert.join(study, column, answers=answers, seed=seed, progress=show)


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """Shows a progress bar; yields a function of the current step and the share done, 0..1."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the queries", total=1.0)
        yield lambda step, share: bar.update(task, description=step, completed=share)


def _summary(joined: AddedExpert, out: Path) -> str:
    learned = sum(point.gain > 0 for point in joined.router.frontier)
    facts = joined.router.card["experts"][joined.expert]
    return (
        f"{joined.expert} joined the router in '{out}' with {len(joined.asked)} answers:"
        f" quality {text.percent(joined.quality)}, US${text.dollars(facts['cost'])} per 1,000"
        f" queries, AUC {facts['auc']:.3f}"
        f" (leave-pair-out). The predictions for the other experts are unchanged. The router serves"
        f" a learned choice at {learned} of {len(joined.router.frontier)} operating points and a"
        " fixed mix elsewhere."
    )


def _expected(figures: Mapping[str, Any]) -> Table:
    """A table of the errors now and after further answers, as standard deviations of quality."""
    table = Table(
        title="Error of its estimated quality (one sd), percentage points", title_justify="left"
    )
    table.add_column("answers")
    for head in ("mean", "one query"):
        table.add_column(head, justify="right")
    now = figures["answers"]
    steps = [{"answers": 0, **figures["error"]}, *figures["error_after_further"]]
    for step in steps:
        answers = f"{now + step['answers']}" + ("" if step["answers"] else " (now)")
        table.add_row(answers, *(f"± {100 * step[key]:.1f}" for key in ("mean", "query")))
    return table
