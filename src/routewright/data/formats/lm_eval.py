"""Per-sample logs of lm-evaluation-harness, `MODEL/samples_TASK_TIME.jsonl` (`--log_samples`).

Layout (EleutherAI/lm-evaluation-harness 0.4, `lm_eval/evaluator.py` and
`loggers/evaluation_tracker.py`): `doc_id`, `doc`, `target`, `arguments`, `resps`,
`filtered_resps`, `filter`, `metrics` (names) and one field per metric. The folder is the model's
name, with `__` for `/`. The score is the first metric whose values are in 0..1, under the first
filter.
`doc_id` is a position, which differs between revisions of a data set; so `doc_hash` names the
document where the log has it. The logs have no costs and no tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import _files
from routewright.data.formats._wide import Cell, long, wide
from routewright.data.outcomes import ROUNDING
from routewright.errors import BadTable

METRICS = ("exact_match", "acc", "acc_norm", "pass@1", "prompt_level_strict_acc", "em", "f1")
QUESTIONS = ("question", "query", "problem", "prompt", "input", "text")


def read(path: Path) -> pl.DataFrame:
    """An outcome table of one expert on one task."""
    rows = list(_files.jsonl(path, ["doc_id", "filtered_resps"]))
    if not rows:
        raise BadTable(f"'{path}' has no rows")
    task, expert = _task(path), path.resolve().parent.name.replace("__", "/")
    filter_name = rows[0][1].get("filter")
    filtered = [(place, row) for place, row in rows if row.get("filter") == filter_name]
    metric = _metric(filtered)
    documents = _documents([row for _, row in filtered])
    cells = [
        _cell(row, f"{place}: {metric}", metric, task, expert, document)
        for (place, row), document in zip(filtered, documents, strict=True)
    ]
    return wide(long(cells), path)


def _documents(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The name of each row's document in its task; a document that occurs twice is numbered."""
    counts: Counter[str] = Counter()
    names = []
    for row in rows:
        name = str(row["doc_hash"])[:16] if row.get("doc_hash") else str(row["doc_id"])
        counts[name] += 1
        again = row.get("doc_hash") and counts[name] > 1
        names.append(f"{name}#{counts[name]}" if again else name)
    return names


def _stem(row: dict[str, Any]) -> str | None:
    """A hash of the document, whatever template its text went through; None if the log has none."""
    if row.get("doc_hash"):
        return str(row["doc_hash"])
    if not row.get("doc"):
        return None
    text = json.dumps(row["doc"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _task(path: Path) -> str:
    """The name of the task in the name of its log.

    >>> _task(Path("samples_mmlu_anatomy_2025-01-31T10-00-00.123456.jsonl"))
    'mmlu_anatomy'
    """
    return re.sub(r"_\d{4}-\d\d-\d\dT.*$", "", path.stem.removeprefix("samples_"))


def _metric(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The first metric that is in 0..1, or unknown, in every row, and known in one."""
    place, first = rows[0]
    for name in first.get("metrics") or [name for name in METRICS if name in first]:
        values = [row.get(name) for _, row in rows]
        if any(map(_is_score, values)) and all(map(_is_score, filter(_is_known, values))):
            return str(name)
    raise BadTable(f"{place} has no metric in 0..1 on all its rows; it has {', '.join(first)}")


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _is_score(value: Any) -> bool:
    return isinstance(value, bool | int | float) and -ROUNDING <= value <= 1 + ROUNDING


def _cell(
    row: dict[str, Any], place: str, metric: str, task: str, expert: str, document: str
) -> Cell:
    score = _files.number(row.get(metric), place)
    return Cell(
        id=f"{task}/{document}",
        expert=expert,
        prompt=_prompt(row),
        domain=task,
        score=float("nan") if score is None else score,
        answer=_answer(row["filtered_resps"]),
        stem_sha=_stem(row),
    )


def _prompt(row: dict[str, Any]) -> str:
    """The text that was sent, few-shot examples included; else the question of the document."""
    value = row.get("arguments")
    while isinstance(value, dict | list) and value:
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    if isinstance(value, str):
        return value
    doc = row.get("doc") if isinstance(row.get("doc"), dict) else {}
    return next((str(doc[name]) for name in QUESTIONS if name in doc), "") if doc else ""


def _answer(response: Any) -> str | None:
    """The text of a response, or the position of the likeliest choice; None for anything else."""
    match response:
        case [str() as text]:
            return text
        case [[_, _], [_, _], *_]:
            return _likeliest([pair[0] for pair in response])
    return None


def _likeliest(likelihoods: Sequence[Any]) -> str | None:
    try:
        numbers = [float(number) for number in likelihoods]
    except (TypeError, ValueError):
        return None
    return str(numbers.index(max(numbers)))
