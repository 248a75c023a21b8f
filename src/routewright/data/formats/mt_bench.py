"""MT-Bench's files: `question.jsonl`, `model_answer/MODEL.jsonl` and `model_judgment/*.jsonl`.

Layout (lm-sys/FastChat, `fastchat/llm_judge`): a question has `question_id`, `category` and
`turns`; an answer `question_id`, `model_id` and `choices` with their `turns`; a judgment of one
model `question_id`, `model`, `score` (1..10, -1 if it could not be read) and `turn`; a judgment of
a pair `model_1`, `model_2`, `g1_winner` and `g2_winner` (`model_1`, `model_2`, `tie` or `error`).
Give the questions too: the other files have no prompts. One query is a question, and its prompt is
the first turn, before which a router has to decide. The score is the mean over the turns: of
(score - 1) / 9, or of the comparisons with other models, where two verdicts that differ are a tie.
The files have no costs. Paper: arXiv 2306.05685.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import Cell, averaged, long, wide
from routewright.errors import BadTable

LOWEST, HIGHEST, UNREAD = 1.0, 10.0, -1.0
WON = {"model_1": (1.0, 0.0), "model_2": (0.0, 1.0), "tie": (0.5, 0.5)}


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """The questions, answers or scores of one file; several files make a whole table."""
    entries = _files.records(path, ["question_id"])
    cells = [cell for place, row in entries for cell in _cells(row, place)]
    return wide(averaged(long(cells)), path)


def _cells(row: dict[str, Any], place: str) -> Iterator[Cell]:
    if "score" in row and "model" in row:
        yield _cell(row, row["model"], score=_score(row["score"], place))
    elif "g1_winner" in row:
        _files.demand(row, ["model_1", "model_2"], place)
        for model, score in zip((row["model_1"], row["model_2"]), _won(row, place), strict=True):
            yield _cell(row, model, score=score)
    elif "choices" in row:
        _files.demand(row, ["model_id"], place)
        yield _cell(row, row["model_id"], answer=_first(row["choices"], place))
    elif "turns" in row:
        prompt = row["turns"][0] if isinstance(row["turns"], list) and row["turns"] else None
        if not isinstance(prompt, str):
            raise BadTable(f"{place}: turns must be a list of texts")
        yield _cell(row, "", prompt=prompt, domain=row.get("category"))
    else:
        fields = ", ".join(list(row)[:8])
        raise BadTable(f"{place} is no question, answer or judgment of MT-Bench; it has {fields}")


def _score(value: Any, place: str) -> float:
    rating = _files.number(value, f"{place}: score")
    if rating is None or rating == UNREAD:
        return float("nan")
    if not LOWEST <= rating <= HIGHEST:
        raise BadTable(f"{place}: score is {rating:g} and must be in {LOWEST:g}..{HIGHEST:g}")
    return (rating - LOWEST) / (HIGHEST - LOWEST)


def _won(row: dict[str, Any], place: str) -> tuple[float, float]:
    """The scores of the two models of a pair; NaN if no verdict could be read."""
    verdicts = {row["g1_winner"], row.get("g2_winner", row["g1_winner"])}
    if odd := verdicts - {*WON, "error"}:
        raise BadTable(f"{place}: winner is {next(iter(odd))!r} and must be {', '.join(WON)}")
    if "error" in verdicts:
        return float("nan"), float("nan")
    return WON[verdicts.pop() if len(verdicts) == 1 else "tie"]


def _first(choices: Any, place: str) -> Any:
    """The answer to the first turn."""
    match choices:
        case [{"turns": [first, *_]}, *_]:
            return first
    raise BadTable(f"{place}: choices must be a list of objects with turns")


def _cell(
    row: dict[str, Any],
    expert: Any,
    *,
    prompt: str = "",
    score: float = float("nan"),
    answer: Any = None,
    domain: Any = None,
) -> Cell:
    id = f"mt_bench/{row['question_id']}"
    return Cell(
        id=id,
        expert=str(expert),
        prompt=prompt,
        domain=domain,
        score=score,
        answer=answer,
        stem_sha=id,
    )
