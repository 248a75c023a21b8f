"""What commands that ask about many rows show: a bar with dollars, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routewright.data.journal import Journal
    from routewright.experts.ledger import Tally


@contextmanager
def journalled(
    doing: str, journal: Path | None, out: Path
) -> Iterator[tuple[Journal, Callable[[int, int, float], None]]]:
    """The journal, by default beside `out`, and what shows how many are done, of how many, and
    the US$ spent."""
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
        TextColumn(doing),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}, ${task.fields[cost]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Journal(journal or out.with_suffix(".journal.jsonl")) as paid,
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("", total=1.0, cost=0.0)

        def show(done: int, of: int, cost: float) -> None:
            bar.update(task, completed=done, total=of, cost=cost)

        yield paid, show


def trouble(tally: Tally) -> list[str]:
    """What was not asked or not answered, and the way out, a line each."""
    lines = []
    if tally.failed:
        lines.append(f"{tally.failed} asks failed ({tally.trouble}): run this again to retry them")
    if tally.stopped:
        lines.append(f"stopped early: {tally.stopped}; run this again with a larger --budget")
    return lines
