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

from routewright.cli.fit import DropDuplicates
from routewright.data import text
from routewright.errors import BadInput, BadTable
from routewright.files import LONGEST, read, replacing

if TYPE_CHECKING:
    import polars as pl

    from routewright.data.outcomes import Outcomes

HOLD_OUT = 0.2
CSV = "csv"  # the format that is rewritten, not turned into an outcome table
EXAMPLES = {
    "price": "write EXPERT=US$ per call, as in gpt-4o=0.002",
    "column": "write OURS=THEIRS, as in score=grade.value",
    "scale": "write the worst and the best score, as in 1..10",
}


def convert(
    format: Annotated[
        str,
        typer.Argument(
            help="alpaca_eval, embedllm, inspect_ai, llmrouter, lm_eval, mt_bench, routellm,"
            " routerarena, routerbench or wildbench; or generic: any rows, with --column; or csv: a"
            " spreadsheet's CSV, rewritten in UTF-8 with commas and decimal points."
        ),
    ],
    files: Annotated[
        list[Path], typer.Argument(help="Your copies of the files; rows of one query are joined.")
    ],
    out: Annotated[
        Path, typer.Option(help="Outcome table to write (.parquet); for csv, a .csv file.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Name of the expert, for files with one expert.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The score to take, of a file with several scores.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="For generic: OURS=THEIRS, such as prompt=vars.question or"
            " score=scores[name=accuracy].value; repeat it for id, prompt, messages, domain, split,"
            " group, model, answer, score, cost, latency, in_tokens and out_tokens."
        ),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="For generic: the worst and the best score, e.g. 1..10.")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(help="For generic: the list of rows in a JSON document: results.results."),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="For csv: what separates the columns, such as ';' or tab. Default: the commonest"
            " of comma, semicolon and tab in the first line."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="For csv: such as cp1250. Default: UTF-8 or UTF-16, or cp1252 if it is neither."
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON file with US$ per million tokens for each expert, `input_per_mtok`"
            " and `output_per_mtok`; gives costs to answers without one, from their tokens or,"
            " where none were counted, from their texts."
        ),
    ] = None,
    price_per_call: Annotated[
        list[str] | None,
        typer.Option(help="EXPERT=US$ for each answer without a cost; may be repeated."),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of the queries without a split for split dev, and as many for test, by a"
            " hash of the prompt.",
        ),
    ] = HOLD_OUT,
    drop_duplicates: DropDuplicates = False,
    json: Annotated[bool, typer.Option(help="Print the summary as JSON.")] = False,
) -> None:
    """Turn public routing or evaluation data into an outcome table, or rewrite CSV."""
    from routewright.data import formats, outcomes, pricing

    if format == CSV:
        others: dict[str, Any] = {"--model": model, "--metric": metric, "--column": column}
        others |= {"--scale": scale, "--rows": rows, "--prices": prices}
        others |= {"--price-per-call": price_per_call, "--drop-duplicates": drop_duplicates}
        _check_unset(others, format)
        _rewrite(files, out, delimiter, encoding, json)
        return
    _check_unset({"--delimiter": delimiter, "--encoding": encoding}, format)
    if out.suffix != ".parquet":
        raise BadInput(f"'{out}' must end in .parquet: an outcome table is a Parquet file")
    options = formats.Options(
        drop_duplicates=drop_duplicates,
        metric=metric,
        columns=_pairs(column, "column"),
        scale=None if scale is None else _scale(scale),
        records=rows,
    )
    reader = formats.find(format, options)
    price_list = None if prices is None else _prices(prices)
    per_call = {
        name: _dollars(name, text) for name, text in _pairs(price_per_call, "price").items()
    }
    with Console(stderr=True).status(f"reading {len(files)} files") as status:
        frames = []
        for file in files:
            status.update(f"reading {file}")
            frame = outcomes.without_unread(outcomes.clipped(reader(file), f"'{file}'"))
            frames.append(_rename(frame, model, file))
        frame = reduce(outcomes.join, frames)
        if price_list is not None:
            frame = pricing.priced(frame, price_list)
        if per_call:
            frame = pricing.priced_per_call(frame, per_call)
        table = _write(outcomes.with_splits(frame, hold_out), out, files)
    summary = _summary(table)
    if json:
        typer.echo(json_module.dumps(summary))
    else:
        _show(summary, out)


