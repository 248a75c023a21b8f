"""`routewright fit`: from outcome tables to a router."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.fitting.fit import Assumed
    from routewright.router.router import Router

Tables = Annotated[
    list[Path], typer.Argument(help="Outcome tables (Parquet, JSONL or CSV), joined on `id`.")
]
Experts = Annotated[
    str | None, typer.Option(help="Comma-separated pool of experts; default: all in the table.")
]


def fit(
    tables: Tables,
    out: Annotated[Path, typer.Option(help="Folder to write the router to.")],
    experts: Experts = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="`single` keeps to one call per query, `auto` may use more; `automix` lets a"
            " small model answer first (`automix_pomdp` and so on: with that meta-verifier);"
            " `frugal` and `cascade_routing` are other ways to cascade, for comparison."
        ),
    ] = "auto",
    small: Annotated[
        str | None, typer.Option(help="Of `automix`: the expert that answers first.")
    ] = None,
    large: Annotated[
        str | None, typer.Option(help="Of `automix`: the expert asked where that pays.")
    ] = None,
    ladder: Annotated[
        str | None, typer.Option(help="Of `automix`: A,B,C, cheapest first, for small and large.")
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="Of `automix`: `verify` (verify::A columns; `verify=K`: of K verdicts, by default"
            " as many as the table says, else 8) or `agreement` of others' answers."
        ),
    ] = None,
    agree: Annotated[
        str | None,
        typer.Option(help="Of `automix`: X,Y whose answers are compared, or how many to choose."),
    ] = None,
    costs: Annotated[
        str | None,
        typer.Option(help="Of `automix`: small=1,large=50,verify=1 in place of the table's."),
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="`auto`, or a file in predictors/: prior, knn, linear, …")
    ] = "auto",
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE sets a field of the predictor, e.g. k=40; may be repeated."),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="Of `zooter`: the share of a query's own label, the rest is its tags'."),
    ] = None,
    tags: Annotated[
        str | None,
        typer.Option(help="Of `zooter`: tags of the `table`, its `domain`, `clusters=K`, `none`."),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(help="Of `zooter`: of the labels softmax(reward / τ); `none`: validated."),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="`auto`, or encoders joined by +, e.g. lexical+surface+domain.")
    ] = "auto",
    label: Annotated[
        str, typer.Option(help="`score`, or `soft`: learn from soft::EXPERT where it is known.")
    ] = "score",
    assume: Annotated[
        list[str] | None,
        typer.Option(help="EXPERT=QUALITY@USD for one that was never scored; may be repeated."),
    ] = None,
    auxiliary: Annotated[
        str,
        typer.Option(
            help="Other experts of the table, whose scores teach what is hard where that helps:"
            " `all`, `none`, or comma-separated."
        ),
    ] = "all",
    split: Annotated[str, typer.Option(help="Rows to fit on; `all` takes every row.")] = "train",
    engine: Annotated[
        str, typer.Option(help="Where queries are encoded: `local`, or `ray`: on a cluster.")
    ] = "local",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same router.")] = 0,
    json: Annotated[bool, typer.Option(help="Print the router's description as JSON.")] = False,
) -> None:
    """Learn a router from recorded outcomes."""
    from routewright.cli import automix as told
    from routewright.data import outcomes
    from routewright.fitting import fit as fitting

    everyone = outcomes.read(tables, split=split)
    rows = everyone.pool(names(experts) or everyone.experts)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=1.0)

        def show(doing: str, share: float) -> None:
            bar.update(task, description=doing, completed=share)

        if told.is_automix(strategy):
            from routewright.fitting import automix

            _not_for_automix(assume=assume, beta=beta, tags=tags, temperature=temperature)
            wanted = (small, large, names(ladder), verifier, agree)
            router = automix.fit(
                rows,
                told.cascade(rows, *wanted),
                only=told.meta_verifier(strategy),
                prices=told.prices(costs),
                predictor="prior" if predictor == "auto" else predictor,
                encoder="domain" if encoder == "auto" else encoder,
                options=_options(option or []),
                seed=seed,
                progress=show,
            )
        else:
            _only_for_automix(
                small=small, large=large, ladder=ladder, verifier=verifier, agree=agree, costs=costs
            )
            router = fitting.fit(
                rows,
                encoder=encoder,
                predictor=predictor,
                options={
                    **_options(option or []),
                    **_given(beta=beta, tags=tags, temperature=temperature),
                },
                strategy=strategy,
                label=label,
                assume=_assumed(assume or []),
                auxiliary=_others(everyone, rows.experts, auxiliary),
                engine=engine,
                seed=seed,
                progress=show,
            )
    router.save(out)
    if json:
        typer.echo(json_module.dumps(router.summary()))
    elif "automix" in router.card:
        told.report(router, out)
    else:
        _report(router, out)


def _not_for_automix(**options: Any) -> None:
    from routewright.errors import BadInput

    if given := [name for name, value in options.items() if value]:
        raise BadInput(f"--{given[0]} does not go with --strategy automix")


def _only_for_automix(**options: str | None) -> None:
    from routewright.errors import BadInput

    if given := list(_given(**options)):
        raise BadInput(f"--{given[0]} goes with --strategy automix")


def _others(everyone: Outcomes, pool: Sequence[str], wish: str) -> Outcomes | None:
    """The experts to learn from beside the pool; None if there are none."""
    rest = [name for name in everyone.experts if name not in pool]
    if wish not in ("all", "none"):
        rest = [name for name in names(wish) or [] if name not in pool]
    return everyone.pool(rest) if rest and wish != "none" else None


def _options(wishes: list[str]) -> dict[str, str]:
    """`["k=40"]` ▶ {"k": "40"}."""
    from routewright.errors import BadInput

    if odd := [wish for wish in wishes if "=" not in wish]:
        raise BadInput(f"--option takes KEY=VALUE, not '{odd[0]}'")
    return {key.strip(): value for key, _, value in (wish.partition("=") for wish in wishes)}


def _given(**options: Any) -> dict[str, Any]:
    """Those that were named on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _assumed(wishes: list[str]) -> dict[str, Assumed]:
    """`["A=0.9@0.003"]` ▶ {"A": Assumed(0.9, 0.003)}; the cost may be left out."""
    from routewright.errors import BadInput
    from routewright.fitting.fit import Assumed

    found = {}
    for wish in wishes:
        name, _, facts = wish.rpartition("=")
        quality, _, cost = facts.partition("@")
        try:
            found[name] = Assumed(float(quality), float(cost) if cost else None)
        except ValueError as error:
            raise BadInput(
                f"--assume takes EXPERT=QUALITY or EXPERT=QUALITY@USD, not '{wish}'"
            ) from error
    return found


