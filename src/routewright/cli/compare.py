"""`routewright compare`: two routers or policies on the same recorded outcomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from routewright import files
from routewright.cli.evaluate import (
    Html,
    Json,
    Options,
    PictureFile,
    Seed,
    WithoutDomain,
    as_json,
    check_picture,
    command_line,
    dearest_of,
    dollars,
    save_picture,
    short_path,
)
from routewright.cli.fit import DropDuplicates, Tables
from routewright.data import text

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.evaluation.compare import Side


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            show_default=False,
            help="Folder of a router, or CONFIG.yaml:POLICY; CONFIG.yaml is its default policy.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; B − A is shown.")],
    tables: Tables,
    split: Annotated[str, typer.Option(help="Rows to compare on; `all` takes every row.")] = "dev",
    without_domain: WithoutDomain = False,
    drop_duplicates: DropDuplicates = False,
    json: Json = None,
    html: Html = None,
    picture: PictureFile = None,
    seed: Seed = 0,
) -> None:
    """Compare two routers or policies on the same rows: which differences are proven?"""
    from routewright.data import outcomes
    from routewright.errors import BadInput
    from routewright.evaluation.compare import Comparison

    options = Options(split, drop_duplicates, without_domain, seed, json, html, picture)
    check_picture(picture)
    rows = outcomes.read(tables, split=split, drop_duplicates=drop_duplicates)
    with Console(stderr=True).status("comparing"):
        if len({_key(name) for name in (a, b)}) == 1:
            raise BadInput(f"A and B are both '{a}': name two routers, or CONFIG.yaml:POLICY")
        one, other = (_side(name, rows, options) for name in (a, b))
        if one.name == other.name:
            one, other = (
                replace(side, name=_with_folder(name)) for side, name in ((one, a), (other, b))
            )
        comparison = Comparison.of(one, other, rows)
        figures = comparison.to_json()
    written = as_json(figures, json)
    if html is not None:
        from routewright.evaluation.report import render_comparison

        command = command_line("compare", [one.name, other.name], tables, options)
        files.write(html, render_comparison(comparison, figures, command))
    if picture is not None:
        from routewright.evaluation.report import pictures

        save_picture(pictures.of_comparison(comparison, figures), picture)
    if str(json) == "-":
        typer.echo(written)
        return
    _show(figures, Console())


def _key(name: str) -> str:
    """The same for two spellings of one path."""
    path, policy = _parts(name) or (name, None)
    return f"{Path(path).resolve()}:{policy}"


def _parts(name: str) -> tuple[str, str | None] | None:
    """The path of a config and the name of a policy in it, if there is one; None for a router.

    >>> _parts("a/routewright.yaml:half"), _parts("routewright.yml"), _parts("router")
    (('a/routewright.yaml', 'half'), ('routewright.yml', None), None)
    """
    path, _, policy = name.rpartition(":")
    if policy and _is_yaml(path) and not set(policy) & set("/\\"):
        return path, policy
    return (name, None) if _is_yaml(name) else None


def _is_yaml(path: str) -> bool:
    return Path(path).suffix.lower() in (".yaml", ".yml")


def _with_folder(name: str) -> str:
    """The last two parts of a path: what tells apart two routers whose folders have one name."""
    return "/".join(Path(name).resolve().parts[-2:])


def _side(name: str, rows: Outcomes, options: Options) -> Side:
    """The router or the policy of that name, evaluated on the rows."""
    from routewright import config as configs
    from routewright.evaluation.compare import Side
    from routewright.evaluation.evaluate import evaluate
    from routewright.evaluation.policies import asked_for, measure
    from routewright.router.router import Router

    how: dict[str, Any] = {"without_domain": options.without_domain, "seed": options.seed}
    parts = _parts(name)
    if parts is None or Path(name).is_dir():
        router = Router.load(Path(name))
        return Side(short_path(Path(name)), evaluate(router, rows, **how))
    path = Path(parts[0])
    config = configs.load(path)
    policy = parts[1] or config.default_policy or next(iter(config.policies), None)
    (judged,) = measure(config, rows, policy, **how)
    title = f"{short_path(path)}:{judged.name}"
    return Side(title, judged.evaluation, asked_for(judged.config), tuple(judged.warnings))


def _show(figures: dict[str, Any], console: Console) -> None:
    from routewright.evaluation.compare import in_words

    console.print(in_words(figures), markup=False, highlight=False, soft_wrap=True)
    console.print(f"A: {figures['a']['name']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"B: {figures['b']['name']}", markup=False, highlight=False, soft_wrap=True)
    for warning in figures["warnings"]:
        console.print(f"[bold]Note:[/] {warning}", highlight=False, soft_wrap=True)
    console.print(_table(figures))
    choices = figures["choices"]
    if choices["rows"]:
        console.print(
            f"They ask other experts on {text.share(choices['different'])} of the rows, where A"
            f" reaches {text.percent(choices['a'])} and B {text.percent(choices['b'])}.",
            highlight=False,
            soft_wrap=True,
        )


def _table(figures: dict[str, Any]) -> Table:
    table = Table(
        title=f"{figures['n']} rows; quality in %, cost in US$ per 1,000 queries and as a share of"
        f" {dearest_of(figures)}'s",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", overflow="fold")
    for heading in ("A", "B", "B − A (95 %)", "proven"):
        table.add_column(heading, justify="right", no_wrap=True)
    for fraction, at in figures["at_cost_fraction"].items():
        cost = f"at {text.share(float(fraction))}, US${dollars(at['cost'])}"
        table.add_row(cost, *_cells(at["a"], at["b"], at))
    if (at := figures["at_cost_of"]) is not None:
        cost = f"at US${dollars(at['cost'])}, as {at['name']}"
        table.add_row(cost, *_cells(at["a"], at["b"], at))
    if figures["aiq"] is not None:
        aiq = figures["aiq"]
        table.add_row("mean over costs (AIQ)", *_cells(aiq["a"], aiq["b"], aiq))
    table.add_section()
    a, b, served = figures["a"], figures["b"], figures["as_served"]
    quality = served["quality"]
    table.add_row("quality as served", *_cells(a["quality"], b["quality"], quality))
    if "cost" in served:
        cost = served["cost"]
        low, high = (f"{1000 * end:+.3g}" for end in cost["difference_ci"])
        gap = f"{1000 * cost['difference']:+.3g} ({low} … {high})"
        proven = "yes" if cost["proven"] else "no"
        table.add_row("cost as served", dollars(a["cost"]), dollars(b["cost"]), gap, proven)
        gain = served["gain_over_zero_router"]
        gains = (a["gain_over_zero_router"], b["gain_over_zero_router"])
        table.add_row("over fixed mix as served", *_cells(*gains, gain, sign=True))
    return table


def _cells(
    a: float | None, b: float | None, gap: dict[str, Any], *, sign: bool = False
) -> tuple[str, str, str, str]:
    """Two qualities, or gains, and their difference in percentage points."""
    values = [
        "out of reach" if x is None else f"{100 * x:{'+' if sign else ''}.1f}" for x in (a, b)
    ]
    if gap["difference"] is None:
        return values[0], values[1], "", ""
    points = f"{text.points(gap['difference'])} {text.between(gap['difference_ci'], sign=True)}"
    return values[0], values[1], points, "yes" if gap["proven"] else "no"
