"""`routewright interview`: ask every expert every query, grade the answers, write the table."""

from __future__ import annotations

import asyncio
import json as json_module
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from routewright import files
from routewright.cli.asking import EXIT_INTERRUPTED, WaitColumn, watch
from routewright.cli.fit import DropDuplicates
from routewright.cli.regrade import show_audits, takes
from routewright.data import text
from routewright.data.endings import READABLE
from routewright.errors import BadInput
from routewright.grading.audit import Graded, audit

if TYPE_CHECKING:
    from routewright.data.queries import Item
    from routewright.experts.dry_run import Estimate
    from routewright.experts.ledger import Account, Ledger
    from routewright.interview.interview import Cell, Interview
    from routewright.types import Expert

DEFAULT_GRADER = "auto"
COMPARED = 3  # experts whose answers `fit` needs where none is scored


def interview(
    config: Annotated[Path, typer.Argument(help="The config, e.g. routewright.yaml.")],
    queries: Annotated[
        str,
        typer.Argument(help=f"Query set ({READABLE}), lm_eval=TASK or inspect_ai=MODULE:TASK."),
    ],
    out: Annotated[Path, typer.Option(help="Outcome table to write (.parquet).")],
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="Grader, e.g. exact, numeric, f1, code, judge=EXPERT; may be repeated: the first"
            " one grades every query that names none. Default: auto, by each reference."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Comma-separated experts to ask; default: all of the config.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="US$ that all runs with this journal together may cost."),
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
        int, typer.Option(min=1, help="Limit of an answer, unless the query or the config sets it.")
    ] = 1024,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent queries per expert.")] = 4,
    split: Annotated[str, typer.Option(help="Split of queries without one.")] = "train",
    hold_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of those queries, by domain, for split dev, to evaluate routers.",
        ),
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask only this many queries, from the first one on.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="File of paid asks; default: OUT.journal.jsonl.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="`local`, or `ray`: on the cluster that RAY_ADDRESS names.")
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask no expert; estimate the cost and the time.")
    ] = False,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the summary as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a report about the interview to this file.")
    ] = None,
) -> None:
    """Ask every expert every query; resume after an interruption, and pay nothing twice.

    After Ctrl-C, a crash or a spent budget, run the same command again: it continues from the
    journal. The exit code is 130 after Ctrl-C, and 2 if no answer arrived or none could be graded.
    """
    from routewright.config import default_data_class, examine
    from routewright.config import experts as read_experts
    from routewright.data import tasks
    from routewright.data.queries import held_out, proof_of
    from routewright.grading.graders import Graders
    from routewright.interview.interview import withheld, write

    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    journal = journal or out.with_suffix(".journal.jsonl")
    if out.exists() and not journal.exists() and not dry_run:
        raise BadInput(
            f"'{out}' exists already, but its journal '{journal}' does not: name another --out, or"
            " the --journal of that table"
        )
    experts = read_experts(config)
    chosen = _select(experts, only)
    data_class = default_data_class(config)
    items = tasks.read(queries, split="", data_class=data_class, drop_duplicates=drop_duplicates)[
        :limit
    ]
    items = held_out(items, hold_out, rest=split)
    settings: dict[str, Any] = {
        "experts": chosen,
        "recalled": [expert for expert in experts.values() if expert not in chosen],
        "judges": list(experts.values()),
        "graders": Graders(grader or [DEFAULT_GRADER]),
        "verifications": verify,
        "samples": samples,
        "logprobs": logprobs,
        "max_tokens": max_tokens,
        "concurrency": concurrency,
    }
    console = Console(stderr=json, soft_wrap=True, highlight=False)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    for sentence in withheld(items, chosen, settings["judges"], settings["graders"]):
        errors.print(f"{sentence}.", markup=False)
    counts = settings["graders"].check(items)
    errors.print(f"Grading: {takes(counts)}.", markup=False)
    unscored = settings["graders"].default == "unscored"
    if unscored and len(experts) < COMPARED:
        errors.print(
            f"Warning: without scores, `fit` needs {COMPARED} experts with comparable answers, and"
            f" the config has {', '.join(experts)}: add an expert, or name a grader.",
            markup=False,
        )
    if hold_out:
        errors.print(f"{proof_of(items, scored=not unscored)}.", markup=False)
    for line in examine(config).from_price_list:
        console.print(line, markup=False)
    if dry_run:
        estimate = asyncio.run(_dry_run(items, experts, journal, settings))
        _show_estimate(estimate, json, console, budget, concurrency)
        return
    if engine == "local":
        run = _interview(items, experts, journal, budget, settings, console)
        result, account = asyncio.run(run)
    else:
        result, account = _spread(items, experts, journal, budget, grader, settings, engine)
    answered = any(cell.answers for cell in result.cells.values())
    if answered:
        write(items, result.cells, out, order=list(experts), data_class=data_class)
    summary = {**summarise(result, account), "graders": counts}
    if html is not None:
        from routewright.evaluation.report import render_interview

        files.write(html, render_interview(summary, queries, str(out)))
        errors.print(f"wrote '{html}'", markup=False)
    if json:
        typer.echo(json_module.dumps(summary))
    else:
        _show(summary, out, console)
    retry = any(cell.failed and not cell.barred for cell in result.cells.values())
    _show_notes(summary, journal, errors, retry)
    if result.stopped:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not answered:
        raise BadInput(f"no expert answered any query, so '{out}' was not written: see above")
    graded = any(facts["graded"] for facts in summary["experts"].values())
    if not json and summary["complete"] and len(experts) > 1 and (graded or unscored):
        errors.print(f"Next: routewright fit {out} --out router", markup=False, highlight=False)
    if unscored:
        return
    if not graded:
        raise BadInput(
            "no answer could be graded (the reasons are above), so nothing can be fitted: the"
            f" answers are in '{out}'; grade them with `routewright regrade {out} --grader NAME`"
        )


