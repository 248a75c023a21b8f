"""Reads Parquet files that may be damaged or hostile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from routewright import files
from routewright.errors import BadTable, needs

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_BYTE = 8  # at most: every row has an id of its own, which takes space
FEW_ROWS = 1_000_000  # that are read from any file


def read(path: Path, what: str = "a Parquet file") -> pl.DataFrame:
    """The table in a file. Raises BadTable if it is not a regular file, if it is damaged, or if its
    content is too large for this machine's memory."""
    check_regular(path)
    with needs("an outcome table"):
        import polars as pl
    try:
        with _silent():
            rows = pl.scan_parquet(path).select(pl.len()).collect().item()
            if rows > max(FEW_ROWS, ROWS_PER_BYTE * path.stat().st_size):
                raise BadTable(f"'{path}' says that it has {rows:,} rows, which cannot be")
            frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadTable(f"'{path}' is not {what}: {first}") from error
    except (pl.exceptions.PanicException, MemoryError) as error:
        raise BadTable(f"'{path}' is not {what}: it is damaged") from error
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
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
