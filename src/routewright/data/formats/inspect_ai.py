"""Logs of Inspect: `.json`, and `.eval`, which is a zip of JSON files.

Layout (UKGovernmentBEIS/inspect_ai, `log/_log.py`, `scorer/_metric.py`,
`model/_model_output.py`): `eval.task`, `eval.model`, and `samples` with `id`, `epoch`, `input`,
`messages`, `scores` (C, I, P, N or a number), `output` and `model_usage`; in a `.eval` file
`header.json` and `samples/ID_epoch_N.json`. Epochs are averaged. The first scorer that has a score
counts. Tokens that were read from or written to a cache count as input.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import rows
from routewright.data.formats import _files
from routewright.data.formats._wide import Cell, long, wide
from routewright.data.outcomes import check_questions
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
    table = long(cells)
    check_questions([table], f"'{path}'")
    return wide(_epochs(table), path)


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
    prompt, messages = _words(sample)
    return Cell(
        id=f"{task}/{sample['id']}",
        expert=str(model),
        prompt=prompt,
        messages=messages,
        stem_sha=_stem(sample),
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


def _words(sample: dict[str, Any]) -> tuple[str, str | None]:
    """The prompt of a sample, and its messages (JSON) where other roles or images are a part of it.

    It is what the solver sent before the first reply; in a log without messages, the input.
    """
    asked = sample["input"]
    asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    sent = _before_reply(sample.get("messages") or (), asked) or asked
    attachments = sample.get("attachments") or {}
    messages = [
        {"role": message.get("role", "user"), "content": _content(message, attachments)}
        for message in sent
    ]
    if all(m["role"] == "user" and isinstance(m["content"], str) for m in messages):
        return "\n".join(str(m["content"]) for m in messages), None
    return "", rows.dumps(messages)


def _before_reply(
    messages: Sequence[dict[str, Any]], asked: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The messages before the model's first reply, without the solver's system messages.

    Replies that the sample's own input holds are a part of the question.
    """
    recorded = sum(message.get("role") == "assistant" for message in asked)
    own_system = any(message.get("role") == "system" for message in asked)
    question = []
    for message in messages:
        if message.get("role") == "assistant":
            if recorded <= 0 and message.get("source") != "input":
                break
            recorded -= 1
        if message.get("role") != "system" or own_system:
            question.append(message)
    return question


def _content(message: dict[str, Any], attachments: dict[str, str]) -> str | list[dict[str, Any]]:
    """The text of a message; where it holds images, its parts as OpenAI writes them."""

    def whole(text: str) -> str:
        return attachments.get(text.removeprefix("attachment://"), text)

    content = message.get("content")
    parts = content if isinstance(content, list) else []
    if not any(isinstance(part, dict) and part.get("type") == "image" for part in parts):
        return whole(content_text(message))
    return [
        {"type": "image_url", "image_url": {"url": whole(str(part.get("image")))}}
        if part.get("type") == "image"
        else {"type": "text", "text": whole(str(part.get("text") or ""))}
        for part in parts
        if isinstance(part, dict)
    ]


def _stem(sample: dict[str, Any]) -> str:
    """A hash of the sample's input, whatever template a solver put it into."""
    text = json.dumps([sample["input"], sample.get("target")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _epochs(table: pl.DataFrame) -> pl.DataFrame:
    """One row per query, with the mean over its epochs and the first answer."""
    keys = ("id", "expert")
    texts = [c for c, kind in table.schema.items() if kind == pl.String and c not in keys]
    return table.group_by(keys, maintain_order=True).agg(
        pl.col(texts).first(), pl.col(pl.Float64).mean()
    )
