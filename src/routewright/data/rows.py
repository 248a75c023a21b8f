"""Converts queries to rows and rows to queries, in the same way for every file.

Outcome tables, query sets, interviews and the gateway's feedback share the columns of a query.
`row` writes them and `query` reads them; a query that is written is read back unchanged.

>>> query({"question": "2 + 2?", "subject": "sums", "tags": "easy; short"}, "'q.csv' line 2").tags
('easy', 'short')
>>> row(Query.of("2 + 2?", id="a"))["prompt"]
'2 + 2?'
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from routewright.data.unicode import nfkc
from routewright.errors import BadTable, DataWarning
from routewright.types import DATA_CLASSES, DataClass, Message, Query, content_text

COLUMNS = ("id", "prompt", "messages", "domain", "tags", "data_class", "region", "options")
ALIASES = {  # our columns ▶ their names in other tools; the first one present is used
    "id": ("query_id", "question_id", "task_id"),
    "prompt": ("query", "question", "input", "text"),
    "domain": ("task", "subject", "category"),
}
ANSWERS = (
    "answer",
    "response",
    "text",
)  # columns of the answer in a long table
NESTED = ("messages", "options")  # stored as JSON in a table
FORMS = {
    "messages": 'a list such as [{"role": "user", "content": "…"}]',
    "tags": 'a list such as ["easy", "short"], or texts between semicolons',
    "options": 'an object, such as {"temperature": 0}',
}


def query(row: Mapping[str, Any], place: str, data_class: DataClass = "public") -> Query:
    """The query of a row; `place`, such as `'q.csv' line 2`, is named in errors.

    A row that states no data class has the given one.

    Lists and objects may be JSON, tags may be a text with semicolons. Without an `id` the id is a
    hash of the messages. A row with an `id` but without a text gives a query with an empty text,
    because some outcome tables have no prompts. Raises BadTable for a cell that cannot be read.
    """
    cells = renamed(row)
    if cells.get("id") is None and not has_words(cells):
        raise no_words(cells, place)
    messages = _messages(cells, place)
    id = _name(cells, "id", place)
    return Query(
        messages=messages,
        id=name(messages) if id is None else id,
        domain=_name(cells, "domain", place),
        tags=_tags(cells.get("tags"), place),
        data_class=_data_class(cells.get("data_class"), place, data_class),
        region=_name(cells, "region", place),
        options=_options(cells.get("options"), place),
    )


def row(query: Query, data_class: DataClass = "public") -> dict[str, Any]:
    """The columns of a query as JSON values; None if a column is empty.

    A single user message with text is the `prompt`; anything else, a blank text included, is
    `messages`. `data_class` is that of rows without one where the row will be read: if it is not
    public, a public query says so.
    """
    text = query.text
    single = [dict(message) for message in query.messages] == [{"role": "user", "content": text}]
    plain = single and bool(text.strip())
    return {
        "id": whole(query.id),
        "prompt": text if plain else None,
        "messages": None if plain else [dict(message) for message in query.messages],
        "domain": None if query.domain is None else whole(query.domain),
        "tags": [whole(tag) for tag in query.tags] or None,
        "data_class": None if query.data_class == data_class == "public" else query.data_class,
        "region": None if query.region is None else whole(query.region),
        "options": dict(query.options) or None,
    }


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with messages and objects as JSON, as a table stores it."""
    return {
        column: dumps(value) if column in NESTED and value is not None else value
        for column, value in row.items()
    }


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without the answers and figures of experts."""
    long = ("expert" in row or "model" in row) and "score" in row
    answers = ANSWERS if long else ()
    return {key: cell for key, cell in row.items() if "::" not in key and key not in answers}


def renamed(
    row: Mapping[str, Any], aliases: Mapping[str, Sequence[str]] = ALIASES
) -> dict[str, Any]:
    """The columns of the query, under our names."""
    cells = asked(row)
    for column, others in aliases.items():
        other = next((name for name in others if cells.get(name) is not None), None)
        spare = column == "prompt" and cells.get("messages")
        if other is not None and cells.get(column) is None and not spare:
            cells[column] = cells.pop(other)
    return cells


def has_words(cells: Mapping[str, Any]) -> bool:
    """Whether a renamed row has messages or a prompt that is not blank."""
    prompt = cells.get("prompt")
    return cells.get("messages") is not None or (not _missing(prompt) and bool(str(prompt).strip()))


def no_words(cells: Mapping[str, Any], place: str) -> BadTable:
    if column := next((name for name in ("prompt", "messages") if name in cells), None):
        blank = "null" if _missing(cells[column]) else "blank"
        return BadTable(
            f"{place} has neither `prompt` nor `messages`: `{column}` is {blank}; write a text or"
            f" drop the row (it has {', '.join(list(cells)[:8])})"
        )
    columns = ", ".join(list(cells)[:8]) or "nothing"
    return BadTable(
        f"{place} has neither `prompt` nor `messages`; it has {columns}: name the column of the"
        " question `prompt`, and that of the right answer `reference`"
    )


def must_be(column: str, place: str) -> BadTable:
    return BadTable(f"{place}: `{column}` must be {FORMS[column]}")


def check_distinct(queries: Iterable[tuple[str, Query]]) -> None:
    """Raises BadTable if two rows, each given with its place, have the same id.

    It offers `--drop-duplicates` if all such rows ask the same.
    """
    firsts: dict[str, tuple[str, Query]] = {}
    repeats: list[tuple[str, Query]] = []
    for place, query in queries:
        if query.id in firsts:
            repeats.append((place, query))
        else:
            firsts[query.id] = place, query
    for place, query in repeats:
        if not is_same(row(firsts[query.id][1]), row(query)):
            raise BadTable(
                f"{place} and {firsts[query.id][0]} are both called '{query.id}': keep one of them,"
                " or give each an `id` of its own, as they ask different things"
            )
    if repeats:
        place, query = repeats[0]
        unnamed = query.id == name(query.messages)
        same = f"they ask the same ({query.text[:60]!r}), so keep one, "
        advice = f"{same}give each an `id`" if unnamed else "keep one of them"
        number = f" ({len(repeats)} such rows)" if len(repeats) > 1 else ""
        raise BadTable(
            f"{place} and {firsts[query.id][0]} are both called '{query.id}': {advice},"
            f" or use --drop-duplicates{number}"
        )


def distinct(queries: Sequence[Query]) -> tuple[list[int], list[Query]]:
    """The positions of the first query of each id, and these queries.

    A query is as secret as the strictest of those that repeat it. Queries of one id that ask
    different things are not duplicates: all are returned, for `check_distinct`. Raises BadTable if
    they are bound to different regions.
    """
    positions: dict[str, list[int]] = {}
    extra: list[int] = []
    for n, query in enumerate(queries):
        before = positions.setdefault(query.id, [])
        if before and not is_same(row(queries[before[0]]), row(query)):
            extra.append(n)
        else:
            before.append(n)
    firsts = {group[0]: as_secret_as(*(queries[n] for n in group)) for group in positions.values()}
    firsts |= {n: queries[n] for n in extra}
    return sorted(firsts), [firsts[n] for n in sorted(firsts)]


def tell_dropped(number: int, source: str) -> None:
    """Warns that so many rows of the `source` repeat a question and are dropped."""
    if number:
        rows = (
            "1 row repeats another and is"
            if number == 1
            else f"{number} rows repeat others and are"
        )
        warnings.warn(f"{source}: {rows} dropped", DataWarning, stacklevel=3)


def as_secret_as(first: Query, *others: Query) -> Query:
    """The first query with the strictest class of all, and with the region of those that have one.

    Raises BadTable if they are bound to different regions.
    """
    queries = (first, *others)
    return replace(
        first,
        data_class=max((query.data_class for query in queries), key=DATA_CLASSES.index),
        region=one_region(first.id, (query.region for query in queries)),
    )


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows of the same id, with our names, can be rows of one question.

    Rows that both have a `stem_sha` are of one question if these are equal, whatever template their
    texts went through. Otherwise the texts must be equal but for case, character width and
    spacing. A row that has neither can be of any question.
    """
    stems = one.get("stem_sha"), other.get("stem_sha")
    if None not in stems:
        return str(stems[0]) == str(stems[1])
    texts = _question(one), _question(other)
    return None in texts or texts[0] == texts[1]


