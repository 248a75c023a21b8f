"""`routewright selfplay`: grows a table with new queries where the router is unsure, and refits."""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from routewright.cli.asking import EXIT_INTERRUPTED
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.data.queries import Item
    from routewright.interview.interview import Interview
    from routewright.interview.selfplay import Play


def selfplay(
    config: Annotated[Path, typer.Argument(help="The config, e.g. routewright.yaml.")],
    router: Annotated[Path, typer.Argument(help="Folder of the router to begin with.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the rounds; an earlier run in it continues.")
    ],
    generator: Annotated[
        str | None, typer.Option(help="The expert that writes the queries.")
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="In place of --generator: `sandbox`, or MODULE:FUNCTION, called with (n, seed)."
        ),
    ] = None,
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="Grader, e.g. judge=EXPERT or majority. Default: normalised, which needs"
            " references."
        ),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(help="Table that the router was fitted on; default: as router.json says."),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Table to evaluate on; queries that overlap with it are not asked."),
    ] = None,
    split: Annotated[str, typer.Option(help="Rows of the held-out tables.")] = "dev",
    rounds: Annotated[int, typer.Option(min=1, help="Largest number of rounds.")] = 4,
    queries: Annotated[int, typer.Option(min=1, help="Queries asked per round.")] = 100,
    explore: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them that are drawn at random.")
    ] = 0.2,
    candidates: Annotated[
        int, typer.Option(min=1, help="Queries proposed for each one that is asked.")
    ] = 10,
    budget: Annotated[
        float | None, typer.Option(min=0, help="US$ that all runs in this folder may cost.")
    ] = None,
    plateau: Annotated[
        float, typer.Option(help="Stop when two rounds gain less quality than this.")
    ] = 0.001,
    at: Annotated[
        float,
        typer.Option(
            help="Cost at which quality is measured: 0.1, 0.25, 0.5 or 0.75 of the most expensive"
            " expert's."
        ),
    ] = 0.5,
    overlap_words: Annotated[
        int, typer.Option(min=1, help="Words in a row that count as overlap when shared.")
    ] = 8,
    overlap_cosine: Annotated[
        float,
        typer.Option(help="Cosine of character runs that counts as overlap; 2 turns this off."),
    ] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit of an answer, in tokens.")] = 1024,
    concurrency: Annotated[int, typer.Option(min=1, help="Concurrent queries per expert.")] = 4,
    strategy: Annotated[
        str, typer.Option(help="Strategy of the new routers, as for `fit`.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same choices.")] = 0,
    json: Annotated[bool, typer.Option(help="Print the rounds as JSON.")] = False,
) -> None:
    """Grow a router's table in rounds: write queries, ask, grade and refit.

    Every round writes a folder with its queries, table, router and report, and a line in
    `rounds.md`; `router` is that of the round with the best held-out quality. Run the same command
    again to continue; nothing is paid twice.
    """
    from routewright.evaluation.figures import FRACTIONS
    from routewright.interview.selfplay import Settings, verdict
    from routewright.router.router import Router

    if (generator is None) == (templates is None):
        raise BadInput(
            "give --generator EXPERT or --templates NAME as the source of queries, not both"
        )
    if at not in FRACTIONS:
        raise BadInput(f"--at {at:g} must be one of {', '.join(f'{f:g}' for f in FRACTIONS)}")
    loaded = Router.load(router)
    settings = Settings(
        queries=queries,
        explore=explore,
        candidates=candidates,
        words=overlap_words,
        cosine=overlap_cosine,
        at=at,
        seed=seed,
    )
    options = {
        "source": templates or f"expert {generator}",
        "graders": grader or ["normalised"],
        "max_tokens": max_tokens,
        "strategy": strategy,
    }
    play, interrupted = asyncio.run(
        _play(
            config,
            loaded,
            out,
            settings,
            options,
            generator=generator,
            templates=templates,
            tables=table or [Path(source) for source in loaded.fact("data", "sources")],
            held_out=_held_out(held_out, split),
            rounds=rounds,
            budget=budget,
            plateau=plateau,
            concurrency=concurrency,
        )
    )
    if json:
        typer.echo(json_module.dumps([asdict(entry) for entry in play.rounds]))
    else:
        typer.echo((out / "rounds.md").read_text(encoding="utf-8"))
        if play.rounds:
            typer.echo(f"{verdict(play.rounds)} Its router is '{out / 'router'}'.")
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _held_out(tables: Sequence[Path] | None, split: str) -> Outcomes | None:
    from routewright.data import outcomes

    return outcomes.read(list(tables), split=split, drop_duplicates=True) if tables else None


