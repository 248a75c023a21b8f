"""`routewright fit`: from outcome tables to a router."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from routewright.data import text
from routewright.data.endings import READABLE

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.fitting.fit import Assumed
    from routewright.router.router import Router

Tables = Annotated[list[Path], typer.Argument(help=f"Outcome tables ({READABLE}), joined on `id`.")]
DropDuplicates = Annotated[
    bool,
    typer.Option(
        "--drop-duplicates",
        help="Keep the first of rows that repeat a question, and say how many are dropped.",
    ),
]
Experts = Annotated[
    str | None, typer.Option(help="Comma-separated pool of experts; default: all in the table.")
]

# The panels of `fit --help`.
data, learned, saving, running = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("Data", "What to fit", "Saving", "Run")
)
Hidden = Annotated[str | None, typer.Option(hidden=True)]  # earlier spellings of --option


def fit(
    tables: Tables,
    *,
    experts: Annotated[
        str | None, data(help="Comma-separated pool of experts; default: all in the table.")
    ] = None,
    split: Annotated[str, data(help="Rows to fit on; `all` takes every row.")] = "train",
    drop_duplicates: DropDuplicates = False,
    label: Annotated[
        str, data(help="`score`, or `soft`: learn from soft::EXPERT where it is known.")
    ] = "score",
    assume: Annotated[
        list[str] | None,
        data(help="EXPERT=QUALITY@USD for one that was never scored; may be repeated."),
    ] = None,
    auxiliary: Annotated[
        str,
        data(
            help="Other experts of the table, whose scores teach what is hard where that helps:"
            " `all`, `none`, or comma-separated."
        ),
    ] = "all",
    strategy: Annotated[
        str,
        learned(
            help="`single` keeps to one call per query, `auto` may use more; `automix` lets a"
            " small model answer first (`automix_pomdp` and so on: with that meta-verifier);"
            " for comparison: `frugal`, `cascade_routing`, `ratio_greedy`."
        ),
    ] = "auto",
    predictor: Annotated[
        str, learned(help="`auto`, or a file in predictors/: prior, knn, linear, …")
    ] = "auto",
    encoder: Annotated[
        str,
        learned(
            help="`auto` (lexical+surface), or encoders joined by +, e.g. lexical+surface+domain."
        ),
    ] = "auto",
    option: Annotated[
        list[str] | None,
        learned(
            help="KEY=VALUE of the strategy or the predictor, e.g. small=A of `automix` or k=40 of"
            " `knn`; may be repeated."
        ),
    ] = None,
    option_style: Annotated[
        bool,
        learned(
            "--option-style",
            help="Let `auto` also learn how right options of multiple-choice questions are written."
            " It pays only on questions that were made in the same way.",
        ),
    ] = False,
    out: Annotated[Path, saving(help="Folder to write the router to.")],
    json: Annotated[bool, saving(help="Print the router's description as JSON.")] = False,
    engine: Annotated[
        str, running(help="Where queries are encoded: `local`, or `ray`: on a cluster.")
    ] = "local",
    seed: Annotated[int, running(min=0, help="Same seed, same router.")] = 0,
    small: Hidden = None,
    large: Hidden = None,
    ladder: Hidden = None,
    verifier: Hidden = None,
    agree: Hidden = None,
    costs: Hidden = None,
    beta: Hidden = None,
    tags: Hidden = None,
    temperature: Hidden = None,
) -> None:
    """Learn a router from recorded outcomes."""
    from routewright.cli import automix as told
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.fitting import fit as fitting
    from routewright.prediction import encoders
    from routewright.router.router import check_folder

    flags = {"small": small, "large": large, "ladder": ladder, "verifier": verifier}
    flags |= {"agree": agree, "costs": costs}
    flags |= {"beta": beta, "tags": tags, "temperature": temperature}
    if option_style and strategy != "auto":
        raise BadInput(f"--option-style goes with --strategy auto, not with '{strategy}'")
    options = _options(option or [])
    options |= {name: value for name, value in flags.items() if value is not None}
    if told.is_automix(strategy):
        if assume:
            raise BadInput("--assume does not go with --strategy automix")
        own, options = told.split(options, predictor)
    else:
        fitting.check_strategy(strategy)
        told.check_none(options)
    fitting.makers(predictor, options)  # says what is wrong with them before a table is read
    if encoder != "auto":
        encoders.build(encoder)
    check_folder(out)
    everyone = outcomes.read(tables, split=split, drop_duplicates=drop_duplicates, unscored=True)
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

            router = automix.fit(
                rows,
                told.cascade(rows, own),
                only=told.meta_verifier(strategy),
                prices=told.prices(own.costs),
                predictor="prior" if predictor == "auto" else predictor,
                encoder="domain" if encoder == "auto" else encoder,
                options=options,
                seed=seed,
                progress=show,
            )
        else:
            router = fitting.fit(
                rows,
                encoder=encoder,
                predictor=predictor,
                options=options,
                strategy=strategy,
                option_style=option_style,
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
    for heading in ("expert", "quality, %", "US$ per 1,000", "AUC", "ECE"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for name, facts in card["experts"].items():
        shown = {
            "quality": f"{100 * facts['quality']:.1f}",
            "cost": text.dollars(facts["cost"]),
            "auc": f"{facts['auc']:.3f}",
            "ece": f"{facts['ece']:.3f}",
        }
        cells = ("unknown" if math.isnan(facts[key]) else cell for key, cell in shown.items())
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    console.print(f"{text.AUC_AND_ECE}.", highlight=False)
    if unproven := card.get("unproven"):
        console.print(f"Unproven: {unproven}.", highlight=False)
    if worse := [name for name, facts in card["experts"].items() if facts["auc"] < 0.45]:
        console.print(
            f"An AUC below 0.5 says that the forecasts of {', '.join(worse)} are worse than chance:"
            " more rows may help, and fixed mixes are served meanwhile."
        )
    if others := card.get("auxiliary"):
        console.print(f"Learnt from {len(others)} other experts of the table too.")
    learned = sum(point.gain > 0 for point in router.frontier)
    console.print(
        f"{card['predictor']} on {card['data']['rows']} rows in {card['fit_seconds']:.0f} s;"
        f" cross-validated mean gain over the zero router (the best mix"
        f" of two fixed experts) {text.points(card['gain_over_zero_router'])} percentage points;"
        f" learned at {learned} of {len(router.frontier)} operating points,"
        " the fixed mix elsewhere"
    )
    if outside := card.get("left_out"):
        elsewhere = (
            "it is served there too"
            if outside["pays"]
            else "queries unlike the training rows get the fixed mix"
        )
        console.print(
            f"On {outside['by']}s left out of the fit ({outside['topics']} of them) the mean gain"
            f" is {text.points(outside['gain'])} {text.between(outside['gain_ci'], True)}:"
            f" {elsewhere}.",
            highlight=False,
        )
    if all(facts["cost"] == 0 for facts in card["experts"].values()):
        console.print(
            "Note: every expert costs 0 in this table, so quality alone decides. If their answers"
            " do cost something, give them prices in the config (`input_per_mtok`,"
            " `output_per_mtok`), run the same `interview` again, which asks nobody twice, and fit"
            " again.",
            highlight=False,
        )