def _select(experts: Mapping[str, Expert], only: str | None) -> list[Expert]:
    from routewright.cli.fit import names

    requested = names(only) or list(experts)
    if unknown := [name for name in requested if name not in experts]:
        raise BadInput(f"no expert '{unknown[0]}': the config has {', '.join(experts)}")
    return [experts[name] for name in dict.fromkeys(requested)]


# --- running -------------------------------------------------------------------------------


async def _interview(
    items: Sequence[Item],
    experts: Mapping[str, Expert],
    path: Path,
    budget: float | None,
    settings: Mapping[str, Any],
    console: Console,
) -> tuple[Interview, Account]:
    from routewright.data.journal import Journal
    from routewright.experts.dry_run import Recall
    from routewright.experts.ledger import Ledger
    from routewright.interview.interview import Interview

    with Journal(path) as journal:
        async with Ledger(experts.values(), journal, budget=budget) as ledger:
            total = len(items) * len(settings["experts"])
            with progress(total, budget, ledger) as (show, bar):
                study = Interview(
                    items,
                    asker=ledger,
                    recall=Recall(ledger),
                    on_cell=show,
                    on_down=lambda name, reason: console.print(
                        f"{name} did not answer the first query: {reason}", markup=False
                    ),
                    **settings,
                )
                with watch(ledger, bar, study.stop):
                    await study.run()
            return study, ledger.account


def _spread(
    items: Sequence[Item],
    experts: Mapping[str, Expert],
    path: Path,
    budget: float | None,
    graders: list[str] | None,
    settings: Mapping[str, Any],
    engine: str,
) -> tuple[Interview, Account]:
    """Runs the interview on a Ray cluster."""
    from routewright import parallel
    from routewright.interview import ray as interview_on_ray

    parallel.cluster(engine)
    options = {key: value for key, value in settings.items() if key != "graders"}
    with _bar(len(items) * len(settings["experts"]), budget, 0.0) as (show, _):
        return interview_on_ray.interview(
            items, experts.values(), path, budget, graders or [DEFAULT_GRADER], options, show
        )


@contextmanager
def progress(total: int, budget: float | None, ledger: Ledger) -> Iterator[tuple[Any, Progress]]:
    """Shows a progress bar; yields a function to call with every finished cell, and the bar."""
    with _bar(total, budget, ledger.account.spent) as (show, bar):
        yield lambda cell: show(1, ledger.account.spent), bar


