"""`routewright selfplay`: new queries where the router is unsure, asked, graded and learnt from."""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.data.queries import Item
    from routewright.interview.interview import Interview
    from routewright.interview.selfplay import Play


def selfplay(
    config: Annotated[Path, typer.Argument(help="The config, e.g. routewright.yaml.")],
    router: Annotated[Path, typer.Argument(help="Folder of the router to begin with.")],
    out: Annotated[Path, typer.Option(help="Folder for the rounds; an earlier run goes on.")],
    generator: Annotated[
        str | None, typer.Option(help="The expert that writes the queries.")
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(help="Instead: `sandbox`, or MODULE:FUNCTION, called with (n, seed)."),
    ] = None,
    grader: Annotated[
        list[str] | None,
        typer.Option(
            help="How to grade, e.g. judge=EXPERT or majority. Default: normalised, by reference."
        ),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(help="What the router was fitted on; default: as router.json says."),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Tables to measure by; no query that overlaps with them is asked."),
    ] = None,
    split: Annotated[str, typer.Option(help="Rows of the held-out tables.")] = "dev",
    rounds: Annotated[int, typer.Option(min=1, help="At most so many rounds.")] = 4,
    queries: Annotated[int, typer.Option(min=1, help="Queries asked in a round.")] = 100,
    explore: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them that is drawn at random.")
    ] = 0.2,
    candidates: Annotated[
        int, typer.Option(min=1, help="Queries proposed for each one that is asked.")
    ] = 10,
    budget: Annotated[
        float | None, typer.Option(min=0, help="US$ that all runs in this folder may cost.")
    ] = None,
    plateau: Annotated[
        float, typer.Option(help="Stop when two rounds bring less quality than this.")
    ] = 0.001,
    at: Annotated[
        float,
        typer.Option(help="Cost where quality is told: 0.1, 0.25, 0.5 or 0.75 of the dearest."),
    ] = 0.5,
    overlap_words: Annotated[
        int, typer.Option(min=1, help="A shared run of so many words is overlap.")
    ] = 8,
    overlap_cosine: Annotated[
        float, typer.Option(help="So is this cosine of character runs; 2 does not look at it.")
    ] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 1024,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Queries under way at once, per expert.")
    ] = 4,
    strategy: Annotated[str, typer.Option(help="As of `fit`, for the routers made.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same choices.")] = 0,
    json: Annotated[bool, typer.Option(help="Print the rounds as JSON.")] = False,
) -> None:
    """Grow a router's table by itself: write queries, ask, grade, refit, round after round.

    Every round leaves a folder with its queries, table, router and report, and a line in
    `rounds.md`. Run the same command again to go on; nothing is paid twice.
    """
    from routewright.evaluation.figures import FRACTIONS
    from routewright.interview.selfplay import Settings
    from routewright.router.router import Router

    if (generator is None) == (templates is None):
        raise BadInput(
            "say where queries come from: --generator EXPERT or --templates NAME, not both"
        )
    if at not in FRACTIONS:
        raise BadInput(f"--at {at:g} is none of {', '.join(f'{f:g}' for f in FRACTIONS)}")
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
    wishes = {
        "source": templates or f"expert {generator}",
        "graders": grader or ["normalised"],
        "max_tokens": max_tokens,
        "strategy": strategy,
    }
    play = asyncio.run(
        _play(
            config,
            loaded,
            out,
            settings,
            wishes,
            generator=generator,
            templates=templates,
            tables=table or [Path(source) for source in loaded.card["data"]["sources"]],
            held_out=_held_out(held_out, split),
            rounds=rounds,
            budget=budget,
            plateau=plateau,
            concurrency=concurrency,
        )
    )
    if json:
        typer.echo(json_module.dumps([asdict(done) for done in play.rounds]))
    else:
        typer.echo((out / "rounds.md").read_text(encoding="utf-8"))
        if play.rounds and (last := play.rounds[-1].number):
            typer.echo(f"The last round's router is '{out / f'round-{last}' / 'router'}'.")


def _held_out(tables: Sequence[Path] | None, split: str) -> Outcomes | None:
    from routewright.data import outcomes

    return outcomes.read(list(tables), split=split) if tables else None


async def _play(
    config: Path,
    router: Any,
    out: Path,
    settings: Any,
    wishes: dict[str, Any],
    *,
    generator: str | None,
    templates: str | None,
    tables: Sequence[Path],
    held_out: Outcomes | None,
    rounds: int,
    budget: float | None,
    plateau: float,
    concurrency: int,
) -> Play:
    from routewright.cli.interview import progress, stopping
    from routewright.config import experts as read_experts
    from routewright.data.journal import Journal
    from routewright.experts.ledger import BudgetSpent, Ledger
    from routewright.grading.graders import Graders
    from routewright.interview import selfplay as study
    from routewright.interview.interview import Interview, Stopped

    known = read_experts(config)
    if unknown := [name for name in (*router.experts, generator) if name and name not in known]:
        raise BadInput(f"no expert '{unknown[0]}' in the config: it has {', '.join(known)}")
    for path in tables:
        if not path.exists():
            raise BadInput(f"the router was fitted on '{path}', which is not here: name --table")
    graders = Graders(wishes["graders"])
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with Journal(out / "journal.jsonl") as journal:
        async with Ledger(known.values(), journal, budget=budget) as ledger:
            source = (
                study.templates(templates)
                if templates
                else study.Generator(known[str(generator)], ledger, concurrency)
            )

            def ask(items: Sequence[Item]) -> Interview:
                under_way.append(
                    Interview(
                        items,
                        [known[name] for name in router.experts],
                        ledger,
                        graders,
                        judges=known.values(),
                        max_tokens=wishes["max_tokens"],
                        concurrency=concurrency,
                        on_cell=show,
                    )
                )
                return under_way[-1]

            under_way: list[Interview] = []
            play = study.Play(
                out,
                router,
                tables,
                source,
                settings,
                ask=ask,
                spent=lambda: ledger.account.spent,
                held_out=held_out,
                strategy=wishes["strategy"],
                described=wishes,
            )
            cells = rounds * settings.queries * len(router.experts)
            with progress(cells, budget, ledger) as show, stopping(under_way, console):
                try:
                    while _goes_on(play, rounds, plateau, console):
                        await play.next()
                except (BudgetSpent, Stopped) as error:
                    console.print(f"{error}. What is in '{out}' is not paid twice.", markup=False)
            return play


def _goes_on(play: Play, rounds: int, gain: float, console: Console) -> bool:
    from routewright.interview.selfplay import plateau

    if not play.rounds:
        return True
    last = play.rounds[-1]
    told = f"{last.gain:+.4f} cross-validated" if last.quality is None else f"{last.quality:.4f}"
    console.print(f"round {last.number}: {last.rows} rows, quality {told}, ${last.spent:.6f}")
    if last.stopped:
        console.print(f"Stopped: {last.stopped}.")
        return False
    if plateau(play.rounds, gain, patience=2):
        console.print(f"Stopped: two rounds brought less than {gain:g}.")
        return False
    return last.number < rounds
