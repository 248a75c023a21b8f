"""Trains a tag: an added token that the model writes first if it would fail on the query."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from routewright.data.queries import Item
from routewright.dedicated.recipe import Progress, Recipe
from routewright.errors import BadInput
from routewright.prediction import language_models
from routewright.prediction.predictors.transformer import RATES


def train_tag(
    items: Sequence[Item],
    base: str,
    out: Path,
    recipe: Recipe,
    defers: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the trained model to `out`; returns the tag's entry of the card.

    Without `defers` there is no tag, and the model learns to answer only.
    """
    from routewright.dedicated.network import build

    progress(f"loading {base}", 0.0)
    loaded = language_models.open_base(base, precision=recipe.precision, causal_head=True)
    tag = _add_token(loaded, recipe.tag) if defers else None
    rows = [row for item in items if (row := _row(loaded, item, tag, recipe))]
    with language_models.seeded(recipe.seed):
        network = build(loaded, tag, rows, recipe)
    rate = RATES[recipe.tune] if recipe.learning_rate is None else recipe.learning_rate
    plan = language_models.Plan(
        recipe.epochs, recipe.batch, recipe.accumulate, rate, recipe.head_rate, recipe.seed
    )
    out.mkdir(parents=True, exist_ok=True)
    language_models.train(
        network,
        rows,
        _collator(loaded),
        plan,
        folder=out / "checkpoints",
        job=_job(rows, recipe, loaded),
        on_progress=lambda share: progress(f"training {base}", share),
    )
    _merge(network, loaded, tag)
    language_models.save(loaded, out)
    return {"tag_id": tag}


def _add_token(base: language_models.Base, tag: str) -> int:
    """Adds the tag to the vocabulary if it is new, and returns its token id.

    It is an ordinary token, because servers leave special tokens out of the text that they send.
    """
    import torch
    from transformers import AddedToken

    base.tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False)])
    tag_id = int(base.tokenizer.convert_tokens_to_ids(tag))
    old_size = len(base.model.get_input_embeddings().weight)
    if tag_id >= old_size:
        base.model.resize_token_embeddings(tag_id + 1, mean_resizing=False)
        with torch.no_grad():
            for layer in (base.model.get_input_embeddings(), base.model.get_output_embeddings()):
                layer.weight[old_size:] = layer.weight[:old_size].mean(dim=0)
    return tag_id


def _row(
    base: language_models.Base, item: Item, tag: int | None, recipe: Recipe
) -> dict[str, Any] | None:
    """One training sequence: the prompt, then the answer, or the tag if there is no answer.

    Returns None for an item that teaches neither. `labels` are -100 where the loss skips a token;
    `failure` is NaN if unknown; `own` marks an answer of the base itself.
    """
    failure = item.facts.get("failure")
    (ids,) = language_models.tokens(
        base, [language_models.prompt(base, item.query.messages)], recipe.max_tokens
    )
    end = _end_token(base)
    if item.references:
        answer = base.tokenizer(item.references[0], add_special_tokens=False)["input_ids"]
        reply: list[int] = [*answer[: recipe.max_tokens], end]
        labels, weight = reply, recipe.answer_weight * (1.0 - float(failure or 0.0))
    elif failure is not None and tag is not None:
        reply, labels, weight = [tag, end], [-100, end], float(failure)
    else:
        return None
    return {
        "ids": [*ids, *reply],
        "labels": [-100] * len(ids) + labels,
        "weight": weight,
        "start": len(ids) - 1,
        "failure": float("nan") if failure is None else float(failure),
        "own": failure is not None and bool(item.references),
    }


def _end_token(base: language_models.Base) -> int:
    end = base.tokenizer.eos_token_id
    if end is None:
        raise BadInput("the base's tokenizer has no end-of-text token: choose another base")
    return int(end)


def _collator(base: language_models.Base) -> Callable[[Sequence[Any]], dict[str, Any]]:
    import torch

    pad = language_models.collator(base)

    def collate(items: Sequence[Any]) -> dict[str, Any]:
        batch = pad([{"ids": item["ids"]} for item in items])
        length = batch["input_ids"].shape[1]
        labels = [item["labels"] + [-100] * (length - len(item["labels"])) for item in items]
        floats = {
            name: torch.tensor([item[name] for item in items], dtype=torch.float32)
            for name in ("weight", "failure")
        }
        start, own = (torch.tensor([item[name] for item in items]) for name in ("start", "own"))
        return {**batch, **floats, "labels": torch.tensor(labels), "start": start, "own": own}

    return collate


def _job(rows: Sequence[Any], recipe: Recipe, base: language_models.Base) -> str:
    """A digest of everything that the trained weights depend on."""
    digest = sha256(json.dumps([asdict(recipe), base.facts], sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _merge(network: Any, base: language_models.Base, tag: int | None) -> None:
    """Merges the adapters and the tag's row into the base's own weights."""
    import torch

    if hasattr(network.base, "merge_and_unload"):
        network.base.merge_and_unload()
    if tag is not None:
        with torch.no_grad():
            weight = base.model.get_output_embeddings().weight
            weight[tag] = network.head.tag.to(weight.dtype)
