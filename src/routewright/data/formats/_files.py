"""Opens what others wrote; whatever is wrong with it is a BadTable that says where."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from routewright.errors import BadTable
from routewright.types import Json

TRUTH = {"true": 1.0, "false": 0.0}


def csv(path: Path, need: Collection[str]) -> pl.DataFrame:
    """A CSV file, every cell as text; raises BadTable unless it has the columns in `need`."""
    _check(path)
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise BadTable(f"'{path}' is not a readable CSV file: {first}") from error
    demand(frame.columns, need, path)
    return frame


def json(path: Path) -> Json:
    """A JSON file."""
    return parse(text(path), f"'{path}'")


def jsonl(path: Path, need: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object and its place, as in `'x.jsonl' line 3`."""
    for number, line in enumerate(text(path).split("\n"), start=1):
        if line.strip():
            place = f"'{path}' line {number}"
            yield place, record(parse(line, place), need, place)


def record(value: Json, need: Collection[str], place: str) -> dict[str, Any]:
    """A JSON object with the fields in `need`; raises BadTable for anything else."""
    if not isinstance(value, dict):
        raise BadTable(f"{place} is not a JSON object with the fields {', '.join(need)}")
    demand(value, need, place)
    return value


def demand(there: Collection[str], need: Collection[str], place: Path | str) -> None:
    """Raises BadTable if a column or field is missing."""
    if missing := [name for name in need if name not in there]:
        place = f"'{place}'" if isinstance(place, Path) else place
        shown = ", ".join(list(there)[:8]) + (", …" if len(there) > 8 else "")
        raise BadTable(f"{place} has no {', '.join(missing)}; it has {shown}: another format?")


def text(path: Path) -> str:
    _check(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise BadTable(f"'{path}' is not a readable text file: {error}") from error


def parse(written: str | bytes, place: str) -> Json:
    """JSON; raises BadTable naming the place where it is broken."""
    try:
        return json_module.loads(written)
    except (ValueError, RecursionError) as error:
        raise BadTable(f"{place} is not JSON: {error}") from error


def number(value: Any, place: str) -> float | None:
    """A number, or a truth value as 0 or 1; None if unknown. Raises BadTable for the rest."""
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower(), value)
    try:
        found = None if value is None or value == "" else float(value)
    except (TypeError, ValueError) as error:
        raise BadTable(f"{place} is {str(value)[:40]!r} and must be a number") from error
    return None if found is None or math.isnan(found) else found


def split(path: Path) -> str | None:
    """`train`, `dev` or `test`, if the name of the file says so.

    >>> split(Path("default_routing_test_data.jsonl"))
    'test'
    """
    words = path.stem.lower().replace("-", "_").split("_")
    called = {"val": "dev", "valid": "dev", "validation": "dev"}
    known = (called.get(word, word) for word in words)
    return next((word for word in known if word in ("train", "dev", "test")), None)


def _check(path: Path) -> None:
    if not path.is_file():
        raise BadTable(
            f"'{path}' is a folder: name its files" if path.is_dir() else f"no file '{path}'"
        )
