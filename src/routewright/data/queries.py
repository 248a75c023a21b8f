"""Query sets: what to ask, and what is known about the right answer.

JSONL, Parquet and CSV are read; `tasks/` turns the tasks of other tools into the same items.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from routewright.data import rows
from routewright.errors import BadTable
from routewright.types import Json, Query

REFERENCES = ("references", "target", "answer", "expected", "gold")  # as others call `reference`
LISTS = ("choices", "tests", "references")  # in CSV: JSON, or parts between semicolons
OBJECTS = ("schema",)  # in tables: JSON
FACTS = ("choices", "tests", "setup", "schema", "rubric")  # what our graders may need to know


@dataclass(frozen=True)
class Item:
    """A query, and what grading its answers takes.

    `reference` is the right answer, or a list of right ones; None where nobody knows. `facts`
    holds every other column of the set: `choices`, `tests`, `schema`, `rubric` and so on.
    """

    query: Query
    reference: Json = None
    split: str = "train"
    grader: str | None = None  # by which to grade this one, if not by the run's own
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def references(self) -> tuple[str, ...]:
        """The right answers as texts; empty where none is known.

        >>> Item(Query.of("2 + 2?"), reference=4).references
        ('4',)
        """
        known = self.reference if isinstance(self.reference, list | tuple) else [self.reference]
        return tuple(rows.text(one) for one in known if one is not None)


def read(path: Path, *, split: str = "train") -> list[Item]:
    """The items of a file; `split` is for those that name none.

    An item needs a `prompt` or `messages`; without an `id` it is named after its words. Raises
    BadTable, which names the line.
    """
    found = list(_items(path, split, to_ask=True))
    if not found:
        raise BadTable(f"'{path}' has no queries")
    rows.check_distinct((place, item.query) for place, item in found)
    return [item for _, item in found]


def recorded(paths: Iterable[Path]) -> dict[str, Item]:
    """The items of outcome tables by id, from every row that tells of a query; a later row fills
    in and overrides. `split` is empty where no row names one."""
    items: dict[str, Item] = {}
    for path in paths:
        for _, item in _items(path, "", to_ask=False):
            before = items.get(item.query.id, item)
            items[item.query.id] = replace(
                item,
                reference=before.reference if item.reference is None else item.reference,
                split=item.split or before.split,
                grader=item.grader or before.grader,
                facts={**before.facts, **item.facts},
            )
    return items


def write(items: Iterable[Item], path: Path) -> None:
    """JSONL that `read` takes back."""
    lines = [rows.dumps(row(item)) for item in items]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def row(item: Item) -> dict[str, Any]:
    """The item as a line of JSONL."""
    grading = {"reference": item.reference, "split": item.split or None, "grader": item.grader}
    cells = {**rows.row(item.query), **grading, **item.facts}
    return {column: value for column, value in cells.items() if value not in (None, [], {})}


def held_out(items: Sequence[Item], share: float, *, rest: str = "train") -> list[Item]:
    """Items that name no split (theirs is empty) put into `dev`, about `share` (0..1) of them,
    and into `rest`. Drawn from their words: the same query lies on the same side on every run.

    >>> some = [Item(Query.of(f"{n} + {n}?"), split="") for n in range(1000)]
    >>> sum(item.split == "dev" for item in held_out(some, 0.2))
    204
    """
    return [
        item if item.split else replace(item, split="dev" if _lot(item) < share else rest)
        for item in items
    ]


def _lot(item: Item) -> float:
    """In [0, 1). Not `Query.lot`, by which mixes choose: they must not tell rows apart alike."""
    words = f"split\0{item.query.full_text}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=6).digest(), "big") / 2**48


# --- files ---------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place, as in `'q.jsonl' line 3`, and its cells as the file has them."""
    if path.suffix not in READERS:
        raise BadTable(f"'{path}' must end in .jsonl, .parquet or .csv")
    if not path.is_file():
        raise BadTable(f"no file '{path}'")
    try:
        yield from READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise BadTable(f"'{path}' is not a text in UTF-8: {error}") from error
    except OSError as error:
        raise BadTable(f"'{path}' cannot be read: {error.strerror}") from error


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            place = f"'{path}' line {number}"
            if line.strip():
                yield place, _object(line, place)


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadTable(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadTable(f"{place} is not an object with a `prompt` or `messages`")
    return row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise BadTable(f"'{path}' is not a Parquet file: {str(error).splitlines()[0]}") from error
    # An outcome table may be asked again: what experts said to its queries is left out.
    frame = frame.select(column for column in frame.columns if "::" not in column)
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        yield f"'{path}' row {number}", row


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Empty cells are missing, and so is a line of empty cells."""
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                place = f"'{path}' line {reader.line_num}"
                if None in row:
                    raise BadTable(f"{place} has more cells than the first line has names")
                if cells := {key: value for key, value in row.items() if value}:
                    yield place, cells
        except csv.Error as error:
            raise BadTable(f"'{path}' line {reader.line_num} is not CSV: {error}") from error


READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".csv": _csv}


# --- items ---------------------------------------------------------------------------------


def _items(path: Path, split: str, *, to_ask: bool) -> Iterator[tuple[str, Item]]:
    """Each item with its place; those `to_ask` must say what is asked."""
    fact = {".csv": _from_csv, ".parquet": _from_table}.get(path.suffix)
    for place, cells in lines(path):
        if fact is not None:
            cells = {key: fact(key, value, place) for key, value in cells.items()}
        cells = rows.renamed(cells, {**rows.ALIASES, "reference": REFERENCES})
        item = _item(cells, place, split)
        if to_ask:
            _check_words(cells, item.query, place)
        yield place, item


def _item(cells: Mapping[str, Any], place: str, split: str) -> Item:
    used = {*rows.COLUMNS, "reference", "split", "grader"}
    if isinstance(cells.get("options"), list):
        used.remove("options")
    return Item(
        query=rows.query(cells, place),
        reference=cells.get("reference"),
        split=rows.text(cells.get("split") or split),
        grader=cells.get("grader"),
        facts={key: value for key, value in cells.items() if key not in used and value is not None},
    )


def _check_words(cells: Mapping[str, Any], query: Query, place: str) -> None:
    """Raises BadTable for a row that leaves open what to ask: no expert is paid for that."""
    if not rows.has_words(cells):
        raise rows.no_words(cells, place)
    for message in query.messages:
        if "content" not in message and message["role"] != "assistant":
            raise rows.must_be("messages", place)


def _from_csv(key: str, value: Any, place: str) -> Any:
    if key in LISTS and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(";")]
    return _from_table(key, value, place)


def _from_table(key: str, value: Any, place: str) -> Any:
    """Tables keep lists and objects as JSON."""
    if key not in (*LISTS, *OBJECTS) or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadTable(f"{place}: `{key}` is not JSON: {error}") from error
