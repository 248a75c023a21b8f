"""`routewright convert`: turns public routing and evaluation data into an outcome table."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from routewright.errors import BadInput, BadTable
from routewright.files import LONGEST, read, replacing

if TYPE_CHECKING:
    import polars as pl

    from routewright.data.outcomes import Outcomes

PRICE_NAMES = (  # US$ per million input and output tokens, by the names of these projects
    ("input_per_mtok", "output_per_mtok"),  # routewright.yaml
    ("input_token_price_per_million", "output_token_price_per_million"),  # RouterArena
    ("input_price", "output_price"),  # LLMRouter
)


def convert(
    format: Annotated[
        str,
        typer.Argument(
            help="embedllm, inspect_ai, llmrouter, lm_eval, routellm, routerarena or routerbench."
        ),
    ],
    files: Annotated[
        list[Path], typer.Argument(help="Your copies of the files; rows of one query are joined.")
    ],
    out: Annotated[Path, typer.Option(help="Outcome table to write (.parquet).")],
    model: Annotated[
        str | None, typer.Option(help="Name of the expert, for files with one expert.")
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON file with US$ per million tokens for each expert, `input_per_mtok`"
            " and `output_per_mtok`; gives costs to rows that have only tokens."
        ),
    ] = None,
    json: Annotated[bool, typer.Option(help="Print the summary as JSON.")] = False,
) -> None:
    """Turn public routing or evaluation data into an outcome table."""
    from routewright.data import formats, outcomes

    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    reader = formats.find(format)
    price_list = None if prices is None else _prices(prices)
    with Console(stderr=True).status(f"reading {len(files)} files") as status:
        frames = []
        for file in files:
            status.update(f"reading {file}")
            frame = outcomes.without_unread(outcomes.clipped(reader(file), f"'{file}'"))
            frames.append(_rename(frame, model, file))
        frame = reduce(outcomes.join, frames)
        if price_list is not None:
            frame = priced(frame, price_list)
        rows = _write(frame, out, files)
    summary = _summary(rows)
    if json:
        typer.echo(json_module.dumps(summary))
    else:
        _show(summary, out)


def priced(frame: pl.DataFrame, prices: Mapping[str, Any]) -> pl.DataFrame:
    """Adds costs in US$ from token counts where no cost was recorded; unknown costs stay null.

    `prices` gives each expert's US$ per million tokens under one of PRICE_NAMES. Raises BadInput
    if it has no expert of the table, or an expert without a valid price.
    """
    import polars as pl

    experts = _experts(frame)
    if not set(experts) & set(prices):
        raise BadInput(
            f"the prices are of {', '.join(list(prices)[:8])}, the table's experts are"
            f" {', '.join(experts[:8])}: use the same names in both"
        )
    for expert in experts:
        tokens = (f"in_tokens::{expert}", f"out_tokens::{expert}")
        if expert in prices and set(tokens) <= set(frame.columns):
            pair = _pair(expert, prices[expert])
            dollars = sum(pl.col(t) * p for t, p in zip(tokens, pair, strict=True)) / 1e6
            name = f"cost::{expert}"
            recorded = [pl.col(name)] if name in frame.columns else []
            frame = frame.with_columns(pl.coalesce(*recorded, dollars).alias(name))
    return frame


def _prices(path: Path) -> dict[str, Any]:
    """The entry of each expert in a price file."""
    import yaml

    try:
        text = read(path, LONGEST).decode("utf-8-sig")
        entries = json_module.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"'{path}' is not a readable price file: {reason}") from error
    if not isinstance(entries, dict) or not entries:
        raise BadInput(f"'{path}' must map experts to prices, as in `gpt-4o: {_example()}`")
    return {str(expert): entry for expert, entry in entries.items()}


def _pair(expert: str, entry: Any) -> tuple[float, float]:
    for names in PRICE_NAMES:
        match [entry.get(name) for name in names] if isinstance(entry, dict) else ():
            case [int() | float() as input_price, int() | float() as output_price] if (
                min(input_price, output_price) >= 0
            ):
                return input_price, output_price
    raise BadInput(f"the price of '{expert}' must be {_example()}, in US$ per million tokens")


def _example() -> str:
    return "{input_per_mtok: 2.5, output_per_mtok: 10}"


def _experts(frame: pl.DataFrame) -> list[str]:
    return [c.removeprefix("score::") for c in frame.columns if c.startswith("score::")]


def _rename(frame: pl.DataFrame, model: str | None, file: Path) -> pl.DataFrame:
    if model is None:
        return frame
    if len(experts := _experts(frame)) != 1:
        raise BadInput(
            f"--model names one expert, but '{file}' has {', '.join(experts[:8])}: leave it out"
        )
    suffixes = (f"::{experts[0]}", f"::{model}")
    return frame.rename({c: c.replace(*suffixes) for c in frame.columns if c.endswith(suffixes[0])})


def _write(frame: pl.DataFrame, out: Path, files: Sequence[Path]) -> Outcomes:
    """Writes the table, but only if it is a valid outcome table."""
    from routewright.data import outcomes

    with replacing(out) as partial:
        outcomes.write_parquet(frame, partial)
        try:
            return outcomes.read(partial)
        except BadTable as error:
            source = files[0] if len(files) == 1 else out
            raise BadTable(str(error).replace(str(partial), str(source))) from error


def _summary(rows: Outcomes) -> dict[str, Any]:
    import numpy as np

    from routewright.metrics import mean

    qualities, costs = mean(rows.score), mean(rows.cost)
    scored = np.isfinite(rows.score).sum(axis=0)
    return {
        "rows": len(rows),
        "experts": {
            expert: {
                "scored": int(scored[m]),
                "quality": _finite(float(qualities[m])),
                "cost": _finite(float(costs[m])),
            }
            for m, expert in enumerate(rows.experts)
        },
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _show(summary: Mapping[str, Any], out: Path) -> None:
    table = Table(title=f"'{out}': {summary['rows']} rows", title_justify="left")
    for heading in ("expert", "scored", "quality", "US$/query"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for expert, facts in summary["experts"].items():
        quality, cost = facts["quality"], facts["cost"]
        table.add_row(
            expert,
            str(facts["scored"]),
            "unknown" if quality is None else f"{quality:.4f}",
            "unknown" if cost is None else f"{cost:.3g}",
        )
    Console().print(table)
