"""Logs of Inspect: `.json`, and `.eval`, which is a zip of JSON files.

Layout (UKGovernmentBEIS/inspect_ai, `log/_log.py`, `scorer/_metric.py`,
`model/_model_output.py`): `eval.task`, `eval.model`, and `samples` with `id`, `epoch`, `input`,
`messages`, `scores` (C, I, P, N or a number), `output` and `model_usage`; in a `.eval` file
`header.json` and `samples/ID_epoch_N.json`. Epochs are averaged. The scorer that has scored most
samples counts, and of several the first; the value of a score may be an object of several. Tokens
that were read from or written to a cache count as input.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import parquet, rows, source
from routewright.data.formats import DEFAULTS, Options, _files, _metrics
from routewright.data.formats._wide import Cell, averaged, long, wide
from routewright.data.outcomes import check_questions
from routewright.errors import BadTable
from routewright.types import Json, content_text

OPTIONS = ("metric",)
ZSTANDARD = 93  # a method of compression in zip
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "no": 0.0}
INPUT = ("input_tokens", "input_tokens_cache_read", "input_tokens_cache_write")


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table of one expert on one task, with tokens, and costs if the log has them."""
    parquet.check_regular(path)
    header, samples = _zipped(path) if zipfile.is_zipfile(path) else _plain(path)
    spec = _files.record(header.get("eval"), ["task", "model"], f"'{path}': eval")
    entries = [(place, _files.record(one, ["id", "input"], place)) for place, one in samples]
    scores = [_scores(sample.get("scores") or {}) for _, sample in entries]
    scored = any(scores) or options.metric
    metric = _metrics.choose(scores, options.metric, path) if scored else ""
    cells = [
        _cell(sample, spec["task"], spec["model"], of_sample.get(metric), place)
        for (place, sample), of_sample in zip(entries, scores, strict=True)
    ]
    table = long(cells)
    check_questions([table], f"'{path}'")
    return wide(averaged(table), path)


def _plain(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Json]]]:
    log = _files.record(_files.json(path), ["eval"], f"'{path}'")
    samples = enumerate(log.get("samples") or (), start=1)
    return log, ((f"'{path}' sample {number}", sample) for number, sample in samples)


def _zipped(path: Path) -> tuple[dict[str, Any], Iterator[tuple[str, Json]]]:
    with _archive(path) as archive:
        members = archive.namelist()
        if "header.json" not in members:
            raise BadTable(f"'{path}' has no header.json: the evaluation did not finish")
        header = _member(archive, "header.json", path)
        names = [name for name in members if name.startswith("samples/")]
        samples = [(f"'{path}' {name}", _member(archive, name, path)) for name in names]
    return _files.record(header, ["eval"], f"'{path}': header.json"), iter(samples)


def _archive(path: Path) -> zipfile.ZipFile:
    """The open archive. Raises MissingExtra if nothing here reads its compression."""
    with zipfile.ZipFile(path) as archive:
        is_zstandard = any(entry.compress_type == ZSTANDARD for entry in archive.infolist())
    if not is_zstandard or sys.version_info >= (3, 14):
        return zipfile.ZipFile(path)
    with contextlib.suppress(ImportError):  # Inspect installs it; zipfile can then read Zstandard
        import_module("zipfile_zstd")
        return zipfile.ZipFile(path)
    module = import_module(f"{source.zstandard(path).__name__}.zipfile")
    opened: zipfile.ZipFile = module.ZipFile(path)
    return opened


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Json:
    try:
        content = archive.read(name)
    except Exception as error:  # zipfile, zlib and Zstandard have errors of their own
        raise BadTable(f"'{path}' {name} is broken: {error}") from error
    return _files.parse(content, f"'{path}' {name}")


def _cell(sample: dict[str, Any], task: str, model: str, score: Any, place: str) -> Cell:
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
        score=float("nan") if score is None else float(score),
        cost=float("nan") if cost is None else cost,
        answer=output.get("completion"),
        latency=number(output, "time"),
        in_tokens=sum(count or 0 for count in in_tokens) if in_tokens else None,
        out_tokens=number(usage, "output_tokens"),
    )


def _scores(scores: dict[str, Any]) -> dict[str, Any]:
    """The scores of a sample by scorer, and by `SCORER.NAME` where a scorer gives several."""
    values = {n: one.get("value") if isinstance(one, dict) else one for n, one in scores.items()}
    return {
        name: GRADES[value]
        if isinstance(value, str) and value in GRADES
        else _metrics.numeric(value)
        for name, value in _metrics.flat(values).items()
    }


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
