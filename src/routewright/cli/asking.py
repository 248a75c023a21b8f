"""Shows the progress and the failures of commands that send many asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routewright.data.journal import Journal
    from routewright.experts.ledger import Tally
    from routewright.types import Expert, Query


@contextmanager
def open_journal(
    description: str, journal: Path | None, out: Path
) -> Iterator[tuple[Journal, Callable[[int, int, float], None]]]:
    """Opens the journal, by default beside `out`, and shows a progress bar.

    Yields the journal and a function to call with the number of rows done, the number of rows in
    total and the US$ spent.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from routewright.data.journal import Journal

    columns = (
        TextColumn(description),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}, ${task.fields[cost]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Journal(journal or out.with_suffix(".journal.jsonl")) as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("", total=1.0, cost=0.0)

        def show(done: int, total: int, cost: float) -> None:
            bar.update(task, completed=done, total=total, cost=cost)

        yield file, show


def tell_withheld(expert: Expert, queries: Sequence[Query]) -> list[Query]:
    """The queries that an expert may see; says on stderr how many others there are, and why.

    Raises BadInput if it may see none.
    """
    import typer

    from routewright.experts.limits import check_visible, visible

    positions = check_visible(expert, queries)
    if sentence := visible(expert, queries)[1]:
        typer.echo(f"{sentence}.", err=True)
    return [queries[place] for place in positions]


def trouble(tally: Tally) -> list[str]:
    """Messages about asks that failed or were not sent, with the way out."""
    from routewright.experts.ledger import paid_twice

    twice = paid_twice(tally.cut_off, tally.asks_cut_off)
    messages = [twice] if twice else []
    if tally.failed:
        messages.append(
            f"{tally.failed} asks failed ({tally.trouble}): run this again to retry them"
        )
    if tally.stopped:
        messages.append(f"stopped early: {tally.stopped}; run this again with a larger --budget")
    return messages