def check_one_question(lines: Iterable[Mapping[str, Any]], source: str) -> None:
    """Raises BadTable, which names the `source`, if two rows of one id are of other questions."""
    questions: dict[str, list[Mapping[str, Any]]] = {}
    clashes = []
    for cells in lines:
        others = questions.setdefault(cells["id"], [])
        clashes += [(other, cells) for other in others if not is_same(other, cells)][:1]
        if len(others) < 3:  # one may have a text, another a `stem_sha`
            others.append(cells)
    if clashes:
        one, other = (_excerpt(cells) for cells in clashes[0])
        raise BadTable(
            f"{source} has other prompts under the same id '{clashes[0][0]['id']}':"
            f" {one} and {other} ({len(clashes)} such rows); give every question an id of its own"
        )


def _question(cells: Mapping[str, Any]) -> str | None:
    """What a row asks, without case, character width and spacing; None if it has no words."""
    messages = cells.get("messages") or None
    if isinstance(messages, str):
        messages = _json("messages", messages, f"row '{cells.get('id')}'")
    if messages is None and not has_words(cells):
        return None
    if messages is None:
        messages = [{"role": "user", "content": text(cells["prompt"])}]
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        return None
    texts = " ".join(nfkc("\n".join(map(content_text, messages))).casefold().split())
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    others = [part for part in parts if "text" not in part]  # images and the like
    return texts + (json.dumps(others, sort_keys=True) if others else "")


