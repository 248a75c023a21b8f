"""AlpacaEval's annotations and model outputs: `annotations.json` and `model_outputs.json`.

Layout (tatsu-lab/alpaca_eval, README, `results/MODEL/…`): a JSON list. An annotation has
`instruction`, `generator_1` and `output_1` (the reference), `generator_2` and `output_2` (the
model), and `preference`: 1 if the first output is better, 2 if the second is, with any number
between (0 is a tie in old files). An output has `instruction`, `output` and `generator`, both
perhaps `dataset`. The score is the probability that an output is preferred over the reference's;
the reference scores 0.5. If both sides change from row to row, both get scores. Several annotations
of one pair are averaged. The files have no costs. Paper: arXiv 2404.04475.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from routewright.data.formats import DEFAULTS, Options, _files
from routewright.data.formats._wide import Cell, averaged, long, wide
from routewright.errors import BadTable

ANNOTATION = ("generator_1", "generator_2", "preference")
OUTPUT = ("generator", "output")


def read(path: Path, options: Options = DEFAULTS) -> pl.DataFrame:
    """An outcome table of the models' win rates, or of answers without scores."""
    entries = list(_files.records(path, ["instruction"]))
    references = {row.get("generator_1") for _, row in entries}
    reference = next(iter(references)) if len(references) == 1 else None
    cells = [cell for place, row in entries for cell in _cells(row, reference, place)]
    return wide(averaged(long(cells)), path)


def _cells(row: dict[str, Any], reference: Any, place: str) -> Iterator[Cell]:
    if "preference" not in row:
        _files.demand(row, OUTPUT, place)
        yield _cell(row, row["generator"], row["output"], None)
        return
    _files.demand(row, ANNOTATION, place)
    preference = _files.number(row["preference"], f"{place}: preference")
    if preference == 0:
        preference = 1.5
    if preference is not None and not 1 <= preference <= 2:
        raise BadTable(f"{place}: preference is {preference:g} and must be in 1..2, or 0 for a tie")
    won = None if preference is None else preference - 1
    lost = None if won is None else 0.5 if row["generator_1"] == reference else 1 - won
    yield _cell(row, row["generator_1"], row.get("output_1"), lost)
    yield _cell(row, row["generator_2"], row.get("output_2"), won)


def _cell(row: dict[str, Any], expert: Any, answer: Any, score: float | None) -> Cell:
    instruction = str(row["instruction"])
    digest = hashlib.blake2b(instruction.encode("utf-8", "replace"), digest_size=8).hexdigest()
    return Cell(
        id=f"alpaca_eval/{digest}",
        expert=str(expert),
        prompt=instruction,
        domain=row.get("dataset"),
        score=float("nan") if score is None else score,
        answer=answer,
    )
