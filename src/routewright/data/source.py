"""Reads the text of files with rows, and tells files that are something else."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import sys
import zlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from routewright import files
from routewright.data import endings, parquet, rows
from routewright.errors import BadTable, needs

SEPARATORS = {".csv": ",", ".tsv": "\t"}
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
OTHER_KINDS = {".yaml": "a config", ".yml": "a config", ".safetensors": "a part of a router"}
COLUMNS = (*rows.COLUMNS, "split", "reference", "grader", "stem_sha", "group")
MEASURES = ("score", "cost", "answer", "verify", "reward", "latency", "out_tokens")


def text(path: Path) -> str:
    """The text of a file as `content` reads it. Raises BadTable also if it is not UTF-8."""
    return _decoded(content(path), path)


def content(path: Path) -> bytes:
    """The bytes of a file, which may be compressed with gzip or Zstandard.

    Raises BadTable if it is too large for this machine, and MissingExtra for Zstandard without the
    packages that read it.
    """
    parquet.check_regular(path)
    most = files.memory() // 4
    opened, errors = _opener(path)
    try:
        with opened(path, "rb") as file:
            data: bytes = file.read(most + 1)
    except errors as error:
        raise BadTable(f"'{path}' is damaged: {error}") from error
    except OSError as error:
        raise BadTable(f"'{path}' cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise BadTable(f"'{path}' holds more than {most >> 30} GiB of text, too much")
    return data


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time, so that the file may be larger than memory.

    Raises BadTable as `text` does, at the line.
    """
    parquet.check_regular(path)
    most = files.memory() // 4
    opened, errors = _opener(path)
    try:
        with opened(path, "rb") as file, io.TextIOWrapper(file, encoding="utf-8-sig") as reader:
            for line in iter(partial(reader.readline, most), ""):
                if len(line) == most:
                    raise BadTable(f"'{path}' has a line of more than {most >> 30} GiB, too much")
                if "\0" in line:
                    text(path)  # raises if it is UTF-16
                yield line
    except UnicodeDecodeError:
        text(path)  # raises, and names the line
        raise
    except errors as error:
        raise BadTable(f"'{path}' is damaged: {error}") from error
    except OSError as error:
        raise BadTable(f"'{path}' cannot be read: {error.strerror}") from error


def _opener(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """The function that opens a file by its first bytes, and its errors for a damaged one."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise BadTable(f"'{path}' cannot be read: {error.strerror}") from error
    if start[:2] == b"\x1f\x8b":
        return gzip.open, (zlib.error, EOFError, gzip.BadGzipFile)
    if start == b"\x28\xb5\x2f\xfd":
        zstd = zstandard(path)
        return zstd.open, (zstd.ZstdError, EOFError)
    return open, (EOFError,)


def zstandard(path: Path) -> Any:
    """The module that reads Zstandard: Python has one from 3.14 on. Raises MissingExtra."""
    with needs(f"'{path}', which is compressed with Zstandard,"):
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    return zstd


def _decoded(content: bytes, path: Path) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or has_zeros(content):
        raise BadTable(f"'{path}' is UTF-16 text: save it as UTF-8 ({_rewrite(path, 'utf-16')})")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start : error.start + 1]
        shown = byte.decode("cp1252", "replace")
        raise BadTable(
            f"'{path}' line {line} is not UTF-8 text: byte 0x{byte.hex()} is '{shown}' in cp1252;"
            f" save the file as UTF-8 ({_rewrite(path, 'cp1252')})"
            f"{_other_separator(content, path)}"
        ) from error


def has_zeros(content: bytes) -> bool:
    """Whether many of the first bytes are zero, as in UTF-16."""
    start = content[:2000]
    return start.count(0) > len(start) / 4


def _rewrite(path: Path, encoding: str) -> str:
    """The command that rewrites a file in another encoding."""
    if endings.ending(path) in SEPARATORS:
        return rewriting(path)
    return f"`iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > FILE` does so"


def rewriting(path: Path) -> str:
    """The command that rewrites a spreadsheet's CSV; see `spreadsheet`.

    >>> rewriting(Path("my data.csv"))
    "`routewright convert csv 'my data.csv' --out 'my data-utf8.csv'` does so"
    """
    out = path.with_name(f"{endings.stem(path)}-utf8.csv")
    names = " --out ".join(shlex.quote(str(file)) for file in (path, out))
    return f"`routewright convert csv {names}` does so"


def _other_separator(content: bytes, path: Path) -> str:
    """The second fault of a CSV file that is not UTF-8, so that both are told at once."""
    own = SEPARATORS.get(endings.ending(path))
    header = content.split(b"\n", 1)[0].decode("cp1252", "replace")
    if own is None or header.count(";") <= header.count(own):
        return ""
    return f"; its columns are separated by semicolons, too, and must be by {NAMES[own]}"


def parse(text: str | bytes, infinite: bool = False) -> Any:
    """A JSON value; NaN is null, as a table stores it. Raises ValueError, also for an infinite
    number unless these are allowed."""
    return json.loads(text, parse_constant=_infinite if infinite else _finite)


def _finite(word: str) -> None:
    if word != "NaN":
        raise ValueError(f"{word} is not a number that a table can hold: write null")


def _infinite(word: str) -> float | None:
    return None if word == "NaN" else float(word)


def check_separator(header: str, names: list[str], path: Path) -> None:
    """Raises BadTable if the names of a CSV file's columns are separated by something else."""
    mine = SEPARATORS[endings.ending(path)]
    if len(names) > 1 and {"prompt", "messages"} & {name.strip().lower() for name in names}:
        return
    others = [mark for mark in NAMES if mark != mine and header.count(mark) > header.count(mine)]
    if others:
        mark = max(others, key=header.count)
        advice = "name it .tsv" if mark == "\t" else "name it .csv" if mark == "," else ""
        how = f" ({rewriting(path)})"
        raise BadTable(
            f"'{path}' separates its columns by {NAMES[mark]} ({header[:60].strip()!r}):"
            f" {advice or f'save it with {NAMES[mine]}, and decimals with a point{how}'}"
        )


def check_columns(names: Any, place: str) -> None:
    """Raises BadTable for a column of ours in other letters, such as `Prompt`."""
    for name in names:
        own = _own_name(name)
        if own is not None and own not in names:
            raise BadTable(f"{place} has a column '{name[:60]}': write it `{own[:60]}`")


@cache
def _own_name(name: str) -> str | None:
    """Our name of a column, if the given one differs from it in case or spaces only."""
    first, colons, expert = name.partition("::")
    plain = first.strip().lower().replace(" ", "_").replace("-", "_")
    if colons:
        return f"{plain}::{expert}" if plain in MEASURES and plain != first else None
    return plain if plain in COLUMNS and plain != name else None


def not_a_table(path: Path, what: str, others: tuple[str, ...]) -> BadTable | None:
    """The error for a config or a router in the place of a table; None for other files."""
    kind = OTHER_KINDS.get(endings.ending(path))
    if path.is_dir() and (path / "router.json").exists():
        kind = "a router"
    if kind is None:
        return None
    return BadTable(
        f"'{path}' is {kind}, and {what} is needed here (it ends in {', '.join(others)}):"
        " check the order of the arguments"
    )
