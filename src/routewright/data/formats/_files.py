"""Opens files of other projects; every fault in them is a BadTable that names the place."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import parquet
from routewright.errors import BadTable
from routewright.types import Json

TRUTH = {"true": 1.0, "false": 0.0}


def csv(path: Path, required: Collection[str]) -> pl.DataFrame:
    """A CSV file, every cell as text. Raises BadTable if a `required` column is missing."""
    _check(path)
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadTable(f"'{path}' is not a readable CSV file: {reason}") from error
    demand(frame.columns, required, path)
    return frame


def json(path: Path) -> Json:
    """The value in a JSON file. Raises BadTable if the file is not JSON."""
    return parse(text(path), f"'{path}'")


def jsonl(path: Path, required: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place of each line, such as `'x.jsonl' line 3`, and the object in it."""
    for number, line in enumerate(text(path).split("\n"), start=1):
        if line.strip():
            place = f"'{path}' line {number}"
            yield place, record(parse(line, place), required, place)


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


def text(path: Path) -> str:
    _check(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise BadTable(f"'{path}' is not a readable text file: {error}") from error


def parse(text: str | bytes, place: str) -> Json:
    """The value of a JSON text. Raises BadTable, which names the place, if it is malformed."""
    try:
        return json_module.loads(text)
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


def split(path: Path) -> str | None:
    """`train`, `dev` or `test`, if the file's name contains it; else None.

    >>> split(Path("default_routing_test_data.jsonl"))
    'test'
    """
    words = path.stem.lower().replace("-", "_").split("_")
    aliases = {"val": "dev", "valid": "dev", "validation": "dev"}
    candidates = (aliases.get(word, word) for word in words)
    return next((word for word in candidates if word in ("train", "dev", "test")), None)


def _check(path: Path) -> None:
    parquet.check_regular(path)
