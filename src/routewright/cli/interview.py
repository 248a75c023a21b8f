"""`routewright interview`: ask every expert every query, grade the answers, write the table."""

from __future__ import annotations

import asyncio
import json as json_module
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.data.queries import Item
    from routewright.experts.ledger import Account, Forecast, Ledger
    from routewright.interview.interview import Interview
    from routewright.types import Expert

EXIT_INTERRUPTED = 130
DEFAULT_GRADER = "normalised"


def interview(
    config: Annotated[Path, typer.Argument(help="The config, e.g. routewright.yaml.")],
    queries: Annotated[
        str,
        typer.Argument(
            help="Query set: .jsonl, .parquet or .csv; or lm_eval=TASK, inspect_ai=MODULE:TASK."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Outcome table to write (.parquet).")],
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="How to grade, e.g. exact, numeric, f1, code, judge=EXPERT; may be repeated: the"
            " first is for every query that names none. Default: normalised."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Comma-separated experts to ask; default: all of the config.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="US$ that all runs with this journal together may cost at most."),
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Verifications of each answer, for verify::EXPERT.")
    ] = 0,
    samples: Annotated[
        int, typer.Option(min=0, help="Further answers at temperature 1, for soft::EXPERT.")
    ] = 0,
    logprobs: Annotated[
        bool, typer.Option(help="Ask for the answers' log-probabilities, for logprob::EXPERT.")
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Of an answer, where neither query nor config says.")
    ] = 1024,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Queries under way at once, per expert.")
    ] = 4,
    split: Annotated[str, typer.Option(help="Split of queries that name none.")] = "train",
    hold_out: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of those, the share for split dev, which judges routers."),
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask only so many queries, the first ones.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="What was paid for; default: OUT.journal.jsonl.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="`local`, or `ray`: on the cluster that RAY_ADDRESS names.")
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask nobody; tell what it would cost and take.")
    ] = False,
    json: Annotated[bool, typer.Option(help="Print the summary as JSON.")] = False,
) -> None:
    """Ask every expert every query; resumes where it was stopped, pays nothing twice.

    Run the same command again after Ctrl-C, a crash or a spent budget: it goes on from the
    journal. Exit code 130 after Ctrl-C, 2 if nobody answered anything.
    """
    from routewright.config import experts as read_experts
    from routewright.data import tasks
    from routewright.data.queries import held_out
    from routewright.grading.graders import Graders

    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    journal = journal or out.with_suffix(".journal.jsonl")
    if out.exists() and not journal.exists() and not dry_run:
        raise BadInput(
            f"'{out}' is there already, and not its journal '{journal}': name another --out, or the"
            " --journal that it came from"
        )
    known = read_experts(config)
    asked = _chosen(known, only)
    items = held_out(tasks.read(queries, split="")[:limit], hold_out, rest=split)
    settings: dict[str, Any] = {
        "experts": asked,
        "recalled": [expert for expert in known.values() if expert not in asked],
        "judges": list(known.values()),
        "graders": Graders(grader or [DEFAULT_GRADER]),
        "verifications": verify,
        "samples": samples,
        "logprobs": logprobs,
        "max_tokens": max_tokens,
        "concurrency": concurrency,
    }
    console = Console(stderr=json, soft_wrap=True, highlight=False)
    if dry_run:
        told = asyncio.run(_rehearse(items, known, journal, settings))
        _tell(told, json, console, budget)
        return
    if engine == "local":
        run = _run(items, known, journal, budget, settings, console)
        done, account = asyncio.run(run)
    else:
        done, account = _spread(items, known, journal, budget, grader, settings, engine)
    from routewright.interview import interview as study

    answered = any(cell.answers for cell in done.cells.values())
    if answered:
        study.write(items, done.cells, out, order=list(known))
    summary = summarise(done, account)
    if json:
        typer.echo(json_module.dumps(summary))
    else:
        _show(summary, out, console)
    _what_next(summary, journal, Console(stderr=True, soft_wrap=True, highlight=False))
    if done.stopped:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not answered:
        raise BadInput(f"nobody has answered anything, so there is no '{out}': see above")


