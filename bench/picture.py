"""Draws the README's picture: the cost–quality curve of `mmlu_pro` P1, rows not fitted on."""

from __future__ import annotations

from pathlib import Path

from bench._data import read
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.plots import curve
from routewright.fitting.fit import fit

TARGET = Path(__file__).parent.parent / "docs" / "cost-quality.svg"


def main() -> None:
    train, dev = read("mmlu_pro P1", "train"), read("mmlu_pro P1", "dev")
    if train is None or dev is None:
        return
    curve(evaluate(fit(train), dev).to_json(), TARGET)
    print(f"wrote {TARGET.name}")