def _excerpt(cells: Mapping[str, Any]) -> str:
    question = cells.get("prompt") or cells.get("messages") or ""
    shown = question if isinstance(question, str) else dumps(question)
    return repr(shown if len(shown) <= 60 else shown[:59] + "…")


def one_region(id: str, regions: Iterable[str | None]) -> str | None:
    """The region that a query is bound to by several rows; raises BadTable if they disagree."""
    names = sorted({region for region in regions if region is not None})
    if len(names) > 1:
        raise BadTable(
            f"the rows of query '{id}' are bound to regions {' and '.join(names)}: keep one of them"
        )
    return next(iter(names), None)


def name(messages: Sequence[Message]) -> str:
    """An id from a hash of the messages: the same in every file and on every run."""
    text = json.dumps([dict(message) for message in messages], sort_keys=True)
    return f"q-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def text(value: Any) -> str:
    """A cell as text: 7 and 7.0 are both '7'."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(value)


def whole(text: str) -> str:
    """The text with every lone surrogate replaced, as UTF-8 cannot encode it."""
    return text.encode("utf-8", "replace").decode()


def dumps(value: Any) -> str:
    """JSON that UTF-8 can encode: it is escaped to ASCII only if it has a lone surrogate."""
    encoded = json.dumps(value, ensure_ascii=False)
    return encoded if whole(encoded) == encoded else json.dumps(value)


# --- cells ---------------------------------------------------------------------------------


def _messages(cells: Mapping[str, Any], place: str) -> tuple[Message, ...]:
    messages = cells.get("messages")
    if messages is None or (not messages and cells.get("prompt") is not None):
        return ({"role": "user", "content": _text(cells, "prompt", place) or ""},)
    if isinstance(messages, str):
        messages = _json("messages", messages, place)
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise must_be("messages", place)
    return tuple(messages)


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or "role" not in value:
        return False
    content = value.get("content")
    parts = isinstance(content, list) and all(isinstance(part, Mapping) for part in content)
    return parts or isinstance(content, str | None)


def _tags(value: Any, place: str) -> tuple[str, ...]:
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return tuple(tag for part in value.split(";") if (tag := whole(part.strip())))
        value = _json("tags", value, place)
    tags = () if value is None else value
    if not isinstance(tags, list | tuple) or any(isinstance(tag, list | dict) for tag in tags):
        raise must_be("tags", place)
    return tuple(whole(text(tag)) for tag in tags if tag is not None)


def _options(value: Any, place: str) -> Mapping[str, Any]:
    if isinstance(value, str) and value:
        value = _json("options", value, place)
    if not value or isinstance(value, list):  # a list is the options of a question
        return {}
    if not isinstance(value, Mapping):
        raise must_be("options", place)
    return dict(value)


def _data_class(value: Any, place: str, default: DataClass) -> DataClass:
    if value is None or value == "":
        return default
    for data_class in DATA_CLASSES:
        if value == data_class:
            return data_class
    choices = ", ".join(DATA_CLASSES)
    raise BadTable(f"{place}: data class '{str(value)[:60]}' is unknown: choose {choices}")


def _name(cells: Mapping[str, Any], column: str, place: str) -> str | None:
    value = _text(cells, column, place)
    return None if value is None else whole(value)


def _text(cells: Mapping[str, Any], column: str, place: str) -> str | None:
    value = cells.get(column)
    if _missing(value):
        return None
    if isinstance(value, list | tuple | Mapping):
        raise BadTable(f"{place}: `{column}` must be text, not {str(value)[:60]}")
    return str(value).lower() if isinstance(value, bool) else text(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _json(column: str, cell: str, place: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise BadTable(
            f"{place}: `{column}` is not JSON ({error}): write {FORMS[column]}"
        ) from error
