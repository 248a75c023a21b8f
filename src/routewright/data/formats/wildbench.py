"""WildBench's files: judgments of `eval_results/`, outputs of `result_dirs/`, and its questions.

Layout (allenai/WildBench, `src/eval.py`): JSON lists or JSONL. A question has `session_id`,
`conversation_input` and `primary_tag`; an output `session_id`, `chat_history`, `output` and
`generator`; a judgment `session_id`, perhaps `history` and `last_query`, `model_output`,
`generator` or `model_test`, and `parsed_result`: a `score` of 1..10 (WB-Score) or, for a pair, a
`choice` (A, B, tie; A++, A+, A=B, B+, B++: WB-Reward) and the `assignment` of A and B to models.
The score is (score - 1) / 9; of a pair 1, 0.75, 0.5, 0.25 or 0, and the reference's the rest.
Several comparisons of one model are averaged. The files have no costs. Paper: arXiv 2406.04770.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data import endings, rows
from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import Cell, averaged, long, wide
from routewright.errors import BadTable

LOWEST, HIGHEST = 1.0, 10.0
CHOICES = {  # the score of A
    **{"A++": 1.0, "A+": 0.75, "A=B": 0.5, "B+": 0.25, "B++": 0.0},
    **{"A": 1.0, "TIE": 0.5, "B": 0.0},
}


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """The questions, answers or scores of one file; several files make a whole table."""
    entries = _files.records(path, ["session_id"])
    cells = [cell for place, row in entries for cell in _cells(row, path, place)]
    return wide(averaged(long(cells)), path)


def _cells(row: dict[str, Any], path: Path, place: str) -> Iterator[Cell]:
    expert = str(row.get("generator") or row.get("model_test") or endings.stem(path))
    result = row.get("parsed_result")
    if result is None:
        is_output = "output" in row or "model_output" in row
        yield _cell(row, expert if is_output else "", float("nan"), _output(row))
        return
    _files.record(result, (), f"{place}: parsed_result")
    choice = str(result.get("choice", "")).strip().upper()
    assignment = row.get("assignment") or row.get("assignments")
    if choice in CHOICES and isinstance(assignment, Mapping):
        _files.demand(assignment, ["A", "B"], f"{place}: assignment")
        for side, score in (("A", CHOICES[choice]), ("B", 1 - CHOICES[choice])):
            model = str(assignment[side])
            own = model == expert
            yield _cell(row, model, score, _output(row) if own else row.get("ref_output"))
        return
    yield _cell(row, expert, _score(result.get("score"), place), _output(row))


def _score(value: Any, place: str) -> float:
    """A rating as a score; NaN if the judge gave none that could be read."""
    text = str(value).strip().split("/")[0] if value is not None else ""
    try:
        rating = float(text)
    except ValueError:
        return float("nan")
    if not LOWEST <= rating <= HIGHEST:
        raise BadTable(f"{place}: score is {rating:g} and must be in {LOWEST:g}..{HIGHEST:g}")
    return (rating - LOWEST) / (HIGHEST - LOWEST)


def _output(row: Mapping[str, Any]) -> Any:
    output = row.get("output", row.get("model_output"))
    return output[0] if isinstance(output, list) and output else output


def _cell(row: Mapping[str, Any], expert: str, score: float, answer: Any) -> Cell:
    prompt, messages = _words(row)
    id = f"wildbench/{row['session_id']}"
    return Cell(
        id=id,
        expert=expert,
        prompt=prompt or "",
        messages=messages,
        domain=row.get("primary_tag"),
        score=score,
        answer=answer,
        stem_sha=id,
    )


def _words(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The prompt, or the messages (JSON) of a longer conversation."""
    turns = row.get("conversation_input") or row.get("chat_history") or []
    messages = [_message(turn, n) for n, turn in enumerate(turns)] if turns else []
    if len(messages) > 1:
        return None, rows.dumps(messages)
    if messages:
        return messages[0]["content"], None
    if row.get("last_query") is None:
        return None, None
    history = row.get("history") or ""
    return f"{history}USER: {row['last_query']}" if history else str(row["last_query"]), None


def _message(turn: Any, number: int) -> dict[str, str]:
    """One turn; texts without a role are those of the user and the assistant in turn."""
    if isinstance(turn, Mapping):
        return {"role": str(turn.get("role", "user")), "content": str(turn.get("content") or "")}
    return {"role": "assistant" if number % 2 else "user", "content": str(turn)}
