"""Any file with a row per query and model: `--column` names the columns, with dots in objects.

`--column prompt=vars.question` reads `{"vars": {"question": "…"}}`; a number is a place in a list,
`scores[name=accuracy].value` the entry of a list with that name, and `a,b` the first that is there.
`--rows results.results` names the list of rows in a JSON document. JSON within a cell is read, too.
A score may be a number, a truth, `pass` or `fail`; `--scale 1..10` names the worst and the best.
A latency whose column is named as one in milliseconds (`latencyMs`, `took_ms`) becomes seconds.
Without an `id` it is a hash of the words; without a model, `--model` or the file's name is it.
Several rows of one query and model are runs of it, and their scores are averaged.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import endings, rows, source
from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import Cell, averaged, long, wide
from routewright.data.outcomes import ROUNDING, first_rows
from routewright.errors import BadInput, BadTable, DataWarning

OPTIONS = ("drop_duplicates", "columns", "scale", "records")
WORDS = ("prompt", "messages")
NUMBERS = ("score", "cost", "latency", "in_tokens", "out_tokens")
COLUMNS = ("id", *WORDS, "domain", "split", "group", "model", "answer", *NUMBERS)
TRUTHS = {
    **dict.fromkeys(("true", "pass", "passed", "yes", "correct"), 1.0),
    **dict.fromkeys(("false", "fail", "failed", "no", "incorrect"), 0.0),
}
MILLISECONDS = re.compile(
    r"(?:(?<=[a-z0-9])M[sS]|(?:^|[^A-Za-z])ms\W?|[Ll]atencyms|[Mm]illi(?:s|seconds))$"
)
DEEPEST, MOST = 4, 12  # levels of a document that are searched for rows, and names in a message


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """The table that the named columns make. Raises BadInput for a column that does not exist."""
    _check(options.columns)
    entries = list(_rows(path, options.records))
    cells = [{c: pick(row, p) for c, p in options.columns.items()} for _, row in entries]
    _check_found(options.columns, cells, entries, path)
    table = long(
        [
            _cell(row, options.scale, path, place, _per_second(entry, options.columns))
            for (place, entry), row in zip(entries, cells, strict=True)
        ]
    )
    if options.drop_duplicates:
        table = first_rows(table, path, drop_duplicates=True)
    runs = averaged(table)
    if len(runs) < len(table):
        warnings.warn(
            f"'{path}': {len(table) - len(runs)} rows repeat a query and a model; their numbers"
            " are averaged (--drop-duplicates: the first counts)",
            DataWarning,
            stacklevel=2,
        )
    return wide(runs, path)


def pick(value: Any, path: str) -> Any:
    """What lies at a path in nested objects and lists; None if nothing does.

    >>> pick({"scores": [{"name": "f1", "value": 0.5}]}, "scores[name=f1].value")
    0.5
    >>> pick({"a": {"b.c": [1, 2]}}, "x,a.b.c.1")
    2
    """
    found = (_walk(value, part.strip()) for part in path.split(","))
    return next((one for one in found if one is not None and one != ""), None)


def _per_second(row: Mapping[str, Any], columns: Mapping[str, str]) -> float:
    """1000 if the latency's column is named as one in milliseconds (`latencyMs`), else 1."""
    parts = [part.strip() for part in columns.get("latency", "").split(",")]
    there = next((part for part in parts if pick(row, part) is not None), "")
    return 1000.0 if MILLISECONDS.search(there) else 1.0


def _walk(value: Any, path: str) -> Any:
    if not path:
        return value
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = source.parse(value, infinite=True)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, Mapping):
        return _member(value, path)
    if not isinstance(value, list):
        return None
    if path.startswith("["):
        condition, _, rest = path[1:].partition("]")
        name, _, text = condition.partition("=")
        matches = (one for one in value if rows.text(_walk(one, name)) == text)
        return _walk(next(matches, None), rest.removeprefix("."))
    place, _, rest = path.partition(".")
    try:
        return _walk(value[int(place)], rest)
    except (ValueError, IndexError):
        return None


def _member(value: Mapping[str, Any], path: str) -> Any:
    """The member of an object, whose names may have dots."""
    if path in value:
        return value[path]
    for end in (n for n, letter in enumerate(path) if letter in ".["):
        if path[:end] in value:
            found = _walk(value[path[:end]], path[end:].removeprefix("."))
            if found is not None:
                return found
    return None


def _check(columns: Mapping[str, str]) -> None:
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise BadInput(f"--column {unknown[0]}=…: our columns are {', '.join(COLUMNS)}")
    if not {"score", "prompt", "messages"} & set(columns):
        raise BadInput("'generic' needs the columns: --column prompt=… and --column score=…")