def _check_unset(options: Mapping[str, Any], format: str) -> None:
    """Raises BadInput for the first option that the user gave."""
    if flag := next((flag for flag, value in options.items() if value), None):
        raise BadInput(f"{flag} has no meaning for '{format}': leave it out")


def _rewrite(
    files: Sequence[Path], out: Path, delimiter: str | None, encoding: str | None, json: bool
) -> None:
    """Rewrites a spreadsheet's CSV so that every command reads it, and says how it was read."""
    from routewright.data import spreadsheet

    if out.suffix != ".csv":
        raise BadInput(f"'{out}' must end in .csv: `convert csv` writes CSV")
    if len(files) > 1:
        raise BadInput(f"`convert csv` rewrites one file, and {len(files)} are named: name one")
    (file,) = files
    sheet = spreadsheet.read(file, delimiter, encoding)
    spreadsheet.write(sheet, out)
    summary = {
        "rows": len(sheet.cells) - 1,
        "encoding": sheet.encoding,
        "delimiter": sheet.delimiter,
        "decimal_commas": list(sheet.decimals),
    }
    if json:
        typer.echo(json_module.dumps(summary))
    else:
        typer.echo(f"'{file}' was read as {sheet}; wrote '{out}' with {summary['rows']} rows.")


def _pairs(entries: Sequence[str] | None, kind: str) -> dict[str, str]:
    """The options NAME=VALUE. The name of an expert may have a `=`, a path in a file too."""
    pairs = {}
    for entry in entries or ():
        name, _, value = entry.rpartition("=") if kind == "price" else entry.partition("=")
        if not name.strip() or not value.strip():
            raise BadInput(f"'{entry}' is not understood: {EXAMPLES[kind]}")
        pairs[name.strip()] = value.strip()
    return pairs


def _scale(text: str) -> tuple[float, float]:
    try:
        worst, best = (float(part) for part in text.split(".."))
    except ValueError as error:
        raise BadInput(f"--scale '{text}' is not understood: {EXAMPLES['scale']}") from error
    if not math.isfinite(worst) or not math.isfinite(best) or worst == best:
        raise BadInput(f"--scale '{text}' has no width: {EXAMPLES['scale']}")
    return worst, best


def _dollars(expert: str, text: str) -> float:
    from routewright.router import targets

    try:
        dollars = targets.dollars(text)
    except BadInput as error:
        raise BadInput(f"--price-per-call {expert}={text}: {error}") from error
    if not math.isfinite(dollars) or dollars < 0:
        raise BadInput(
            f"--price-per-call {expert}={text} must not be negative: {EXAMPLES['price']}"
        )
    return dollars


def _prices(path: Path) -> dict[str, Any]:
    """The entry of each expert in a price file."""
    import yaml

    from routewright.data import pricing

    try:
        content = read(path, LONGEST).decode("utf-8-sig")
        entries = json_module.loads(content) if path.suffix == ".json" else yaml.safe_load(content)
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"'{path}' is not a readable price file: {reason}") from error
    if not isinstance(entries, dict) or not entries:
        raise BadInput(f"'{path}' must map experts to prices, as in `gpt-4o: {pricing.EXAMPLE}`")
    return {str(expert): entry for expert, entry in entries.items()}


def _rename(frame: pl.DataFrame, model: str | None, file: Path) -> pl.DataFrame:
    from routewright.data import pricing

    experts = pricing.experts_of(frame)
    if model is None or not experts:
        return frame
    if len(experts) != 1:
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
    for heading in ("expert", "scored", "quality, %", "US$ per 1,000"):
        table.add_column(heading, justify="left" if heading == "expert" else "right")
    for expert, facts in summary["experts"].items():
        quality, cost = facts["quality"], facts["cost"]
        table.add_row(
            expert,
            str(facts["scored"]),
            "unknown" if quality is None else f"{100 * quality:.2f}",
            "unknown" if cost is None else text.dollars(cost),
        )
    Console().print(table)
