"""What `fit --strategy automix` and `evaluate` understand and say of AutoMix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from routewright.data import text
from routewright.errors import BadInput
from routewright.registry import way_out

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes
    from routewright.fitting.automix import Cascade, Comparison
    from routewright.router.router import Router

PREFIX = "automix_"  # a strategy of this name is fitted with one meta-verifier


def is_automix(strategy: str) -> bool:
    return strategy == "automix" or strategy.startswith(PREFIX)


def meta_verifier(strategy: str) -> str | None:
    """`automix_pomdp` ▶ `pomdp`; `automix` ▶ None: the best of all."""
    return strategy.removeprefix(PREFIX) if strategy.startswith(PREFIX) else None


@dataclass(frozen=True)
class Options:
    """What `fit --strategy automix --option KEY=VALUE` sets."""

    small: str | None = None  # the expert that answers first
    large: str | None = None  # the one that is asked where that pays
    ladder: str | None = None  # A,B,C, cheapest first, in place of the two
    verifier: str | None = None  # `verify`, `verify=K` verdicts, `logprob`, or `agreement`
    agree: str | None = None  # X,Y whose answers are compared, or how many to choose
    costs: str | None = None  # small=1,large=50,verify=1 in place of the table's


NAMES = tuple(field.name for field in fields(Options))


def split(options: Mapping[str, str], predictor: str) -> tuple[Options, dict[str, str]]:
    """AutoMix's options and the predictor's; raises BadInput for those that are nobody's."""
    own = {name: value for name, value in options.items() if name in NAMES}
    rest = {name: value for name, value in options.items() if name not in NAMES}
    if rest and predictor == "auto":
        name = next(iter(rest))
        raise BadInput(f"strategy 'automix' has no option {name}: {way_out(name, NAMES)}")
    return Options(**own), rest


def check_none(options: Mapping[str, str]) -> None:
    """Raises BadInput if one of AutoMix's is given to another strategy."""
    if own := [name for name in options if name in NAMES]:
        raise BadInput(f"option {own[0]} goes with --strategy automix")


def cascade(rows: Outcomes, options: Options) -> Cascade:
    """The cascade that the options describe; raises BadInput naming what is missing."""
    from routewright.data.outcomes import check_names
    from routewright.fitting.automix import SAMPLES, Cascade, committee

    small, large, agree = options.small, options.large, options.agree
    if options.ladder and (small or large):
        raise BadInput("give the option ladder, or small and large, not both")
    models = _listed(options.ladder) or [name for name in (small, large) if name]
    if len(models) < 2:
        raise BadInput(
            "--strategy automix needs --option small=A --option large=B, or --option ladder=A,B,C"
        )
    check_names(models, rows.experts)
    verifier = options.verifier or ("agreement" if agree else "verify")
    kind, _, samples = verifier.partition("=")
    if agree and kind in ("verify", "logprob"):
        raise BadInput("option agree goes with verifier=agreement")
    if verifier == "logprob":
        return Cascade(tuple(models), verifier="logprob")
    if kind == "verify" and ((samples.isdigit() and int(samples) > 0) or not samples):
        return Cascade(tuple(models), samples=int(samples or rows.verdicts or SAMPLES))
    if verifier != "agreement":
        choices = "verify, verify=K, logprob, or agreement"
        raise BadInput(f"verifier '{verifier}' is unknown: choose {choices}")
    if agree is None or agree.isdigit():
        return Cascade(tuple(models), committee(rows, models, int(agree or SAMPLES)))
    members = _listed(agree)
    check_names(members, rows.experts)
    return Cascade(tuple(models), tuple(members))


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def prices(listed: str | None) -> dict[str, float]:
    """`small=1,large=50,verify=1` ▶ {"small": 1.0, …}."""
    found = {}
    for wish in (listed or "").split(","):
        if not wish.strip():
            continue
        name, _, price = wish.rpartition("=")
        try:
            found[name.strip()] = float(price)
        except ValueError as error:
            raise BadInput(
                f"option costs takes NAME=USD, e.g. small=1,large=50,verify=1; not '{wish}'"
            ) from error
    return found


def report(router: Router, out: Any) -> None:
    """Prints how the meta-verifiers compare, and which one the router follows."""
    from routewright.fitting.automix import served

    facts = router.card["automix"]
    console = Console(highlight=False)
    console.print(f"Router '{out}': AutoMix on {facts['rows']:,} rows, cross-validated")
    for name in facts["ladder"]:
        expert = router.card["experts"][name]
        price = f"US${text.dollars(expert['cost'])} per 1,000 queries"
        console.print(f"  always {name}: {price}, quality {text.percent(expert['quality'])}")
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("meta-verifier", min_width=16)
    for heading in ("US$ per 1,000", "quality, %", "ΔIBC %", "(95 %)", "mean", "(95 %)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in facts["compared"]:
        mark = "[bold]" if row["name"] == facts["meta_verifier"] else ""
        cells = [text.dollars(row["cost"]), f"{100 * row['quality']:.1f}"]
        for value, pair in (("lift", "lift_ci"), ("mean_lift", "mean_lift_ci")):
            cells += _signed(row[value], row[pair])
        table.add_row(f"{mark}{row['name']}", *cells)
    console.print(table)
    if why := facts["compared"][0]["undefined"]:
        console.print(f"ΔIBC is undefined: {why}.")
    if facts["agree"]:
        console.print(f"answers are compared with those of {', '.join(facts['agree'])}")
    if facts["verifier"] == "logprob":
        console.print("an answer is trusted by the mean probability of its tokens, which is free")
    console.print(
        f"The router follows '{facts['meta_verifier']}' at {served(router)} of"
        f" {len(router.frontier)} operating points, the fixed mix elsewhere;"
        f" {router.card['fit_seconds']:.0f} s."
    )


def on_rows(router: Router, row: Comparison) -> str:
    """How a router's AutoMix did on rows of an evaluation, in a sentence."""
    from routewright.fitting.automix import served

    if not served(router):
        return "AutoMix is not served: it was not shown to be better than mixing fixed experts."
    if row.undefined:
        return f"ΔIBC is undefined on these rows: {row.undefined}."
    best, between = _signed(row.lift, row.lift_ci)
    mean, mean_between = _signed(row.mean_lift, row.mean_lift_ci)
    return (
        f"AutoMix ({row.name}): ΔIBC {best} % ({between}) at US${text.dollars(row.cost)} per 1,000"
        f" queries and quality {text.percent(row.quality)}; mean over five regions of cost"
        f" {mean} % ({mean_between})"
    )


def _signed(value: float, pair: tuple[float, float]) -> tuple[str, str]:
    if math.isnan(value):
        return "undefined", ""
    return f"{value:+.1f}", f"{pair[0]:+.0f} … {pair[1]:+.0f}"