def _chosen(known: Mapping[str, Expert], only: str | None) -> list[Expert]:
    from routewright.cli.fit import names

    wanted = names(only) or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise BadInput(f"no expert '{unknown[0]}': the config has {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(wanted)]


# --- running -------------------------------------------------------------------------------


async def _run(
    items: Sequence[Item],
    known: Mapping[str, Expert],
    path: Path,
    budget: float | None,
    settings: Mapping[str, Any],
    console: Console,
) -> tuple[Interview, Account]:
    from routewright.data.journal import Journal
    from routewright.experts.ledger import Ledger, Recall
    from routewright.interview.interview import Interview

    with Journal(path) as journal:
        async with Ledger(known.values(), journal, budget=budget) as ledger:
            total = len(items) * len(settings["experts"])
            with progress(total, budget, ledger) as show:
                under_way = Interview(
                    items, asker=ledger, recall=Recall(ledger), on_cell=show, **settings
                )
                with stopping([under_way], console):
                    await under_way.run()
            return under_way, ledger.account


def _spread(
    items: Sequence[Item],
    known: Mapping[str, Expert],
    path: Path,
    budget: float | None,
    graders: list[str] | None,
    settings: Mapping[str, Any],
    engine: str,
) -> tuple[Interview, Account]:
    """The same on a cluster."""
    from routewright import parallel
    from routewright.interview import ray as interview_on_ray

    parallel.cluster(engine)
    wishes = {key: value for key, value in settings.items() if key != "graders"}
    with _bar(len(items) * len(settings["experts"]), budget, 0.0) as show:
        return interview_on_ray.interview(
            items, known.values(), path, budget, graders or [DEFAULT_GRADER], wishes, show
        )


@contextmanager
def stopping(under_way: Sequence[Interview], console: Console) -> Iterator[None]:
    """Ctrl-C lets the answers under way come in; a second one does not wait for them."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def stop() -> None:
        if task is not None and (not under_way or under_way[-1].stopped):
            task.cancel()
            return
        under_way[-1].stop()
        console.print("Stopping: waiting for the answers under way; Ctrl-C again stops at once.")

    try:
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, stop)
    except NotImplementedError:  # Windows: Ctrl-C stops at once
        yield
        return
    try:
        yield
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(sign)


@contextmanager
def progress(total: int, budget: float | None, ledger: Ledger) -> Iterator[Any]:
    with _bar(total, budget, ledger.account.spent) as show:
        yield lambda cell: show(1, ledger.account.spent)


@contextmanager
def _bar(total: int, budget: float | None, spent: float) -> Iterator[Any]:
    """Gives a function to call with how many answers came in, and what has been spent."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    limit = "" if budget is None else f" of ${budget:g}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("${task.fields[dollars]:.4f}" + limit),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("answers", total=total, dollars=spent)
        yield lambda cells, dollars: bar.update(task, advance=cells, dollars=dollars)


# --- telling -------------------------------------------------------------------------------


def summarise(done: Interview, account: Account) -> dict[str, Any]:
    """What was asked, said, graded and paid, as JSON knows it."""
    return {
        "queries": len(done.items),
        "experts": {expert.name: _about(done, expert.name) for expert in done.experts},
        "asked": account.asked,
        "from_journal": account.recalled,
        "cost": account.spent,
        "cost_unsure": account.unsure,
        "complete": all(
            (item.query.id, expert.name) in done.cells
            for item in done.items
            for expert in done.experts
        ),
        "stopped": done.stopped,
        "left_out": done.left_out,
        "out_of_money": done.out_of_money,
    }


def _about(done: Interview, expert: str) -> dict[str, Any]:
    cells = [cell for (_, name), cell in done.cells.items() if name == expert]
    said = [cell for cell in cells if cell.answers]
    graded = [cell.grade.score for cell in said if cell.grade.score == cell.grade.score]
    return {
        "answers": len(said),
        "failed": _counted(cell.failed for cell in cells if cell.failed),
        "graded": len(graded),
        "ungraded": _counted(
            cell.grade.why for cell in said if cell.grade.score != cell.grade.score
        ),
        "cut_off": sum(cell.answers[0].finish_reason == "length" for cell in said),
        "quality": _mean(graded),
        "cost": _mean([cell.answers[0].cost for cell in said]),
        "latency": _mean([s for cell in said if (s := cell.answers[0].latency) == s]),
    }


def _counted(reasons: Iterator[str]) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(reasons).most_common())


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _show(summary: Mapping[str, Any], out: Path, console: Console) -> None:
    table = Table(title=f"'{out}': {summary['queries']} queries", title_justify="left")
    for heading in ("expert", "answers", "failed", "ungraded", "quality", "US$/answer", "seconds"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for name, facts in summary["experts"].items():
        table.add_row(
            name,
            str(facts["answers"]),
            str(sum(facts["failed"].values())),
            str(sum(facts["ungraded"].values())),
            *(_known(facts[key], form) for key, form in FORMS.items()),
        )
    console.print(table)
    console.print(
        f"${summary['cost']:.6f} spent so far; {summary['asked']} answers asked for now,"
        f" {summary['from_journal']} from the journal."
    )


FORMS = {"quality": ".3f", "cost": ".3g", "latency": ".2f"}


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _what_next(summary: Mapping[str, Any], journal: Path, console: Console) -> None:
    """Everything that a reader should not miss."""
    if summary["cost_unsure"]:
        console.print(
            f"Answers that never came may have cost up to ${summary['cost_unsure']:.6f} more; the"
            " budget counts that."
        )
    for name, facts in summary["experts"].items():
        for why, count in facts["failed"].items():
            console.print(f"{name}: {count} failed: {why}", markup=False)
        for why, count in facts["ungraded"].items():
            console.print(f"{name}: {count} not graded: {why}", markup=False)
        if facts["cut_off"]:
            console.print(f"{name}: {facts['cut_off']} cut off at their length: see --max-tokens")
    for name, why in summary["left_out"].items():
        console.print(f"{name}: left out: {why}", markup=False)
    failed = any(facts["failed"] for facts in summary["experts"].values())
    if summary["stopped"] or not summary["complete"] or failed:
        more = " with a larger --budget" if summary["out_of_money"] else ""
        console.print(
            f"To go on, run the same command again{more}: what is in '{journal}' is not paid for"
            " twice.",
            markup=False,
        )


# --- the dry run ---------------------------------------------------------------------------


async def _rehearse(
    items: Sequence[Item], known: Mapping[str, Expert], path: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    from routewright.data.journal import read
    from routewright.experts.ledger import Recall, Rehearsal
    from routewright.interview.interview import Interview

    rehearsal = Rehearsal(known.values(), read(path))
    recall = Recall(rehearsal)
    await Interview(items, asker=rehearsal, recall=recall, rehearsal=True, **settings).run()
    side_by_side = settings["concurrency"]
    experts = {
        name: _forecast(forecast, side_by_side)
        for name, forecast in rehearsal.forecasts.items()
        if forecast.asks
    }
    return {
        "queries": len(items),
        "experts": experts,
        "spent": rehearsal.account.spent,
        "cost": math.fsum(facts["cost"] for facts in experts.values()),
        "cost_at_most": math.fsum(facts["cost_at_most"] for facts in experts.values()),
        "seconds": max((facts["seconds"] for facts in experts.values()), default=0.0),
    }


def _forecast(forecast: Forecast, side_by_side: int) -> dict[str, Any]:
    return {
        "asks": forecast.asks,
        "in_journal": forecast.known,
        "cost": forecast.cost,
        "cost_at_most": forecast.bound,
        "seconds": forecast.seconds / side_by_side,
    }


def _tell(told: Mapping[str, Any], json: bool, console: Console, budget: float | None) -> None:
    if json:
        typer.echo(json_module.dumps(told))
        return
    table = Table(title=f"{told['queries']} queries, nobody asked yet", title_justify="left")
    for heading in ("expert", "asks", "in the journal", "about US$", "at most US$", "minutes"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for name, facts in told["experts"].items():
        table.add_row(
            name,
            str(facts["asks"]),
            str(facts["in_journal"]),
            f"{facts['cost']:.4g}",
            f"{facts['cost_at_most']:.4g}",
            f"{facts['seconds'] / 60:.1f}",
        )
    console.print(table)
    console.print(
        f"About ${told['cost']:.4g} and {told['seconds'] / 60:.0f} minutes, at most"
        f" ${told['cost_at_most']:.4g}; ${told['spent']:.4g} spent before. Lengths and speeds are"
        " those of the journal; of experts that it does not know, 250 tokens at 50 a second."
    )
    if budget is not None and told["spent"] + told["cost"] > budget:
        console.print(f"A budget of ${budget:g} will not be enough for all of it.")
