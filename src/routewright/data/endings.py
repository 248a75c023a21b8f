"""The endings of files with rows. `--help` names them, so this imports nothing else."""

from __future__ import annotations

from pathlib import Path

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv", ".json", ".ndjson")
PACKED = (".gz", ".zst")  # endings after those of text
READABLE = "Parquet, JSONL, JSON, CSV or TSV, perhaps with .gz or .zst after it"


def ending(path: Path) -> str:
    """The ending that tells the format, without `.gz` and `.zst`, and in small letters.

    >>> ending(Path("queries.JSONL.gz"))
    '.jsonl'
    """
    return _unpacked(path).suffix.lower()


def stem(path: Path) -> str:
    """The name of a file without its endings.

    >>> stem(Path("data/gsm8k.v2.jsonl.zst"))
    'gsm8k.v2'
    """
    return _unpacked(path).stem


def _unpacked(path: Path) -> Path:
    return Path(path.stem if path.suffix.lower() in PACKED else path.name)
