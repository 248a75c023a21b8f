"""Reads Parquet files that may be damaged or hostile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routewright import files
from routewright.errors import BadTable, needs

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_BYTE = 8  # at most: every row has an id of its own, which takes space
FEW_ROWS = 1_000_000  # that are read from any file
PART = 50_000  # rows that `parts` reads at once


def read(path: Path, what: str = "a Parquet file") -> pl.DataFrame:
    """The table in a file. Raises BadTable if it is not a regular file, if it is damaged, or if its
    content is too large for this machine's memory."""
    with _checked(path, what) as (polars, _):
        frame = polars.read_parquet(path)
    return _of_a_size(frame, path)


def parts(path: Path, wanted: Callable[[str], bool]) -> Iterator[pl.DataFrame]:
    """The table in a file without its columns whose names are not `wanted`, in parts of PART rows,
    so that it may be larger than memory. Raises BadTable as `read` does."""
    start, rows = 0, 1
    while start < rows:
        with _checked(path, "a Parquet file") as (polars, rows):
            table = polars.scan_parquet(path)
            columns = [name for name in table.collect_schema() if wanted(name)]
            part = table.select(columns).slice(start, PART).collect()
        yield _of_a_size(part, path)
        start += PART


@contextmanager
def _checked(path: Path, what: str) -> Iterator[tuple[Any, int]]:
    """Polars, and the number of rows of a file that it can read; turns errors into BadTable."""
    check_regular(path)
    with needs("an outcome table"):
        import polars as pl
    try:
        with _silent():
            rows = pl.scan_parquet(path).select(pl.len()).collect().item()
            if rows > max(FEW_ROWS, ROWS_PER_BYTE * path.stat().st_size):
                raise BadTable(f"'{path}' says that it has {rows:,} rows, which cannot be")
            yield pl, rows
    except (pl.exceptions.PolarsError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadTable(f"'{path}' is not {what}: {first}") from error
    except (pl.exceptions.PanicException, MemoryError) as error:
        raise BadTable(f"'{path}' is not {what}: it is damaged") from error


def _of_a_size(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The frame; raises BadTable if its texts are too large for this machine's memory."""
    texts = [name for name, kind in frame.collect_schema().items() if str(kind) == "String"]
    size = sum(int(frame[name].str.len_bytes().sum() or 0) for name in texts)
    if size > files.memory() // 4:
        raise BadTable(f"'{path}' holds {size >> 30} GiB of text, too much for this machine")
    return frame


def check_regular(path: Path) -> None:
    """Raises BadTable for a folder, a pipe or a device, and if there is no such file."""
    if path.is_dir():
        raise BadTable(f"'{path}' is a folder: name the files in it")
    if not path.exists():
        raise BadTable(f"no file '{path}'")
    if not path.is_file():
        raise BadTable(f"'{path}' is not a regular file: name a file")


@contextmanager
def _silent() -> Iterator[None]:
    """Hides what Polars' threads write to standard error when a damaged file makes them panic."""
    sys.stderr.flush()
    saved, quiet = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(quiet, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(quiet)