@contextmanager
def _bar(total: int, budget: float | None, spent: float) -> Iterator[tuple[Any, Progress]]:
    """Yields a function to call with the number of new answers and the US$ spent, and the bar."""
    limit = "" if budget is None else f" of ${budget:g}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("${task.fields[dollars]:.4f}" + limit),
        WaitColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("answers", total=total, dollars=spent)
        yield lambda cells, dollars: bar.update(task, advance=cells, dollars=dollars), bar


# --- the summary ---------------------------------------------------------------------------


def summarise(result: Interview, account: Account) -> dict[str, Any]:
    """The summary of an interview, as `--json` prints it."""
    return {
        "queries": len(result.items),
        "experts": {expert.name: _expert_summary(result, expert.name) for expert in result.experts},
        "asked": account.asked,
        "from_journal": account.recalled,
        "cost": account.spent,
        "cost_unsure": account.unsure,
        "cost_cut_off": account.cut_off,
        "asks_cut_off": account.asks_cut_off,
        "complete": all(
            (item.query.id, expert.name) in result.cells
            for item in result.items
            for expert in result.experts
        ),
        "stopped": result.stopped,
        "left_out": result.left_out,
        "unavailable": list(result.closed),
        "out_of_money": result.out_of_money,
    }


def _expert_summary(result: Interview, expert: str) -> dict[str, Any]:
    cells = [cell for (_, name), cell in result.cells.items() if name == expert]
    answered = [cell for cell in cells if cell.answers]
    scores = [score for cell in answered if not math.isnan(score := cell.grade.score)]
    return {
        "answers": len(answered),
        "failed": _count(cell.failed for cell in cells if cell.failed),
        "graded": len(scores),
        "ungraded": _count(cell.grade.why for cell in answered if math.isnan(cell.grade.score)),
        "cut_off": sum(cell.answers[0].finish_reason == "length" for cell in answered),
        "quality": _mean(scores),
        "cost": _mean([cell.answers[0].cost for cell in answered]),
        "audit": asdict(audit(expert, _graded(answered))),
        "latency": _mean([s for cell in answered if not math.isnan(s := cell.answers[0].latency)]),
    }


def _graded(cells: Sequence[Cell]) -> list[Graded]:
    return [
        Graded(cell.item.query.id, cell.answers[0].text, cell.item.references, cell.grade.score)
        for cell in cells
    ]


def _count(reasons: Iterator[str]) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(reasons).most_common())


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _show(summary: Mapping[str, Any], out: Path, console: Console) -> None:
    table = Table(title=f"'{out}': {summary['queries']} queries", title_justify="left")
    for heading in (
        "expert",
        "answers",
        "failed",
        "ungraded",
        "quality, %",
        "US$ per 1,000",
        "seconds",
    ):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for name, facts in summary["experts"].items():
        table.add_row(
            name,
            str(facts["answers"]),
            str(sum(facts["failed"].values())),
            str(sum(facts["ungraded"].values())),
            _format(facts["quality"], lambda quality: f"{100 * quality:.1f}"),
            _format(facts["cost"], text.dollars),
            _format(facts["latency"], lambda seconds: f"{seconds:.2f}"),
        )
    console.print(table)
    console.print(
        f"US${summary['cost']:.6f} spent so far; {summary['asked']} answers from experts,"
        f" {summary['from_journal']} from the journal."
    )


def _format(value: float | None, form: Callable[[float], str]) -> str:
    return "unknown" if value is None else form(value)


