"""Per-sample logs of lm-evaluation-harness, `MODEL/samples_TASK_TIME.jsonl` (`--log_samples`).

Layout (EleutherAI/lm-evaluation-harness 0.4, `lm_eval/evaluator.py` and
`loggers/evaluation_tracker.py`): `doc_id`, `doc`, `target`, `arguments`, `resps`,
`filtered_resps`, `filter`, `metrics` (names) and one field per metric. The folder is the model's
name, with `__` for `/`. The score is the metric in 0..1 that is known on most rows, and of several
the first one, under the first filter. A metric may be an object of scores.
`doc_id` is a position, which differs between revisions of a data set; so `doc_hash` names the
document where the log has it. The logs have no costs and no tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import endings
from routewright.data.formats import DEFAULTS, Options, _files, _metrics
from routewright.data.formats._wide import Cell, long, wide
from routewright.errors import BadTable

OPTIONS = ("drop_duplicates", "metric")
METRICS = ("exact_match", "acc", "acc_norm", "pass@1", "prompt_level_strict_acc", "em", "f1")
QUESTIONS = ("question", "query", "problem", "prompt", "input", "text")


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table of one expert on one task."""
    rows = list(_files.records(path, ["doc_id", "filtered_resps"]))
    if not rows:
        raise BadTable(f"'{path}' has no rows")
    task, expert = _task(path), path.resolve().parent.name.replace("__", "/")
    filter_name = rows[0][1].get("filter")
    filtered = [(place, row) for place, row in rows if row.get("filter") == filter_name]
    metric = _metric(filtered, options.metric, path)
    documents = _documents([row for _, row in filtered])
    cells = [
        _cell(row, f"{place}: {metric}", metric, task, expert, document)
        for (place, row), document in zip(filtered, documents, strict=True)
    ]
    return wide(long(cells), path, options.drop_duplicates)


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
    return re.sub(r"_\d{4}-\d\d-\d\dT.*$", "", endings.stem(path).removeprefix("samples_"))


def _metric(rows: Sequence[tuple[str, dict[str, Any]]], chosen: str | None, path: Path) -> str:
    """The metric to take, of those that any row names; see `_metrics.choose`."""
    named = dict.fromkeys(name for _, row in rows for name in row.get("metrics") or ())
    names = [str(name) for name in named] or list(METRICS)
    scores = [_metrics.flat({n: row[n] for n in names if n in row}) for _, row in rows]
    return _metrics.choose(scores, chosen, path, tuple(rows[0][1]))


def _cell(
    row: dict[str, Any], place: str, metric: str, task: str, expert: str, document: str
) -> Cell:
    names = row.get("metrics") or METRICS
    scores = _metrics.flat({name: row[name] for name in names if name in row})
    score = _files.number(scores.get(metric), place)
    answer = _answer(row["filtered_resps"])
    return Cell(
        id=f"{task}/{document}",
        expert=expert,
        prompt=_prompt(row),
        domain=task,
        score=float("nan") if score is None else score,
        answer=answer,
        text=None if (text := _reply(row.get("resps"))) == answer else text,
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


def _reply(responses: Any) -> str | None:
    """The whole text of the first response, before a filter; None if nothing was written."""
    while isinstance(responses, list) and responses:
        responses = responses[0]
    return responses if isinstance(responses, str) else None


def _likeliest(likelihoods: Sequence[Any]) -> str | None:
    try:
        numbers = [float(number) for number in likelihoods]
    except (TypeError, ValueError):
        return None
    return str(numbers.index(max(numbers)))
