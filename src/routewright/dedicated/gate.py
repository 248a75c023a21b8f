"""A gate: a head on the base's state at the prompt's end; the base answers as it always did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routewright.data.queries import Item
from routewright.dedicated.recipe import Progress, Recipe
from routewright.prediction import language_models
from routewright.prediction.predictors.transformer import Transformer

GATE = "gate.safetensors"


def train_gate(
    items: Sequence[Item], base: str, out: Path, recipe: Recipe, progress: Progress
) -> dict[str, Any]:
    from safetensors.numpy import save_file

    progress(f"loading {base}", 0.0)
    opened = language_models.open_base(base, precision=recipe.precision, writes=True)
    if not (out / "config.json").exists():  # the base itself answers: it comes along, unchanged
        language_models.save(opened, out)
    known = [item for item in items if "failure" in item.facts]
    prompts = [language_models.prompt(opened, item.query.messages) for item in known]
    failure = np.array([float(item.facts["failure"]) for item in known])
    gate = _gate(recipe, str(out), folder=str(out / "checkpoints"), progress=progress)
    gate.fit(prompts, 1 - failure[:, None], blocks={}, seed=recipe.seed)
    save_file(gate.arrays(), out / GATE)
    return {"gate": {**gate.options(), "base": ""}}


def _gate(recipe: Recipe, base: str, **more: Any) -> Transformer:
    own = {"tune", "epochs", "learning_rate", "head_rate", "batch", "accumulate", "max_tokens"}
    own |= {"rank", "precision", "checkpointing"}
    chosen = {name: getattr(recipe, name) for name in own}
    return Transformer(base, head="rasch", **chosen, **more)
