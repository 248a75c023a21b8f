"""Logs of Inspect: `.json`, and `.eval`, which is a zip of JSON files.

Layout (UKGovernmentBEIS/inspect_ai, `log/_log.py`, `scorer/_metric.py`,
`model/_model_output.py`): `eval.task`, `eval.model`, and `samples` with `id`, `epoch`, `input`,
`messages`, `scores` (C, I, P, N or a number), `output` and `model_usage`; in a `.eval` file
`header.json` and `samples/ID_epoch_N.json`. Epochs are averaged. The first scorer that has a score
counts. Tokens that were read from or written to a cache count as input.
"""

from __future__ import annotations

import contextlib
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import _files
from routewright.data.formats._wide import Cell, long, wide
from routewright.errors import BadTable
from routewright.types import Json, content_text

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "no": 0.0}
INPUT = ("input_tokens", "input_tokens_cache_read", "input_tokens_cache_write")


def read(path: Path) -> pl.DataFrame:
    """An outcome table of one expert on one task, with tokens, and costs if the log has them."""
    header, samples = _zipped(path) if zipfile.is_zipfile(path) else _plain(path)
    spec = _files.record(header.get("eval"), ["task", "model"], f"'{path}': eval")
    cells = [
        _cell(_files.record(sample, ["id", "input"], place), spec["task"], spec["model"], place)
        for place, sample in samples
    ]
    return wide(_epochs(long(cells)), path)


def _plain(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Json]]]:
    log = _files.record(_files.json(path), ["eval"], f"'{path}'")
    samples = enumerate(log.get("samples") or (), start=1)
    return log, ((f"'{path}' sample {number}", sample) for number, sample in samples)


def _zipped(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Json]]]:
    with contextlib.suppress(ImportError):  # lets zipfile read Zstandard; Inspect installs it
        import_module("zipfile_zstd")
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if "header.json" not in members:
            raise BadTable(f"'{path}' has no header.json: the evaluation did not finish")
        header = _member(archive, "header.json", path)
        names = [name for name in members if name.startswith("samples/")]
        samples = [(f"'{path}' {name}", _member(archive, name, path)) for name in names]
    return _files.record(header, ["eval"], f"'{path}': header.json"), iter(samples)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Json:
    try:
        return _files.parse(archive.read(name), f"'{path}' {name}")
    except NotImplementedError as error:
        raise BadTable(
            f"'{path}' is compressed with Zstandard, which this Python cannot read: run"
            f" `inspect log convert {path} --to json --output-dir .`, or install zipfile-zstd"
        ) from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise BadTable(f"'{path}' {name} is broken: {error}") from error


def _cell(sample: dict[str, Any], task: str, model: str, place: str) -> Cell:
    output = sample.get("output") or {}
    usage = (sample.get("model_usage") or {}).get(model) or output.get("usage") or {}

    def number(fields: dict[str, Any], name: str) -> float | None:
        return _files.number(fields.get(name), f"{place}: {name}")

    in_tokens = [number(usage, name) for name in INPUT if usage.get(name) is not None]
    cost = number(usage, "total_cost")
    return Cell(
        id=f"{task}/{sample['id']}",
        expert=str(model),
        prompt=_prompt(sample),
        domain=str(task),
        score=_score(sample.get("scores") or {}, place),
        cost=float("nan") if cost is None else cost,
        answer=output.get("completion"),
        latency=number(output, "time"),
        in_tokens=sum(count or 0 for count in in_tokens) if in_tokens else None,
        out_tokens=number(usage, "output_tokens"),
    )


def _score(scores: dict[str, Any], place: str) -> float:
    for name, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, str | int | float):
            grade = GRADES.get(value, value) if isinstance(value, str) else value
            number = _files.number(grade, f"{place}: score {name}")
            return float("nan") if number is None else number
    return float("nan")


def _prompt(sample: dict[str, Any]) -> str:
    """The user's messages before the first reply, as the solver sent them; else the input."""
    content = _user_messages(sample.get("messages") or ()) or sample["input"]
    messages = [{"content": content}] if isinstance(content, str) else content
    texts = (content_text(message) for message in messages)
    attachments = sample.get("attachments") or {}
    return "\n".join(attachments.get(text.removeprefix("attachment://"), text) for text in texts)


def _user_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The user's messages before the first reply."""
    turns = itertools.takewhile(lambda message: message.get("role") != "assistant", messages)
    return [message for message in turns if message.get("role") == "user"]


def _epochs(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per query, with the mean over its epochs and the first answer."""
    keys = ("id", "expert")
    texts = [c for c, kind in rows.schema.items() if kind == pl.String and c not in keys]
    return rows.group_by(keys, maintain_order=True).agg(
        pl.col(texts).first(), pl.col(pl.Float64).mean()
    )
