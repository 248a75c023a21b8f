"""`routewright demo`: starts a working gateway in a minute, without a key and without a network."""

from __future__ import annotations

import json
import math
import os
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def demo(
    once: Annotated[bool, typer.Option(help="Exit after the questions; also with ONCE=1.")] = False,
    folder: Annotated[
        Path, typer.Option(help="Folder for the config, the table and the router.")
    ] = Path("routewright-demo"),
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the gateway; 0 takes a free one. Default: 4100, or a free one if a"
            " program uses that.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other questions.")] = 0,
) -> None:
    """Interview, route and serve three tiny language models on this machine."""
    from routewright import demo as steps
    from routewright.cli.evaluate import show

    console = Console(soft_wrap=True)
    files = steps.Folder(folder)
    files.prepare()

    console.rule("1. Ask three tiny language models the same questions")
    _interview(files, seed, console)

    console.rule("2. Fit a router on these answers, and evaluate it on other questions")
    with console.status("fitting"):
        figures = steps.learn(files, seed, lambda doing, share: None).to_json()
    show(figures, console)
    console.print(_verdict(figures))

    console.rule("3. Serve the router to any OpenAI client")
    with steps.gateway(files, 0 if once or os.environ.get("ONCE") else port) as (url, config):
        _ask_over_http(url, steps.show_questions(seed), console)
        if once or os.environ.get("ONCE"):
            return
        from routewright.cli.serve import welcome

        console.print(welcome(config, url), markup=False, highlight=False)
        console.print(
            f"The config, the table and the router are in {folder}/. To use models of your own,"
            " read docs/start.md. Ctrl-C stops the gateway."
        )
        _wait()


def _interview(files: Any, seed: int, console: Console) -> None:
    from routewright import demo as steps

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("${task.fields[dollars]:.6f}"),
    )
    total = (steps.LEARN + steps.CHECK) * len(steps.sandbox_experts())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("answers", total=total, dollars=0.0)
        spent: list[float] = []

        def count(cell: Any) -> None:
            spent.extend(answer.cost for answer in cell.spent)
            bar.update(task, advance=1, dollars=math.fsum(spent))

        steps.ask_everybody(files, seed, count)


def _verdict(figures: dict[str, Any]) -> str:
    from routewright import demo as steps

    half = figures["at_cost_fraction"][steps.HALF]
    best = figures["references"]["best_single"]
    pays = steps.pays(figures)
    return (
        f"At half of the most expensive model's cost, the router scores"
        f" [bold]{100 * half['quality']:.1f} %[/]; the best single model, {best['name']}, scores"
        f" {100 * best['quality']:.1f} %:"
        f" {'routing pays' if pays else 'routing does NOT pay here'}."
    )


def _ask_over_http(url: str, questions: list[Any], console: Console) -> None:
    from routewright.data.text import dollars
    from routewright.sandbox.skills import grade

    table = Table()
    for heading in ("question", "answer", "right?", "expert", "US$ per 1,000", "expected quality"):
        table.add_column(heading)
    for question in questions:
        reply, headers = _post(f"{url}/v1/chat/completions", question.text)
        text = reply["choices"][0]["message"]["content"]
        expected = _expected(url, question.text)
        right = "yes" if grade(question, text) == 1 else f"no: {question.answer}"
        expert, cost = headers["x-routewright-expert"], float(headers["x-routewright-cost"])
        table.add_row(question.text, text, right, expert, dollars(cost), expected)
    console.print(table)


def _expected(url: str, text: str) -> str:
    """Each expert's predicted quality, from the gateway's `/v1/route`."""
    explanation, _ = _post(f"{url}/v1/route", text)
    forecasts = sorted(explanation["experts"], key=lambda row: -(row.get("quality") or 0))
    return ", ".join(f"{row['name']} {100 * row['quality']:.0f} %" for row in forecasts)


def _post(url: str, text: str) -> tuple[dict[str, Any], Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response), response.headers


def _wait() -> None:
    import threading

    threading.Event().wait()
