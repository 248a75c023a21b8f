"""Trains a gate: a head that predicts failure from the base's state at the end of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routewright import files
from routewright.data.queries import Item
from routewright.dedicated.recipe import Progress, Recipe
from routewright.prediction import language_models
from routewright.prediction.predictors.transformer import Transformer

GATE = "gate.safetensors"
SETTINGS = (
    "tune epochs learning_rate head_rate batch accumulate max_tokens rank precision checkpointing"
).split()


def train_gate(
    items: Sequence[Item], base: str, out: Path, recipe: Recipe, progress: Progress
) -> dict[str, Any]:
    """Writes the base and its gate to `out`; returns the gate's entry of the card."""
    from safetensors.numpy import save

    progress(f"loading {base}", 0.0)
    loaded = language_models.open_base(base, precision=recipe.precision, causal_head=True)
    if not (out / "config.json").exists():  # the base writes the answers, so `out` needs a copy
        language_models.save(loaded, out)
    labelled = [item for item in items if "failure" in item.facts]
    prompts = [language_models.prompt(loaded, item.query.messages) for item in labelled]
    failure = np.array([float(item.facts["failure"]) for item in labelled])
    settings = {name: getattr(recipe, name) for name in SETTINGS}
    gate = Transformer(
        str(out), head="rasch", **settings, folder=str(out / "checkpoints"), progress=progress
    )
    gate.fit(prompts, 1 - failure[:, None], blocks={}, seed=recipe.seed)
    files.write(out / GATE, save(gate.arrays()))
    return {"gate": {**gate.options(), "base": ""}}