def _show_notes(summary: Mapping[str, Any], journal: Path, console: Console, retry: bool) -> None:
    """Prints what went wrong and how to continue; `retry` if failed asks can be repeated."""
    from routewright.experts.ledger import paid_twice

    if sentence := paid_twice(summary["cost_cut_off"], summary["asks_cut_off"]):
        console.print(sentence)
    if summary["cost_unsure"]:
        console.print(
            f"Answers that never arrived may have cost up to US${summary['cost_unsure']:.6f} more;"
            " the budget includes that."
        )
    for name, facts in summary["experts"].items():
        for why, count in facts["failed"].items():
            console.print(f"{name}: {count} failed: {why}", markup=False)
        for why, count in facts["ungraded"].items():
            console.print(f"{name}: {count} not graded: {why}", markup=False)
        if facts["cut_off"]:
            console.print(f"{name}: {facts['cut_off']} cut off at the limit: raise --max-tokens")
    audits = {name: facts["audit"] for name, facts in summary["experts"].items()}
    show_audits(audits, console)
    for name, facts in summary["experts"].items():
        has_failed = facts["failed"] or name in summary["unavailable"]
        if has_failed and not facts["answers"]:
            rest = [other for other, seen in summary["experts"].items() if seen["answers"]]
            others = f", or fit without it (--experts {','.join(rest)})" if rest else ""
            console.print(
                f"Warning: {name} gave no answer at all, so the table knows nothing about it:"
                f" run the same command again once it answers{others}.",
                markup=False,
            )
    for name, why in summary["left_out"].items():
        why = "see above" if name in summary["unavailable"] else why
        console.print(f"{name}: left out{_missing(summary, name)}: {why}", markup=False)
    if summary["stopped"] or not summary["complete"] or retry:
        advice = " with a larger --budget" if summary["out_of_money"] else ""
        console.print(
            f"To continue, run the same command again{advice}: it asks only what is missing, and"
            f" nothing in '{journal}' is paid for twice.",
            markup=False,
        )


def _missing(summary: Mapping[str, Any], expert: str) -> str:
    """How many answers of an expert are missing; nothing of a judge that gives none."""
    facts, total = summary["experts"].get(expert), summary["queries"]
    return f", {total - facts['answers']} of its {total} answers are missing" if facts else ""


# --- the dry run ---------------------------------------------------------------------------


async def _dry_run(
    items: Sequence[Item], experts: Mapping[str, Expert], path: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    from routewright.data.journal import read
    from routewright.experts.dry_run import DryRun, Recall
    from routewright.interview.interview import Interview

    dry_run = DryRun(experts.values(), read(path))
    recall = Recall(dry_run)
    await Interview(items, asker=dry_run, recall=recall, rehearsal=True, **settings).run()
    concurrency = settings["concurrency"]
    estimates = {
        name: _facts(estimate, concurrency)
        for name, estimate in dry_run.estimates.items()
        if estimate.asks
    }
    return {
        "queries": len(items),
        "experts": estimates,
        "spent": dry_run.account.spent,
        "cost": math.fsum(facts["cost"] for facts in estimates.values()),
        "cost_at_most": math.fsum(facts["cost_at_most"] for facts in estimates.values()),
        "seconds": max((facts["seconds"] for facts in estimates.values()), default=0.0),
    }


def _facts(estimate: Estimate, concurrency: int) -> dict[str, Any]:
    return {
        "asks": estimate.asks,
        "in_journal": estimate.in_journal,
        "cost": estimate.cost,
        "cost_at_most": estimate.bound,
        "seconds": estimate.seconds / concurrency,
    }


def _time(seconds: float) -> str:
    """A time for people, in minutes.

    >>> _time(20), _time(150)
    ('less than a minute', '2.5 minutes')
    """
    return "less than a minute" if seconds < 60 else f"{seconds / 60:.1f} minutes"


def _show_estimate(
    estimate: Mapping[str, Any],
    json: bool,
    console: Console,
    budget: float | None,
    concurrency: int,
) -> None:
    from routewright.experts.dry_run import TYPICAL_TOKENS
    from routewright.experts.spending import SPEED

    if json:
        typer.echo(json_module.dumps(estimate))
        return
    table = Table(title=f"{estimate['queries']} queries, no expert asked yet", title_justify="left")
    for heading in ("expert", "asks", "in the journal", "about US$", "at most US$", "minutes"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for name, facts in estimate["experts"].items():
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
        f"About US${estimate['cost']:.4g}, at most US${estimate['cost_at_most']:.4g};"
        f" US${estimate['spent']:.4g} spent before. About {_time(estimate['seconds'])}, that of the"
        f" slowest expert: all are asked at the same time, each {concurrency} queries at once. Both"
        " are estimates: every answer is taken to be as long and as slow as the expert's mean"
        f" answer in the journal; without any, {TYPICAL_TOKENS} tokens long, at {SPEED:g} tokens a"
        " second or the config's `latency`."
    )
    if budget is not None and estimate["spent"] + estimate["cost"] > budget:
        console.print(f"A budget of US${budget:g} is too small for all of it.")
