"""`routewright evaluate`: what would this router, or a policy, have done on recorded outcomes?"""

from __future__ import annotations

import json as json_module
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from routewright import files
from routewright.cli.fit import DropDuplicates, Tables
from routewright.data import text

if TYPE_CHECKING:
    from routewright.config import Config
    from routewright.data.outcomes import Outcomes
    from routewright.evaluation.figures import Evaluation
    from routewright.evaluation.policies import Judged
    from routewright.evaluation.report.pictures import Picture
    from routewright.router.router import Router


# Options of `evaluate` and of `compare`.
WithoutDomain = Annotated[
    bool,
    typer.Option("--without-domain", help="Judge the queries as if they had no domain or tags."),
]
Json = Annotated[
    Path | None,
    typer.Option(help="Write the figures to this file; `-` prints them and nothing else."),
]
Html = Annotated[Path | None, typer.Option(help="Write a report to this file.")]
PictureFile = Annotated[
    Path | None,
    typer.Option(help="Draw cost and quality to this file, for a paper: .svg, .pdf or .png."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap.")]


class Options(NamedTuple):
    """What a report is made with, apart from what is judged on which tables."""

    split: str
    drop_duplicates: bool
    without_domain: bool
    seed: int
    json: Path | None
    html: Path | None
    picture: Path | None
    robustness: bool = False


def evaluate(
    router: Annotated[
        Path,
        typer.Argument(
            metavar="ROUTER|CONFIG.yaml",
            help="Folder of a router; or a config, whose policies are judged.",
        ),
    ],
    tables: Tables,
    policy: Annotated[
        str | None, typer.Option(help="Judge this policy of the config; default: every one.")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to evaluate on; `all` takes every row.")] = "dev",
    without_domain: WithoutDomain = False,
    drop_duplicates: DropDuplicates = False,
    json: Json = None,
    html: Html = None,
    picture: PictureFile = None,
    seed: Seed = 0,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Also measure how many decisions change if prompts are worded differently.",
        ),
    ] = False,
) -> None:
    """Measure a router, or the policies of a config, on recorded outcomes."""
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.evaluation import evaluate as evaluation
    from routewright.evaluation.report.audit import audit
    from routewright.router.router import Router

    options = Options(split, drop_duplicates, without_domain, seed, json, html, picture, robustness)
    check_picture(picture)
    if router.is_file() or router.suffix in (".yaml", ".yml"):
        _judge(router, tables, policy, options)
        return
    if policy is not None:
        raise BadInput(f"--policy names a policy of a config, and '{router}' is a router's folder")
    loaded = Router.load(router)
    rows = outcomes.read(tables, split=split, drop_duplicates=drop_duplicates)
    with Console(stderr=True).status("evaluating"):
        measured = evaluation.evaluate(loaded, rows, without_domain=without_domain, seed=seed)
        figures = measured.to_json()
    if robustness:
        figures["robustness"] = _robustness(loaded, rows, options)
    seen = loaded.seen if loaded.seen.size else None
    written = as_json(figures, json)
    if html is not None:
        from routewright.evaluation.report import render

        command = command_line("evaluate", [short_path(router)], tables, options)
        files.write(html, render(measured, figures, command, seen=seen))
        typer.echo(f"wrote '{html}'", err=True)
    if picture is not None:
        from routewright.evaluation.report import pictures
        from routewright.evaluation.report.study import Study

        save_picture(pictures.cost_quality(Study(measured, measured.to_json())), picture)
    if str(json) == "-":
        typer.echo(written)
        return
    show_served(measured, figures, Console())
    show(figures, Console())
    show_robustness(figures, Console())
    if (fair := audit(measured, seen)).level == "bad":
        Console(soft_wrap=True).print(f"[bold]Do not trust these figures:[/] {fair.text}")
    show_forecasts(measured, Console())
    if "automix" in loaded.card:
        from routewright.cli.automix import on_rows
        from routewright.fitting import automix

        Console(soft_wrap=True).print(on_rows(loaded, automix.lifts(measured, seed=seed)))


def _robustness(router: Router, rows: Outcomes, options: Options) -> dict[str, Any]:
    from routewright.evaluation import robustness

    with Console(stderr=True).status("wording the prompts differently"):
        return robustness.robustness(
            router, rows, without_domain=options.without_domain, seed=options.seed
        )


def check_picture(path: Path | None) -> None:
    """Raises BadInput, before anything is measured, for a picture that cannot be drawn."""
    if path is not None:
        from routewright.evaluation import canvas

        canvas.check_ending(path)


def save_picture(drawn: Picture | None, path: Path) -> None:
    """Writes the wide form of a picture; raises BadInput if there is none, for want of costs."""
    from routewright.errors import BadInput
    from routewright.evaluation import canvas

    if drawn is None:
        raise BadInput(f"'{path}' cannot be drawn: the table has no costs")
    canvas.save(drawn.wide, path)
    typer.echo(f"wrote '{path}'", err=True)


def short_path(path: Path) -> str:
    """The path as a page shows it: relative to this folder, or its name if it lies elsewhere, so
    that a page that is passed on names no folder of this machine."""
    if not path.is_absolute():
        return str(path)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def command_line(
    verb: str,
    judged: Sequence[str],
    tables: list[Path],
    options: Options,
    policy: str | None = None,
) -> str:
    """The command that writes the same report again."""
    words = [verb, *judged, *map(short_path, tables)]
    words += [] if policy is None else ["--policy", policy]
    words += ["--split", options.split, "--seed", str(options.seed)]
    words += ["--drop-duplicates"] if options.drop_duplicates else []
    words += ["--without-domain"] if options.without_domain else []
    words += ["--robustness"] if options.robustness else []
    words += ["--html", short_path(options.html)] if options.html is not None else []
    return shlex.join(["routewright", *words])


def _judge(path: Path, tables: list[Path], policy: str | None, options: Options) -> None:
    from routewright import config as configs
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.evaluation.policies import first_of, judge, measure

    if options.robustness:
        raise BadInput(
            f"--robustness measures a router, and '{path}' is a config: name the folder of the"
            " policy's router"
        )
    config = configs.load(path)
    rows = outcomes.read(tables, split=options.split, drop_duplicates=options.drop_duplicates)
    with Console(stderr=True).status("evaluating"):
        judged = measure(
            config, rows, policy, without_domain=options.without_domain, seed=options.seed
        )
        figures = judge(config, rows, judged)
    written = as_json(figures, options.json)
    if options.html is not None or options.picture is not None:
        from routewright.evaluation.report import pictures, render_policies
        from routewright.evaluation.report.study import Study

        first = first_of(config, judged)
        with Console(stderr=True).status("drawing"):
            curve = _curve(first, rows, options)
        if options.html is not None:
            command = command_line("evaluate", [short_path(path)], tables, options, policy)
            page = render_policies(judged, first, figures, path.name, command, curve=curve)
            files.write(options.html, page)
            typer.echo(f"wrote '{options.html}'", err=True)
        if options.picture is not None:
            dearest = Study(first.evaluation, first.evaluation.to_json()).most_expensive
            points = None if curve is None else curve[1]
            drawn = pictures.of_policies(judged, figures, dearest, points)
            save_picture(drawn, options.picture)
    if str(options.json) == "-":
        typer.echo(written)
    else:
        show_policies(figures, config, Console())


def _curve(first: Judged, rows: Outcomes, options: Options) -> tuple[str, Evaluation] | None:
    """The operating points of the router behind a policy, and the policy's name."""
    from routewright.evaluation.evaluate import evaluate as evaluate_router

    router = first.policy.router
    if router is None:
        return None
    measured = evaluate_router(
        router, rows, without_domain=options.without_domain, seed=options.seed
    )
    return first.name, measured


def as_json(figures: dict[str, Any], path: Path | None) -> str:
    """The figures as JSON, written to the file if one is named."""
    from routewright.router.router import finite

    written = json_module.dumps(finite(figures), indent=1, allow_nan=False)
    if path is not None and str(path) != "-":
        files.write(path, f"{written}\n")
    return written


def show_policies(figures: dict[str, Any], config: Config, console: Console) -> None:
    """Prints what each policy costs and reaches beside what it was asked for, then the experts."""
    from routewright.evaluation.policies import in_words

    dearest = dearest_of(figures)
    first = config.default_policy or next(iter(config.policies))
    for name in sorted(figures["policies"], key=lambda name: name != first):
        said = in_words(figures["policies"][name], config.policies[name], dearest)
        console.print(f"{name}: {said}.", markup=False, highlight=False, soft_wrap=True)
    _warn(figures, console)
    table = _table(figures, ("US$ per 1,000", f"of {dearest}'s cost", "quality, % (95 %)"))
    most = figures["experts"][dearest]["cost"]
    oracle = figures["references"]["oracle"]
    for name, facts in [*figures["experts"].items(), ("oracle", oracle)]:
        share = facts["cost"] / most if most and facts["cost"] is not None else None
        table.add_row(name, dollars(facts["cost"]), _percent(share), _known(facts["quality"]))
    table.add_section()
    for name, facts in figures["policies"].items():
        quality = _with_interval(facts["quality"], facts["quality_ci"])
        share = _percent(facts["cost_fraction"])
        asked_for = f" ({facts['asked_for']})" if facts["asked_for"] else ""
        table.add_row(f"{name}{asked_for}", dollars(facts["cost"]), share, quality)
    console.print(table)


def show_served(measured: Evaluation, figures: dict[str, Any], console: Console) -> None:
    """Prints what a policy with the goal HALF would serve, on the rows that are measured."""
    from routewright.config import PolicyConfig
    from routewright.evaluation.figures import HALF, served
    from routewright.evaluation.policies import in_words

    if measured.at_half is None:
        return
    one = measured.only(*measured.at_half)
    policy = PolicyConfig(strategy=one.points[0].strategy, max_cost_fraction=HALF)
    said = in_words(served(one), policy, dearest_of(figures))
    line = f"A policy with `max_cost_fraction: {HALF:g}` serves {said}."
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_robustness(figures: dict[str, Any], console: Console) -> None:
    """Prints what other wordings change where a policy with the goal HALF is served, or next to
    it."""
    from routewright.evaluation.figures import HALF
    from routewright.evaluation.robustness import in_words

    points = figures.get("robustness", {}).get("points", [])
    if points:
        nearest = min(points, key=lambda point: abs((point["cost_fraction"] or 0.0) - HALF))
        console.print(in_words(nearest), markup=False, highlight=False, soft_wrap=True)


def dearest_of(figures: dict[str, Any]) -> str:
    """The expert that cost fractions refer to."""
    experts: dict[str, Any] = figures["experts"]
    return max(experts, key=lambda m: (experts[m]["cost"] or 0.0, experts[m]["quality"] or 0.0))


def _warn(figures: dict[str, Any], console: Console) -> None:
    from routewright.evaluation.figures import tie_in_words

    if tie := tie_in_words(figures.get("tie")):
        console.print(tie, markup=False, highlight=False, soft_wrap=True)
    for warning in figures["warnings"]:
        console.print(f"[bold]Note:[/] {warning}", highlight=False, soft_wrap=True)


def _table(figures: dict[str, Any], headings: tuple[str, ...]) -> Table:
    table = Table(
        title=f"{figures['n']} rows",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _percent(share: float | None) -> str:
    return "unknown" if share is None or math.isnan(share) else text.share(share)


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the cost–quality table of `evaluate --json` figures."""
    table = _table(figures, ("US$ per 1,000", "quality, % (95 %)", "over zero router, points"))
    for name, expert in figures["experts"].items():
        table.add_row(name, dollars(expert["cost"]), _known(expert["quality"]), "")
    oracle = figures["references"]["oracle"]
    table.add_row("oracle", dollars(oracle["cost"]), _known(oracle["quality"]), "")
    table.add_section()
    dearest = figures["experts"][dearest_of(figures)]["cost"] or 0.0
    for fraction, at in figures["at_cost_fraction"].items() if dearest else ():
        table.add_row(
            f"at {text.share(float(fraction))} of cost",
            dollars(float(fraction) * dearest),
            _with_interval(at["quality"], at["quality_ci"]),
            _with_interval(at["gain_over_zero_router"], at["gain_ci"], "+"),
        )
    best = min(figures["curve"], key=lambda point: point["lambda"])
    table.add_row(
        "router at λ = 0",
        dollars(best["cost"]),
        _with_interval(best["quality"], best["quality_ci"]),
        "",
    )
    console.print(table)
    _warn(figures, console)
    if figures["aiq"] is not None:
        console.print(
            f"AIQ {figures['aiq']:.4f} (straight lines {figures['aiq_no_hull']:.4f},"
            f" zero router {figures['aiq_zero_router']:.4f}): mean quality over the range of costs;"
            " the zero router is the best mix of two fixed experts at the same cost, in hindsight"
        )


def show_forecasts(measured: Evaluation, console: Console) -> None:
    """Prints how good the forecasts of each expert's score are."""
    from routewright import metrics

    table = Table(title="forecasts of the score, by expert", title_justify="left")
    table.add_column("", overflow="fold")
    for heading in ("AUC", "Brier score", "calibration error"):
        table.add_column(heading, justify="right")
    assert measured.prediction is not None, "a router has a prediction"
    forecast, score = measured.prediction.chance, measured.outcomes.score
    for m, name in enumerate(measured.outcomes.experts):
        figures = (
            f(forecast[:, m], score[:, m]) for f in (metrics.auc, metrics.brier, metrics.ece)
        )
        table.add_row(name, *("unknown" if math.isnan(x) else f"{x:.3f}" for x in figures))
    console.print(table)
    console.print(f"{text.AUC_AND_ECE}.", highlight=False)


def _known(quality: float | None) -> str:
    """A quality (0..1) in percentage points."""
    return "unknown" if quality is None else f"{100 * quality:.1f}"


def dollars(amount: float | None) -> str:
    """US$ per query as US$ per 1,000 queries."""
    return "unknown" if amount is None else text.dollars(amount)


def _with_interval(value: float | None, pair: list[float] | None, sign: str = "") -> str:
    if value is None or pair is None:
        return "out of reach"
    return f"{100 * value:{sign}.1f} {text.between(pair, sign=bool(sign))}"
