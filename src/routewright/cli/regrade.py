"""`routewright regrade`: grades the answers of an outcome table again, and asks nobody."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from routewright.cli.fit import DropDuplicates
from routewright.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

    from routewright.data.queries import Item
    from routewright.grading.audit import Audit
    from routewright.grading.graders import Graders


def regrade(
    table: Annotated[Path, typer.Argument(help="Outcome table of an interview (.parquet).")],
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="Grader, as for `interview`; may be repeated. Default: auto. Graders that ask"
            " experts need `interview` itself, whose journal has the answers."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Outcome table to write; default: the table itself.")
    ] = None,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the summary as JSON.")] = False,
) -> None:
    """Grade the recorded answers of an outcome table again, and ask nobody.

    The scores of the table are replaced, and the answers stay. It ends with the answers whose
    grades a person should check.
    """
    from routewright.data import outcomes, queries
    from routewright.grading.graders import Graders, is_judge

    out = out or table
    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    graders = Graders(grader or ["auto"])
    if judges := [name for name, one in graders.named.items() if is_judge(one)]:
        raise BadInput(
            f"grader '{judges[0]}' asks experts: run `routewright interview` with --grader"
            f" {judges[0]}, which takes the answers from its journal"
        )
    items = queries.recorded([table])
    frame = outcomes.table(table, drop_duplicates=drop_duplicates)
    experts = [c.partition("::")[2] for c in frame.columns if c.startswith("answer::")]
    if not experts:
        raise BadInput(f"'{table}' has no answer:: columns: only recorded answers can be graded")
    counts = graders.check(list(items.values()))
    result, summary = _graded(frame, experts, items, graders)
    outcomes.save(result, out)
    summary = {"table": str(out), "graders": counts, "experts": summary}
    if json:
        typer.echo(json_module.dumps(summary))
    else:
        _show(summary)


def _graded(
    frame: pl.DataFrame, experts: Sequence[str], items: Mapping[str, Item], graders: Graders
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table with new scores, and for each expert what changed."""
    import polars as pl

    from routewright.grading.audit import Graded, audit

    ids = [str(id) for id in frame["id"]]
    summary: dict[str, Any] = {}
    for name in experts:
        texts = whole_answers(frame, name)
        grades = [_grade(graders, items[i], text) for i, text in zip(ids, texts, strict=True)]
        scores = [grade.score if grade else math.nan for grade in grades]
        before = frame.get_column(f"score::{name}", default=None)
        changed = len(ids) if before is None else _changes(before.to_list(), scores)
        parts = [
            text if grade is None or grade.answer is None else grade.answer
            for grade, text in zip(grades, texts, strict=True)
        ]
        frame = frame.with_columns(
            pl.Series(f"score::{name}", scores).fill_nan(None),
            pl.Series(f"answer::{name}", parts, pl.String),
            pl.Series(f"text::{name}", texts, pl.String),
        )
        graded = [
            Graded(i, text or "", items[i].references, score)
            for i, text, score in zip(ids, texts, scores, strict=True)
        ]
        known = [score for score in scores if not math.isnan(score)]
        summary[name] = {
            "graded": len(known),
            "changed": changed,
            "quality": math.fsum(known) / len(known) if known else None,
            "audit": asdict(audit(name, graded)),
        }
    return frame, summary


def whole_answers(frame: pl.DataFrame, expert: str) -> list[str | None]:
    """The whole texts of an expert's answers: `text::` where it differs from `answer::`."""
    answers: list[str | None] = frame[f"answer::{expert}"].to_list()
    if f"text::{expert}" not in frame.columns:
        return answers
    texts = frame[f"text::{expert}"].to_list()
    return [answer if text is None else text for text, answer in zip(texts, answers, strict=True)]


def _grade(graders: Graders, item: Item, text: str | None) -> Any:
    return None if text is None else graders.of(item).grade(item, text)


def _changes(before: Sequence[float | None], after: Sequence[float]) -> int:
    """The scores that differ; one that becomes known or unknown counts, too."""
    pairs = zip((math.nan if old is None else old for old in before), after, strict=True)
    return sum(old != new and not (math.isnan(old) and math.isnan(new)) for old, new in pairs)


def _show(summary: Mapping[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"wrote '{summary['table']}': {takes(summary['graders'])}")
    for name, facts in summary["experts"].items():
        quality = "unknown" if facts["quality"] is None else f"{100 * facts['quality']:.1f} %"
        console.print(
            f"{name}: quality {quality} on {facts['graded']} answers; {facts['changed']} scores"
            " changed"
        )
    show_audits({name: facts["audit"] for name, facts in summary["experts"].items()}, console)


def takes(counts: Mapping[str, int]) -> str:
    """One line about how many rows each grader takes.

    >>> takes({"numeric": 60, "match": 38, "none": 2})
    'numeric grades 60 rows, match 38; 2 need a judge'
    """
    graders = [f"{name} {count}" for name, count in counts.items() if name != "none"]
    if graders:
        name, _, count = graders[0].partition(" ")
        graders[0] = f"{name} grades {count} rows"
    judge = f"{counts['none']} need a judge" if counts.get("none") else ""
    return "; ".join(filter(None, (", ".join(graders), judge)))


def show_audits(audits: Mapping[str, Mapping[str, Any] | Audit], console: Console) -> None:
    """Prints the answers whose grades a person should check, if there are any, and the remedy."""
    entries = {
        name: entry if isinstance(entry, Mapping) else asdict(entry)
        for name, entry in audits.items()
    }
    if not any(e["missed"] or e["long"] or e["warning"] for e in entries.values()):
        return
    console.print("Grades to check by eye:")
    for name, facts in entries.items():
        for kind, label in (("missed", "scored 0, but has"), ("long", "scored 1, reference")):
            for answer in facts[kind]:
                reference = " / ".join(answer["reference"])
                console.print(f"  {name} {answer['id']} {label} '{reference}': {answer['answer']}")
        if facts["warning"]:
            console.print(f"Warning: {facts['warning']}")
    if any(entry["missed"] for entry in entries.values()):
        console.print(
            'If a right answer scored 0, give every accepted form in the query set ("reference":'
            ' ["carbon dioxide", "CO2"]) and run the same `interview` again: the answers are taken'
            " from the journal, and nothing is paid.",
            markup=False,
        )
