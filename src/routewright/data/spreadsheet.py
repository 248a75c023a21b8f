"""Reads CSV as spreadsheets write it: any delimiter, any encoding, perhaps decimal commas.

Excel in German, French or Spanish writes semicolons, cp1252 and decimal commas, and its "Unicode
text" is UTF-16 with tabs. The commands read UTF-8, commas and points only, so that no number is
ever guessed; `routewright convert csv` rewrites such a file and says how it was read.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from routewright import files
from routewright.data import queries, rows, source
from routewright.errors import BadInput, BadTable

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", r"\t": "\t", "bar": "|"}
DECIMAL = re.compile(r"\s*[-+]?\d+(,\d+)?([eE][-+]?\d+)?\s*")  # 0,5 · 12 · 1,5E-05
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
TEXTS = (  # columns that are never numbers, under our names and other tools'
    *source.COLUMNS,
    *(name for names in rows.ALIASES.values() for name in names),
    *rows.ANSWERS,
    *queries.REFERENCES,
    *queries.FACTS,
)
FALLBACK = "cp1252"


@dataclass(frozen=True)
class Sheet:
    """The cells of a file, the first row with the names, and how they were read."""

    cells: Sequence[Sequence[str]]
    encoding: str
    delimiter: str
    decimals: Sequence[str]  # columns whose decimal commas became points

    def __str__(self) -> str:
        """How the file was read, without a full stop."""
        mark = source.NAMES.get(self.delimiter, repr(self.delimiter))
        commas = f", and decimal commas in {', '.join(self.decimals)}" if self.decimals else ""
        return f"{self.encoding} text, columns separated by {mark}{commas}"


def read(path: Path, delimiter: str | None = None, encoding: str | None = None) -> Sheet:
    """The cells of a CSV file. The delimiter is the commonest of comma, semicolon and tab in the
    first line; the encoding is UTF-8, UTF-16 or, where the file is neither, cp1252.

    Where columns are not separated by commas, a column of numbers may have decimal commas. Raises
    BadTable for a file that cannot be read so, and BadInput for an unknown delimiter or encoding.
    """
    text, encoding = _decoded(source.content(path), path, encoding)
    first = text.partition("\n")[0]
    mark = _mark(delimiter) if delimiter else max(",;\t", key=first.count)
    cells = _cells(text, mark, path)
    columns = [] if mark == "," else _decimal_columns(cells)
    for row in cells[1:]:
        for column in columns:
            row[column] = row[column].replace(",", ".")
    return Sheet(cells, encoding, mark, [cells[0][column] for column in columns])


def write(sheet: Sheet, path: Path) -> None:
    """Writes the cells as UTF-8 with commas, atomically. Raises BadInput."""
    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\n").writerows(sheet.cells)
    files.write(path, content.getvalue())


def _decoded(content: bytes, path: Path, encoding: str | None) -> tuple[str, str]:
    """The text, and the encoding that it has."""
    try:
        if encoding is not None:
            return content.decode(encoding).removeprefix("\ufeff"), codecs.lookup(encoding).name
        for encoding in (_by_marks(content), FALLBACK):
            try:
                return content.decode(encoding), codecs.lookup(encoding).name.removesuffix("-sig")
            except UnicodeDecodeError:
                if encoding == FALLBACK:
                    raise
    except LookupError as error:
        raise BadInput(f"no encoding is called '{encoding}': write utf-8 or cp1252") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise BadTable(
            f"'{path}' is not {encoding} text ({error}): name its --encoding, such as cp1250"
        ) from error
    raise AssertionError("the last encoding returns or raises")


def _by_marks(content: bytes) -> str:
    """The encoding by the first bytes: UTF-16 has a mark, or zeros between Latin letters."""
    marked = next((name for mark, name in BOMS.items() if content.startswith(mark)), None)
    if marked or not source.has_zeros(content):
        return marked or "utf-8"
    return "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"


def _mark(delimiter: str) -> str:
    mark = DELIMITERS.get(delimiter, delimiter)
    if len(mark) != 1 or mark in '"\r\n':
        raise BadInput(f"--delimiter '{delimiter}' is not one character: write ';' or tab")
    return mark


def _cells(text: str, mark: str, path: Path) -> list[list[str]]:
    """The rows without empty ones, each as long as the first."""
    csv.field_size_limit(1 << 24)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    cells: list[list[str]] = []
    try:
        for row in reader:
            if not any(row):
                continue
            width = len(cells[0]) if cells else len(row)
            if len(row) > width and any(row[width:]):
                raise BadTable(
                    f"'{path}' line {reader.line_num} has more cells than the first line has names"
                    f" (columns separated by {source.NAMES.get(mark, repr(mark))}): put a cell with"
                    " that mark in double quotes, or name another --delimiter"
                )
            cells.append([*row[:width], *[""] * (width - len(row))])
    except csv.Error as error:
        raise BadTable(f"'{path}' line {reader.line_num} is not CSV: {error}") from error
    if len(cells) < 2:
        raise BadTable(f"'{path}' has no rows below the names of its columns")
    if len(cells[0]) < 2 and any(other in cells[0][0] for other in ",;\t|"):
        raise BadTable(f"'{path}' has one column ({cells[0][0][:60]!r}): name another --delimiter")
    return cells


def _decimal_columns(cells: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which every cell is a number or empty, and some have a decimal comma. Texts,
    such as prompts and references, are none."""
    names, *lines = cells
    columns = []
    for column, name in enumerate(names):
        values = [row[column] for row in lines if row[column].strip()]
        is_text = name in TEXTS or name.partition("::")[0] in ("answer", "text")
        if not is_text and any("," in v for v in values) and all(map(DECIMAL.fullmatch, values)):
            columns.append(column)
    return columns