def names(listed: str | None) -> list[str] | None:
    """`A,B` ▶ ["A", "B"]; raises BadInput if none is named."""
    from routewright.errors import BadInput

    if listed is None:
        return None
    found = [name.strip() for name in listed.split(",") if name.strip()]
    if not found:
        raise BadInput(f"'{listed}' names no expert: write A,B or leave the option out")
    return found


def _report(router: Router, out: Path) -> None:
    card = router.card
    table = Table(title=f"Router '{out}'", title_justify="left")
    for heading in ("expert", "quality", "US$/query", "AUC", "ECE"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for name, facts in card["experts"].items():
        table.add_row(
            name,
            *(
                "unknown" if math.isnan(facts[fact]) else f"{facts[fact]:{form}}"
                for fact, form in (
                    ("quality", ".3f"),
                    ("cost", ".3g"),
                    ("auc", ".3f"),
                    ("ece", ".3f"),
                )
            ),
        )
    console = Console()
    console.print(table)
    if others := card.get("auxiliary"):
        console.print(f"Learnt from {len(others)} other experts of the table too.")
    learned = sum(point.gain > 0 for point in router.frontier)
    console.print(
        f"{card['predictor']} on {card['data']['rows']} rows in {card['fit_seconds']:.0f} s,"
        f" signal {router.signal:g}; cross-validated mean gain over the zero router (the best mix"
        f" of two fixed experts) {card['gain_over_zero_router']:+.4f};"
        f" learned at {learned} of {len(router.frontier)} operating points,"
        " the fixed mix elsewhere"
    )