async def _play(
    config: Path,
    router: Any,
    out: Path,
    settings: Any,
    options: dict[str, Any],
    *,
    generator: str | None,
    templates: str | None,
    tables: Sequence[Path],
    held_out: Outcomes | None,
    rounds: int,
    budget: float | None,
    plateau: float,
    concurrency: int,
) -> tuple[Play, bool]:
    from routewright.cli.asking import RESUME, tell_withheld, watch
    from routewright.cli.interview import progress
    from routewright.config import default_data_class
    from routewright.config import experts as read_experts
    from routewright.data import outcomes
    from routewright.data.journal import Journal
    from routewright.data.queries import Item
    from routewright.experts.ledger import BudgetSpent, Ledger, NotAsked, paid_twice
    from routewright.grading.graders import Graders
    from routewright.interview import selfplay as study
    from routewright.interview.interview import Interview, Stopped, withheld

    experts = read_experts(config)
    if unknown := [name for name in (*router.experts, generator) if name and name not in experts]:
        raise BadInput(f"no expert '{unknown[0]}' in the config: it has {', '.join(experts)}")
    for path in tables:
        if not path.exists():
            raise BadInput(f"the router was fitted on '{path}', which does not exist: name --table")
    graders = Graders(options["graders"])
    data_class = default_data_class(config)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    asked = [experts[name] for name in router.experts]
    if generator:
        queries = outcomes.read(tables, data_class=data_class, drop_duplicates=True).queries
        quotable = tell_withheld(experts[generator], queries)
        withheld([Item(query) for query in quotable], asked, experts.values(), graders)
    with Journal(out / "journal.jsonl") as journal:
        async with Ledger(experts.values(), journal, budget=budget) as ledger:
            source = (
                study.templates(templates, data_class)
                if templates
                else study.Generator(experts[str(generator)], ledger, concurrency)
            )

            def ask(items: Sequence[Item]) -> Interview:
                for sentence in withheld(items, asked, experts.values(), graders):
                    console.print(f"{sentence}.", markup=False)
                interviews.append(
                    Interview(
                        items,
                        asked,
                        ledger,
                        graders,
                        judges=experts.values(),
                        max_tokens=options["max_tokens"],
                        concurrency=concurrency,
                        on_cell=show,
                    )
                )
                return interviews[-1]

            interviews: list[Interview] = []
            play = study.Play(
                out,
                router,
                tables,
                source,
                settings,
                ask=ask,
                spent=lambda: ledger.account.spent,
                held_out=held_out,
                strategy=options["strategy"],
                described=options,
                data_class=data_class,
            )
            cells = rounds * settings.queries * len(router.experts)
            if sentence := paid_twice(ledger.account.cut_off, ledger.account.asks_cut_off):
                console.print(sentence)

            def stop() -> None:
                for study in interviews[-1:]:
                    study.stop()

            with progress(cells, budget, ledger) as (show, bar), watch(ledger, bar, stop):
                try:
                    while not ledger.stopped and _continues(play, rounds, plateau, console):
                        await play.next()
                except (BudgetSpent, Stopped) as error:
                    console.print(f"{error}. Nothing in '{out}' is paid for twice.", markup=False)
                except NotAsked as error:
                    console.print(f"'{error.expert}' is needed: {RESUME}.", markup=False)
            return play, ledger.stopped


def _continues(play: Play, rounds: int, gain: float, console: Console) -> bool:
    from routewright.interview.selfplay import plateau

    if not play.rounds:
        return True
    last = play.rounds[-1]
    summary = (
        f"gain {100 * last.gain:+.2f} percentage points (cross-validated)"
        if last.quality is None
        else f"quality {100 * last.quality:.2f} %"
    )
    console.print(f"round {last.number}: {last.rows} rows, {summary}, US${last.spent:.6f} so far")
    if last.stopped:
        console.print(f"Stopped: {last.stopped}.")
        return False
    if plateau(play.rounds, gain, patience=2):
        console.print(f"Stopped: two rounds gained less than {100 * gain:g} percentage points.")
        return False
    return last.number < rounds
