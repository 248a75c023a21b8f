"""Trains a dedicated model on lessons and writes its folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from routewright import files
from routewright.data.queries import Item
from routewright.dedicated.card import VERSION, write_card
from routewright.dedicated.gate import train_gate
from routewright.dedicated.recipe import Progress, Recipe, quiet
from routewright.dedicated.tag import train_tag
from routewright.dedicated.teaching import record_queries
from routewright.errors import BadInput
from routewright.prediction import language_models

CHECKPOINTS = "checkpoints"  # in a model's folder, until it is finished


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
    `out` holds other files, another process is training there, the items do not teach what the
    recipe trains, the base cannot be loaded, or the extra `lm` is missing.
    """
    recipe = recipe or Recipe()
    if out.exists() and not (out / CHECKPOINTS).exists() and any(out.iterdir()):
        raise BadInput(
            f"'{out}' already exists and holds a finished model or other files: choose another"
            " folder"
        )
    defers = any("failure" in item.facts for item in items)
    if not items or (recipe.kind == "gate" and not defers):
        raise BadInput("no lesson teaches when to defer: make lessons with `dedicate build`")
    if not defers and recipe.tune == "frozen":
        raise BadInput("tune 'frozen' cannot learn to answer: choose lora or full")
    language_models.require("a dedicated model")  # last, because it takes seconds
    with _alone(out):
        (out / CHECKPOINTS).mkdir(exist_ok=True)  # by which the next call knows its own folder
        if recipe.kind == "gate":
            card = train_gate(items, base, out, recipe, progress)
        else:
            card = train_tag(items, base, out, recipe, defers, progress)
        record_queries(out, base, items)
        if defers:
            card |= {"version": VERSION, "kind": recipe.kind, "tag": recipe.tag, "base": base}
            card |= {"rows": len(items), "recipe": asdict(recipe)}
            write_card(out, card)
        _discard(out / CHECKPOINTS, out)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lets one process at a time train in a folder; the lock ends with the process.

    A folder in which nothing was written is deleted, such as that of a base which does not exist.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        try:
            yield
        finally:
            with suppress(OSError):
                (out / CHECKPOINTS).rmdir()
                out.rmdir()


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise BadInput(
            f"another process is training in '{out}': wait for it, or choose another folder"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def _discard(checkpoints: Path, out: Path) -> None:
    """Deletes the checkpoints in such a way that a crash leaves none that is incomplete."""
    doomed = out.with_name(f".{out.name}.checkpoints{files.PARTIAL}")
    files.clean(out)  # deletes what a crash left under this name
    os.replace(checkpoints, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