def _rows(path: Path, records: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, or of a list in a JSON document."""
    if endings.ending(path) != ".json":
        if records is not None:
            raise BadInput(f"--rows names a list in a JSON document, and '{path}' is none")
        yield from _files.records(path)
        return
    document = _files.json(path)
    lists = dict(_lists(document, ""))
    if records is None and not isinstance(document, list):
        records = next(iter(lists)) if len(lists) == 1 else None
    found = document if records is None else pick(document, records)
    if not isinstance(found, list):
        names = ", ".join(f"{name} ({size})" for name, size in list(lists.items())[:MOST])
        wrong = "no list of rows" if records is None else f"no list '{records}'"
        raise BadInput(f"'{path}' is {wrong}: name one with --rows, of {names or 'none'}")
    for number, row in enumerate(found, start=1):
        place = f"'{path}' row {number}"
        yield place, _files.record(row, (), place)


def _lists(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, int]]:
    """The lists of objects in a document, with their sizes."""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        yield name, len(value)
    elif isinstance(value, Mapping) and depth < DEEPEST:
        for key, part in value.items():
            yield from _lists(part, f"{name}.{key}".removeprefix("."), depth + 1)


def _check_found(
    columns: Mapping[str, str],
    cells: list[dict[str, Any]],
    entries: list[tuple[str, dict[str, Any]]],
    path: Path,
) -> None:
    """Says which columns no row has. Raises BadInput if neither a score nor a text is left."""
    absent = [name for name in columns if all(row[name] is None for row in cells)]
    if not absent or not cells:
        return
    there = list(dict.fromkeys(name for _, row in entries[:20] for name in _names(row)))
    names = ", ".join(there[:MOST]) + (", …" if len(there) > MOST else "")
    missing = ", ".join(f"{columns[name]} (for {name})" for name in absent)
    sentence = f"'{path}' has no {missing}; it has {names}"
    if not {"score", *WORDS} & (set(columns) - set(absent)):
        raise BadInput(sentence)
    warnings.warn(sentence, DataWarning, stacklevel=3)


def _names(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping) and value and depth < DEEPEST:
            yield from _names(value, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}"


def _cell(
    row: Mapping[str, Any],
    scale: tuple[float, float] | None,
    path: Path,
    place: str,
    per_second: float,
) -> Cell:
    prompt, messages = _words(row, place)
    numbers = {
        name: _files.number(_number(row[name]), f"{place}: {name}")
        for name in NUMBERS
        if name in row
    }
    score, latency = _scaled(numbers.get("score"), scale, place), numbers.get("latency")
    expert = _files.cell(row.get("model")) or endings.stem(path)
    has_answer = bool({"score", "answer"} & {name for name in row if row[name] is not None})
    id = _files.cell(row.get("id"))
    if id is None and prompt is None and messages is None:
        raise BadTable(f"{place} has neither an id nor a prompt: name --column prompt=… or id=…")
    return Cell(
        id=id or rows.query({"prompt": prompt, "messages": messages}, place).id,
        expert=expert if has_answer else "",
        prompt=prompt or "",
        messages=messages,
        domain=row.get("domain"),
        split=row.get("split"),
        group=row.get("group"),
        score=float("nan") if score is None else score,
        cost=float("nan") if numbers.get("cost") is None else float(numbers["cost"] or 0.0),
        answer=row.get("answer"),
        latency=None if latency is None else latency / per_second,
        in_tokens=numbers.get("in_tokens"),
        out_tokens=numbers.get("out_tokens"),
    )


def _words(row: Mapping[str, Any], place: str) -> tuple[str | None, str | None]:
    """The prompt, or the messages (JSON): either may be a text, a list, or hold `messages`."""
    for name in WORDS[::-1]:
        value = row.get(name)
        if isinstance(value, str) and value.lstrip()[:2] in ("[{", '{"'):
            value = _walk(value, "messages") or _parsed(value)
        if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
            value = value["messages"]
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            return None, rows.dumps(rows.query({"messages": value}, place).messages)
        if value is not None:
            return _files.cell(value), None
    return None, None


def _parsed(text: str) -> Any:
    """The chat in a text; the text itself if it is none."""
    try:
        value = source.parse(text, infinite=True)
    except (ValueError, RecursionError):
        return text
    is_chat = isinstance(value, list) and all(isinstance(v, Mapping) and "role" in v for v in value)
    return value if is_chat else text


def _number(value: Any) -> Any:
    """A number, `pass` or `fail`, or the mean of a list of such values."""
    if isinstance(value, str):
        return TRUTHS.get(value.strip().lower(), value)
    if isinstance(value, list) and value:
        parts = [_number(one) for one in value]
        if all(isinstance(part, bool | int | float) for part in parts):
            return sum(parts) / len(parts)
    return value


def _scaled(score: float | None, scale: tuple[float, float] | None, place: str) -> float | None:
    """A score on the user's scale as one in 0..1."""
    if score is None:
        return None
    worst, best = scale or (0.0, 1.0)
    share = (score - worst) / (best - worst)
    if not -ROUNDING <= share <= 1 + ROUNDING:
        advice = "" if scale else ": name its scale, as in --scale 1..10"
        raise BadTable(f"{place}: score is {score:g} and must be in {worst:g}..{best:g}{advice}")
    return share
