"""Reads and writes query sets: queries with the facts that grading needs.

The formats are those of `endings.READABLE`; `formats/` converts the files of other tools.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from routewright import files
from routewright.data import endings, parquet, rows, source, text
from routewright.errors import BadTable, DataWarning
from routewright.types import DataClass, Json, Query

REFERENCES = (
    "references",
    "target",
    "answer",
    "expected",
    "gold",
)  # other tools' names
ROW_COUNTS = (100, 400, 1600)  # that `proof_of` compares with
MOST_NAMED = 8  # domains in a sentence
LISTS = ("choices", "tests", "references")  # in CSV: JSON, or texts between semicolons
OBJECTS = ("schema",)  # in tables: JSON
FACTS = ("choices", "tests", "setup", "schema", "rubric")  # columns that graders read


@dataclass(frozen=True)
class Item:
    """A query with the facts for grading its answers.

    `reference` is the right answer or a list of right answers, and None if it is unknown. `facts`
    holds every other column of the set: `choices`, `tests`, `schema`, `rubric` and so on.
    """

    query: Query
    reference: Json = None
    split: str = "train"
    grader: str | None = None  # grader of this item, in place of that of the run
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def references(self) -> tuple[str, ...]:
        """The right answers as texts; empty if none is known.

        >>> Item(Query.of("2 + 2?"), reference=4).references
        ('4',)
        """
        answers = self.reference if isinstance(self.reference, list | tuple) else [self.reference]
        texts = (rows.dumps(a) if isinstance(a, dict | list) else rows.text(a) for a in answers)
        return tuple(text for text, a in zip(texts, answers, strict=True) if a is not None)


def read(
    path: Path,
    *,
    split: str = "train",
    data_class: DataClass = "public",
    drop_duplicates: bool = False,
) -> list[Item]:
    """The items of a file; `split` and `data_class` are those of rows that state none.

    An item needs a `prompt` or `messages`; without an `id` its id is a hash of its messages.
    Raises BadTable, which names the line, also if two items have the same id. `drop_duplicates`
    keeps the first of the items that ask the same with the same options, whatever their ids; a
    warning says how many others there are.
    """
    items = list(_items(path, split, data_class, to_ask=True))
    if not items:
        raise BadTable(f"'{path}' has no queries")
    return distinct(items, f"'{path}'", drop_duplicates)


def stream(path: Path, *, drop_duplicates: bool = False) -> Iterator[Item]:
    """The items of a file as `read` gives them, one at a time: of each, only two numbers stay in
    memory. JSONL and Parquet files may be larger than that.

    Raises BadTable when it comes to the row.
    """
    ids: dict[int, int] = {}  # the hash of an id ▶ that of its question
    questions: set[int] = set()
    count = kept = 0
    is_checked = False
    for _, item in _items(path, "", "public", to_ask=True):
        count += 1
        name, question = hash(item.query.id), hash(_question(item))
        is_doubtful = ids.get(name, question) != question or (name in ids and not drop_duplicates)
        if is_doubtful and not is_checked:
            read(path, drop_duplicates=drop_duplicates)  # raises for rows that ask different things
            is_checked = True
        if name in ids or (drop_duplicates and question in questions):
            continue
        ids[name], kept = question, kept + 1
        questions.add(question)
        yield item
    if not count:
        raise BadTable(f"'{path}' has no queries")
    rows.tell_dropped(count - kept, f"'{path}'")
    _tell_others(kept - len(questions), f"'{path}'")


def distinct(
    items: Sequence[tuple[str, Item]], source: str, drop_duplicates: bool = False
) -> list[Item]:
    """The items, each given with its place, without duplicates, as `read` says."""
    if drop_duplicates:
        items = _without_duplicates(items, source)
    rows.check_distinct((place, item.query) for place, item in items)
    _tell_others(len(items) - len({_question(item) for _, item in items}), source)
    return [item for _, item in items]


def _tell_others(number: int, source: str) -> None:
    """Warns that so many queries of the `source` ask the same as another."""
    if number:
        warnings.warn(
            f"{source}: {'1 query asks' if number == 1 else f'{number} queries ask'} the same as"
            " another under an id of its own; --drop-duplicates keeps the first of each",
            DataWarning,
            stacklevel=4,
        )


def _without_duplicates(items: Sequence[tuple[str, Item]], source: str) -> list[tuple[str, Item]]:
    """The first item of each id and each question, as secret as the strictest of its duplicates."""
    positions, queries = rows.distinct([item.query for _, item in items])
    groups: dict[str, list[tuple[str, Item]]] = {}
    for position, query in zip(positions, queries, strict=True):
        place, item = items[position]
        groups.setdefault(_question(item), []).append((place, replace(item, query=query)))
    firsts = [
        (place, replace(item, query=rows.as_secret_as(item.query, *(i.query for _, i in others))))
        for (place, item), *others in groups.values()
    ]
    rows.tell_dropped(len(items) - len(firsts), source)
    return firsts


def _question(item: Item) -> str:
    """What is asked: equal for two items that ask the same with the same options."""
    query = item.query
    return rows.dumps([[dict(message) for message in query.messages], dict(query.options)])


def recorded(paths: Iterable[Path]) -> dict[str, Item]:
    """The items of outcome tables, by id.

    If several rows have the same id, later rows override earlier ones and fill in what these lack.
    `split` is empty if no row has one.
    """
    items: dict[str, Item] = {}
    for path in paths:
        for _, item in _items(path, "", "public", to_ask=False):
            before = items.get(item.query.id, item)
            rows.check_one_question(map(rows.row, (before.query, item.query)), f"'{path}'")
            items[item.query.id] = replace(
                item,
                query=rows.as_secret_as(item.query, before.query),
                reference=before.reference if item.reference is None else item.reference,
                split=item.split or before.split,
                grader=item.grader or before.grader,
                facts={**before.facts, **item.facts},
            )
    return items


def write(items: Iterable[Item], path: Path, data_class: DataClass = "public") -> None:
    """Writes JSONL that `read` can read with the same `data_class`, atomically. Raises BadInput."""
    lines = [rows.dumps(row(item, data_class)) for item in items]
    files.write(path, "".join(f"{line}\n" for line in lines))


def row(item: Item, data_class: DataClass = "public") -> dict[str, Any]:
    """The item as a line of JSONL; `data_class` as in `rows.row`."""
    grading = {"reference": item.reference, "split": item.split or None, "grader": item.grader}
    cells = {**rows.row(item.query, data_class), **grading, **item.facts}
    return {column: value for column, value in cells.items() if value not in (None, [], {})}


def held_out(items: Sequence[Item], share: float, *, rest: str = "train") -> list[Item]:
    """Assigns items without a split to `dev`, about `share` (0..1) of them, or to `rest`.

    A hash of the text decides, so that a query is in the same split on every run, in any order and
    beside any other queries. A domain whose hashes give less than half of its due number of items
    (rounded down, at least one if one is due) holds out those with its lowest hashes.

    >>> some = [Item(Query.of(f"{n} + {n}?"), split="") for n in range(1000)]
    >>> sum(item.split == "dev" for item in held_out(some, 0.2))
    204
    """
    lots: defaultdict[str | None, list[float]] = defaultdict(list)
    for item in items:
        if not item.split:
            lots[item.query.domain].append(lot(item.query))
    limits = {domain: max(share, _least(sorted(of), share)) for domain, of in lots.items()}
    return [
        item
        if item.split
        else replace(item, split="dev" if lot(item.query) < limits[item.query.domain] else rest)
        for item in items
    ]


def _least(lots: Sequence[float], share: float) -> float:
    """The limit below which lie half of the due number of a domain's lots, which are sorted."""
    due = int(share * len(lots) + 1e-9)
    return math.nextafter(lots[max(1, due // 2) - 1], 1.0) if due else 0.0


def proof_of(items: Sequence[Item], *, scored: bool = True) -> str:
    """How many items of each domain are in split `dev`, and what so many `scored` rows prove."""
    dev = [item for item in items if item.split == "dev"]
    all_of = Counter(item.query.domain or "no domain" for item in items)
    held = Counter(item.query.domain or "no domain" for item in dev)
    parts = [f"{held[name]} of {size} of {name}" for name, size in all_of.most_common(MOST_NAMED)]
    more = len(all_of) - len(parts)
    domains = ", ".join(parts) + (f", and of {more} more domains" if more else "")
    by_domain = f" ({domains})" if len(all_of) > 1 else ""
    count = f"{len(dev)} of {len(items)} queries are held out{by_domain}"
    if not scored:
        return count
    larger = [n for n in ROW_COUNTS if n > len(dev)][:2]
    others = "; ".join(text.provable(n) for n in larger)
    proof = f"{text.provable(len(dev))}{'; ' if others else ''}{others}"
    return f"{count}: {proof}"


def lot(query: Query) -> float:
    """A number in [0, 1) from a hash of the text. It must be independent of `Query.lot`, by which
    mixes choose."""
    text = f"split\0{query.full_text}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48


# --- files ---------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place, such as `'q.jsonl' line 3`, and its cells, unconverted.

    Cells that are empty in CSV are left out. Raises BadTable for a file that cannot be read, and
    for a column of ours in other letters.
    """
    seen: set[tuple[str, ...]] = set()
    is_csv = endings.ending(path) in source.SEPARATORS
    for place, cells in records(path):
        if (names := tuple(cells)) not in seen:
            source.check_columns(names, place)
            seen.add(names)
        yield place, {k: v for k, v in cells.items() if v is not None} if is_csv else cells


def records(path: Path, infinite: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place and its cells, as `lines` gives them, of any tool's file.

    The cells of CSV are text, and None where they are empty. JSON may have infinite numbers if
    `infinite`. Raises BadTable for a file that cannot be read.
    """
    ending = endings.ending(path)
    if ending not in READERS:
        wrong = source.not_a_table(path, "a table or query set", tuple(READERS))
        names = f"{', '.join(READERS)} (or {' or '.join(endings.PACKED)} after it)"
        raise wrong or BadTable(f"'{path}' must end in {names}")
    parquet.check_regular(path)
    yield from READERS[ending](path, infinite)


def _jsonl(path: Path, infinite: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(source.lines(path), start=1):
        if line.strip():
            place = f"'{path}' line {number}"
            yield place, _object(line, place, path, infinite)


def _object(line: str, place: str, path: Path, infinite: bool) -> dict[str, Any]:
    try:
        row = source.parse(line, infinite)
    except (ValueError, RecursionError) as error:
        advice = "" if line.strip()[-1] not in "[{,}]" else _whole_file(path)
        raise BadTable(f"{place} is not JSON: {error}{advice}") from error
    if isinstance(row, list):
        raise BadTable(f"{place} is not an object but a list{_whole_file(path)}")
    if not isinstance(row, dict):
        raise BadTable(f"{place} is not an object with a `prompt` or `messages`")
    return row


def _whole_file(path: Path) -> str:
    """The way out for a file that holds one JSON value, or objects over several lines."""
    first = next((line for line in source.lines(path) if line.strip()), "")
    if first.lstrip().startswith("["):
        return f"; '{path}' holds a list: name it .json, or write one object a line"
    return f"; write each object in one line (`jq -c . {path.name}` does so)"


def _json(path: Path, infinite: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a list; a single object is a list of one."""
    try:
        entries = source.parse(source.text(path), infinite)
    except (ValueError, RecursionError) as error:
        raise BadTable(
            f"'{path}' is not JSON: {error}; name a file with one object a line .jsonl"
        ) from error
    if not isinstance(entries, list):
        raise BadTable(f"'{path}' must hold a list of objects with a `prompt` or `messages`")
    for number, entry in enumerate(entries, start=1):
        place = f"'{path}' entry {number}"
        if not isinstance(entry, dict):
            raise BadTable(f"{place} is not an object with a `prompt` or `messages`")
        yield place, entry


def _parquet(path: Path, _: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    # The file may be an outcome table: its columns about experts are not part of the queries.
    parts = parquet.parts(path, lambda column: "::" not in column)
    rows = (row for frame in parts for row in frame.iter_rows(named=True))
    for number, row in enumerate(rows, start=1):
        yield f"'{path}' row {number}", row


def _csv(path: Path, _: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a CSV file; empty cells are None, and empty lines are skipped."""
    csv.field_size_limit(1 << 24)
    text = source.text(path)
    with io.StringIO(text, newline="") as file:
        reader = csv.DictReader(file, delimiter=source.SEPARATORS[endings.ending(path)])
        try:
            names = list(reader.fieldnames or ())
            source.check_separator(text.partition("\n")[0], names, path)
            if twice := [name for n, name in enumerate(names) if name and name in names[:n]]:
                raise BadTable(f"'{path}' has two columns called '{twice[0][:60]}'")
            for row in reader:
                place = f"'{path}' line {reader.line_num}"
                if None in row:
                    raise BadTable(
                        f"{place} has more cells than the first line has names: put a cell"
                        " with a comma in double quotes, and write decimals with a point"
                    )
                if any(row.values()):
                    yield place, {key: value or None for key, value in row.items()}
        except csv.Error as error:
            raise BadTable(f"'{path}' line {reader.line_num} is not CSV: {error}") from error


READERS = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".ndjson": _jsonl,
}


# --- items ---------------------------------------------------------------------------------


def _items(
    path: Path, split: str, data_class: DataClass, *, to_ask: bool
) -> Iterator[tuple[str, Item]]:
    """Each item with its place; with `to_ask`, every item must have a text."""
    convert = {".csv": _from_csv, ".tsv": _from_csv, ".parquet": _from_table}.get(
        endings.ending(path)
    )
    for place, cells in lines(path):
        if convert is not None:
            cells = {key: convert(key, value, place) for key, value in cells.items()}
        cells = rows.renamed(cells, {**rows.ALIASES, "reference": REFERENCES})
        item = _item(cells, place, split, data_class)
        if to_ask:
            _check_text(cells, item.query, place)
        yield place, item


def _item(cells: Mapping[str, Any], place: str, split: str, data_class: DataClass) -> Item:
    used = {*rows.COLUMNS, "reference", "split", "grader"}
    if isinstance(cells.get("options"), list):
        used.remove("options")
    return Item(
        query=rows.query(cells, place, data_class),
        reference=cells.get("reference"),
        split=rows.text(cells.get("split") or split),
        grader=cells.get("grader"),
        facts={key: value for key, value in cells.items() if key not in used and value is not None},
    )


def _check_text(cells: Mapping[str, Any], query: Query, place: str) -> None:
    """Raises BadTable for a row without a text to ask."""
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
    """The value of a cell; tables store lists and objects as JSON."""
    if key not in (*LISTS, *OBJECTS) or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadTable(f"{place}: `{key}` is not JSON: {error}") from error
