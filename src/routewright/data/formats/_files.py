"""Opens files of other projects; every fault in them is a BadTable that names the place."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import endings, queries, rows, source
from routewright.errors import BadTable
from routewright.types import Json

TRUTH = {"true": 1.0, "false": 0.0}


def table(path: Path, required: Collection[str]) -> pl.DataFrame:
    """The rows of a file, every cell as text. Raises BadTable if a `required` column is missing."""
    ending = endings.ending(path)
    if ending in source.SEPARATORS:
        text = source.text(path)
        source.check_separator(text.partition("\n")[0], list(required)[:1], path)
        try:
            content, separator = text.encode("utf-8", "replace"), source.SEPARATORS[ending]
            frame = pl.read_csv(content, infer_schema=False, separator=separator)
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise BadTable(f"'{path}' is not a readable CSV file: {reason}") from error
    else:
        cells = [row for _, row in queries.records(path, infinite=True)]
        names = dict.fromkeys(name for row in cells for name in row)
        columns = {name: [cell(row.get(name)) for row in cells] for name in names}
        frame = pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))
    demand(frame.columns, required, path)
    return frame


def records(path: Path, required: Collection[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place of each row, such as `'x.jsonl' line 3`, and its cells.

    The rows are the lines of JSONL, the objects of a JSON list, or the rows of CSV, TSV or Parquet,
    by the file's ending. Raises BadTable if one lacks a `required` field.
    """
    for place, row in queries.records(path, infinite=True):
        demand(row, required, place)
        yield place, row


def json(path: Path) -> Json:
    """The value in a JSON file. Raises BadTable if the file is not JSON."""
    return parse(source.text(path), f"'{path}'")


def cell(value: Any) -> str | None:
    """A value as the text of a cell; lists and objects are written as JSON."""
    if value is None or isinstance(value, str):
        return None if value is None else rows.whole(value)
    return rows.dumps(value) if isinstance(value, dict | list | bool) else rows.text(value)


def record(value: Json, required: Collection[str], place: str) -> dict[str, Any]:
    """A JSON object with the `required` fields. Raises BadTable for anything else."""
    if not isinstance(value, dict):
        raise BadTable(f"{place} is not a JSON object with the fields {', '.join(required)}")
    demand(value, required, place)
    return value


def demand(names: Collection[str], required: Collection[str], place: Path | str) -> None:
    """Raises BadTable if a column or field is missing."""
    if missing := [name for name in required if name not in names]:
        place = f"'{place}'" if isinstance(place, Path) else place
        shown = ", ".join(list(names)[:8]) + (", …" if len(names) > 8 else "")
        raise BadTable(f"{place} has no {', '.join(missing)}; it has {shown}: another format?")


def parse(text: str | bytes, place: str) -> Json:
    """The value of a JSON text. Raises BadTable, which names the place, if it is malformed."""
    try:
        return source.parse(text, infinite=True)
    except (ValueError, RecursionError) as error:
        raise BadTable(f"{place} is not JSON: {error}") from error


def number(value: Any, place: str) -> float | None:
    """A number, or a truth value as 0 or 1; None if unknown. Raises BadTable for anything else."""
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower(), value)
    try:
        parsed = None if value is None or value == "" else float(value)
    except (TypeError, ValueError) as error:
        raise BadTable(f"{place} is {str(value)[:40]!r} and must be a number") from error
    return None if parsed is None or math.isnan(parsed) else parsed


def score(value: Any, place: str, metric: str | None = None) -> float | None:
    """A score as `number` reads it; of an object of scores that of the `metric`, or the only one.

    Raises BadTable if an object has several scores and none is called like the metric.
    """
    if not isinstance(value, dict):
        return number(value, place)
    scores = {k: v for k, v in value.items() if isinstance(v, bool | int | float)}
    if metric in scores:
        return number(scores[metric], place)
    if len(scores) != 1:
        names = ", ".join(scores) or "no number"
        raise BadTable(f"{place} has {names}: choose one of its scores with --metric NAME")
    return number(next(iter(scores.values())), place)


def split(path: Path) -> str | None:
    """`train`, `dev` or `test`, if the file's name contains it; else None.

    >>> split(Path("default_routing_test_data.jsonl"))
    'test'
    """
    words = endings.stem(path).lower().replace("-", "_").split("_")
    aliases = {"val": "dev", "valid": "dev", "validation": "dev"}
    candidates = (aliases.get(word, word) for word in words)
    return next((word for word in candidates if word in ("train", "dev", "test")), None)
