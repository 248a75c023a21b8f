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

from routewright.errors import BadInput
from routewright.types import DATA_CLASSES, Json, Query

ALIASES = {  # our columns ▶ what other tools call them, the first one that is there counts
    "id": ("query_id", "question_id", "task_id"),
    "prompt": ("query", "question", "input", "text"),
    "domain": ("task", "subject", "category"),
    "reference": ("references", "target", "answer", "expected", "gold"),
}
QUERY = ("id", "prompt", "messages", "domain", "tags", "data_class", "region", "options")
LISTS = ("tags", "choices", "tests", "references")  # in CSV: JSON, or parts between semicolons
FACTS = ("choices", "tests", "setup", "schema", "rubric")  # what our graders may need to know
OBJECTS = ("messages", "options", "schema")  # in CSV: JSON


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
        return tuple(_text(one) for one in known if one is not None)


def read(path: Path, *, split: str = "train") -> list[Item]:
    """The items of a file; `split` is for those that name none.

    An item needs a `prompt` or `messages`; without an `id` it is named after its words. Raises
    BadInput, which names the line.
    """
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    for place, row in _rows(path):
        item = _item(row, place, split)
        if item.query.id in items:
            was = places[item.query.id]
            advice = "keep one of them" if row.get("id") is not None else "give them an `id`"
            raise BadInput(f"{place} and {was} are both called '{item.query.id}': {advice}")
        items[item.query.id], places[item.query.id] = item, place
    if not items:
        raise BadInput(f"'{path}' has no queries")
    return list(items.values())


def write(items: Iterable[Item], path: Path) -> None:
    """JSONL that `read` takes back."""
    lines = [json.dumps(_row(item), ensure_ascii=False) for item in items]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _row(item: Item) -> dict[str, Any]:
    query = item.query
    row: dict[str, Any] = {"id": query.id, "domain": query.domain, "tags": list(query.tags)}
    plain = len(query.messages) == 1 and query.messages[0] == {
        "role": "user",
        "content": query.text,
    }
    row |= {"prompt": query.text} if plain else {"messages": list(query.messages)}
    row |= {"reference": item.reference, "split": item.split, "grader": item.grader}
    row |= {"region": query.region, "options": dict(query.options)}
    row |= {"data_class": query.data_class if query.data_class != "public" else None}
    return {
        key: value for key, value in {**row, **item.facts}.items() if value not in (None, [], {})
    }


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


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place, as in `'q.jsonl' line 3`."""
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".csv": _csv}
    if path.suffix not in readers:
        raise BadInput(f"'{path}' must end in .jsonl, .parquet or .csv")
    if not path.is_file():
        raise BadInput(f"no file '{path}'")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise BadInput(f"'{path}' is not a text in UTF-8: {error}") from error
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read: {error.strerror}") from error


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"'{path}' line {number}"
            if line.strip():
                yield place, _object(line, place)


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"'{path}' is not a Parquet file: {str(error).splitlines()[0]}") from error
    # An outcome table may be asked again: what others said to its queries is left out.
    frame = frame.select(column for column in frame.columns if "::" not in column)
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        place = f"'{path}' row {number}"
        yield place, {key: parsed(key, value, place) for key, value in row.items()}


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                place = f"'{path}' line {rows.line_num}"
                if None in row:
                    raise BadInput(f"{place} has more cells than the first line has names")
                known = {key: value for key, value in row.items() if value}
                yield place, {key: _cell(key, value, place) for key, value in known.items()}
        except csv.Error as error:
            raise BadInput(f"'{path}' line {rows.line_num} is not CSV: {error}") from error


def _cell(key: str, value: str, place: str) -> Any:
    if key in LISTS and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(";")]
    return parsed(key, value, place)


def parsed(key: str, value: Any, place: str) -> Any:
    """Tables keep lists and objects as JSON."""
    if key not in (*LISTS, *OBJECTS) or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadInput(f"{place}: `{key}` is not JSON: {error}") from error


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadInput(f"{place} is not an object with a `prompt` or `messages`")
    return row


# --- rows ----------------------------------------------------------------------------------


def _item(row: Mapping[str, Any], place: str, split: str) -> Item:
    row = _renamed(row)
    messages = _messages(row, place)
    data_class = row.get("data_class") or "public"
    if data_class not in DATA_CLASSES:
        raise BadInput(
            f"{place}: data class '{data_class}' is unknown: choose {', '.join(DATA_CLASSES)}"
        )
    tags = row.get("tags") or ()
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise BadInput(f"{place}: `tags` must be a list of texts")
    options = row.get("options") or {}
    if not isinstance(options, Mapping):
        raise BadInput(f'{place}: `options` must be an object, such as {{"temperature": 0}}')
    query = Query(
        messages=messages,
        id=_text(row["id"]) if row.get("id") is not None else name(messages),
        domain=None if row.get("domain") is None else _text(row["domain"]),
        tags=tuple(map(_text, tags)),
        data_class=data_class,
        region=row.get("region"),
        options=options,
    )
    used = {*QUERY, "reference", "split", "grader"}
    return Item(
        query=query,
        reference=row.get("reference"),
        split=_text(row.get("split") or split),
        grader=row.get("grader"),
        facts={key: value for key, value in row.items() if key not in used and value is not None},
    )


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    for ours, theirs in ALIASES.items():
        other = next((name for name in theirs if found.get(name) is not None), None)
        wanted = not (ours == "prompt" and found.get("messages"))
        if found.get(ours) is None and other is not None and wanted:
            found[ours] = found.pop(other)
    return found


def _messages(row: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], ...]:
    messages = row.get("messages")
    if messages is None:
        prompt = row.get("prompt")
        if prompt is None or not _text(prompt).strip():
            known = ", ".join(list(row)[:8]) or "nothing"
            raise BadInput(f"{place} has neither `prompt` nor `messages`; it has {known}")
        return ({"role": "user", "content": _text(prompt)},)
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise BadInput(
            f'{place}: `messages` must be a list such as [{{"role": "user", "content": "…"}}]'
        )
    return tuple(messages)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and "content" in value


def name(messages: Sequence[Mapping[str, Any]]) -> str:
    """The same words have the same name, in every file and on every run."""
    written = json.dumps(messages, sort_keys=True)
    return f"q-{hashlib.blake2b(written.encode(), digest_size=6).hexdigest()}"


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(value)
