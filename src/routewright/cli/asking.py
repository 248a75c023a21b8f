"""Shows the progress and the failures of commands that send many asks, and how they are stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from routewright.data.journal import Journal
    from routewright.experts.ledger import Ledger, Tally, Watch
    from routewright.types import Expert, Query

EXIT_INTERRUPTED = 130
GRACE = 3.0  # seconds that a second Ctrl-C leaves for closing connections and started servers
RESUME = "run the same command again: it asks only what is missing"


class WaitColumn(ProgressColumn):
    """Names the experts that asked for a pause, with the seconds that are left."""

    def render(self, task: Task) -> Text:
        ledger: Ledger | None = task.fields.get("ledger")
        pauses = {} if ledger is None else ledger.pauses()
        return Text(", ".join(f"{name} waits {seconds:.0f} s" for name, seconds in pauses.items()))


@contextmanager
def open_journal(
    description: str, journal: Path | None, out: Path
) -> Iterator[tuple[Journal, Callable[[int, int, float], None], Watch]]:
    """Opens the journal, by default beside `out`, and shows a progress bar.

    Yields the journal, a function to call with the number of rows done, the number of rows in
    total and the US$ spent, and a `watch` for the ledger.
    """
    from routewright.data.journal import Journal

    columns = (
        TextColumn(description),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}, ${task.fields[cost]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        WaitColumn(),
    )
    with (
        interruptible(RESUME),
        Journal(journal or out.with_suffix(".journal.jsonl")) as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("", total=1.0, cost=0.0)

        def show(done: int, total: int, cost: float) -> None:
            bar.update(task, completed=done, total=total, cost=cost)

        yield file, show, lambda ledger: watch(ledger, bar)


@contextmanager
def watch(ledger: Ledger, bar: Progress, stop: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Shows which experts wait or cannot answer any more, and ends the run on request.

    The first Ctrl-C or SIGTERM calls `stop`, ends all pauses and lets the asks in progress finish.
    The second one abandons these, and raises KeyboardInterrupt.
    """

    def say(sentence: str) -> None:
        bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def on_wait(expert: str, seconds: float, why: str) -> None:
        from routewright.experts.permanent import duration

        if not bar.console.is_terminal:  # where the bar shows it
            say(f"{expert} waits {duration(seconds)}: {why}")

    def end() -> None:
        stop()
        ledger.stop()
        say("Stopping after the pending answers; Ctrl-C again stops at once.")

    ledger.on_wait = on_wait
    ledger.on_closed = lambda expert, why: say(f"{expert} is not asked any more: {why}.")
    for task in bar.task_ids:
        bar.update(task, ledger=ledger)
    with _on_signals(end):
        yield


@contextmanager
def _on_signals(end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` on the first Ctrl-C or SIGTERM; the second one cancels the task."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    loop, task, count = asyncio.get_running_loop(), asyncio.current_task(), 0
    assert task is not None, "signals are handled within a task"

    def handle(*_: object) -> None:
        nonlocal count
        count += 1
        if count > 1:
            exit_after(GRACE)
        loop.call_soon_threadsafe(end if count == 1 else task.cancel)

    before = [(sign, signal.signal(sign, handle)) for sign in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    except asyncio.CancelledError:
        if count > 1:
            raise KeyboardInterrupt(RESUME) from None
        raise
    finally:
        for sign, handler in before:
            signal.signal(sign, handler)


@contextmanager
def interruptible(resume: str) -> Iterator[None]:
    """Gives a KeyboardInterrupt the way to continue, which `main` prints."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(*interrupt.args or (resume,)) from None


def exit_after(seconds: float) -> None:
    """Ends the process with exit code 130 after so many seconds, whatever it does then."""
    timer = threading.Timer(seconds, exit_at_once)
    timer.daemon = True
    timer.start()


def exit_at_once(*_: object) -> None:
    """Ends the process with exit code 130, without any clean-up; shows a hidden cursor again."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h\n")
    os._exit(EXIT_INTERRUPTED)


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
    if tally.stopped and not tally.closed:
        messages.append(f"stopped early: {tally.stopped}; run this again with a larger --budget")
    if tally.unasked:
        messages.append(f"{tally.unasked} queries are not done: {RESUME}")
    return messages


def end(tally: Tally) -> None:
    """Says on stderr what is missing and why; the exit code is 130 if the user stopped the run."""
    import typer

    for message in trouble(tally):
        typer.echo(message, err=True)
    if tally.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def check_answered(tally: Tally, answers: int) -> None:
    """Ends a command that has no answers because it was stopped or its expert cannot answer."""
    import typer

    from routewright.errors import BadInput

    if tally.interrupted and not answers:
        typer.echo(f"Stopped before the first answer: {RESUME}.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if tally.closed and not answers:
        raise BadInput("there is no answer, so nothing was written: see above")
