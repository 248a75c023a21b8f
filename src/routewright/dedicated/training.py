"""Trains a dedicated model on lessons."""

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
from routewright.dedicated.teaching import sign
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

    Items with a fact `failure` teach when to defer, those with a `reference` what to answer (with
    both it is the base's own answer, to be kept). With no `failure` anywhere the model learns to
    answer and has no tag: a base for the next round.
    Killed, the same call goes on from its last checkpoint. Raises BadInput.
    """
    recipe = recipe or Recipe()
    if out.exists() and not (out / "checkpoints").exists() and any(out.iterdir()):
        raise BadInput(f"'{out}' is there already: name another folder")
    defers = any("failure" in item.facts for item in items)
    if not items or (recipe.kind == "gate" and not defers):
        raise BadInput("there is nothing to learn when to defer from: see `dedicate build`")
    if not defers and recipe.tune == "frozen":
        raise BadInput("tune 'frozen' cannot learn to answer: choose lora or full")
    language_models.require("a dedicated model")  # takes seconds
    if recipe.kind == "gate":
        card = train_gate(items, base, out, recipe, progress)
    else:
        card = train_tag(items, base, out, recipe, defers, progress)
    sign(out, base, items)
    if defers:
        card |= {"version": VERSION, "kind": recipe.kind, "tag": recipe.tag, "base": base}
        card |= {"rows": len(items), "recipe": asdict(recipe)}
        write_card(out, card)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
