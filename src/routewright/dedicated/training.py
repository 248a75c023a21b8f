"""Trains a dedicated model on lessons and writes its folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from routewright.data.queries import Item
from routewright.dedicated.card import VERSION, write_card
from routewright.dedicated.gate import train_gate
from routewright.dedicated.recipe import Progress, Recipe, quiet
from routewright.dedicated.tag import train_tag
from routewright.dedicated.teaching import record_queries
from routewright.errors import BadInput
from routewright.prediction import language_models


def train(
    items: Sequence[Item],
    base: str,
    out: Path,
    recipe: Recipe | None = None,
    *,
    progress: Progress = quiet,
) -> None:
    """Trains a dedicated model on lessons and writes its folder `out`.

    Items with a fact `failure` teach when to defer; items with a `reference` teach what to answer.
    An item with both has the base's own answer, which the model learns to keep. If no item has a
    `failure`, the model learns to answer and gets no tag; it is the base of the next round.

    If the training is killed, the same call continues from the last checkpoint. Raises BadInput if
    `out` holds other files, the items do not teach what the recipe trains, the base cannot be
    loaded, or the extra `lm` is missing.
    """
    recipe = recipe or Recipe()
    if out.exists() and not (out / "checkpoints").exists() and any(out.iterdir()):
        raise BadInput(f"'{out}' already exists and is not empty: choose another folder")
    defers = any("failure" in item.facts for item in items)
    if not items or (recipe.kind == "gate" and not defers):
        raise BadInput("no lesson teaches when to defer: make lessons with `dedicate build`")
    if not defers and recipe.tune == "frozen":
        raise BadInput("tune 'frozen' cannot learn to answer: choose lora or full")
    language_models.require("a dedicated model")  # last, because it takes seconds
    if recipe.kind == "gate":
        card = train_gate(items, base, out, recipe, progress)
    else:
        card = train_tag(items, base, out, recipe, defers, progress)
    record_queries(out, base, items)
    if defers:
        card |= {"version": VERSION, "kind": recipe.kind, "tag": recipe.tag, "base": base}
        card |= {"rows": len(items), "recipe": asdict(recipe)}
        write_card(out, card)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
