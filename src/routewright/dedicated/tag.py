"""A tag: one token more than the base has, with which the model opens where it would fail."""

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
    from routewright.dedicated.network import build

    progress(f"loading {base}", 0.0)
    opened = language_models.open_base(base, precision=recipe.precision, writes=True)
    tag = _add(opened, recipe.tag) if defers else None
    rows = [row for item in items if (row := _row(opened, item, tag, recipe))]
    with language_models.seeded(recipe.seed):
        network = build(opened, tag, rows, recipe)
    rate = RATES[recipe.tune] if recipe.learning_rate is None else recipe.learning_rate
    plan = language_models.Plan(
        recipe.epochs, recipe.batch, recipe.accumulate, rate, recipe.head_rate, recipe.seed
    )
    out.mkdir(parents=True, exist_ok=True)
    language_models.train(
        network,
        rows,
        _collator(opened),
        plan,
        folder=out / "checkpoints",
        job=_job(rows, recipe, opened),
        done=lambda share: progress(f"training {base}", share),
    )
    _merge(network, opened, tag)
    language_models.save(opened, out)
    return {"tag_id": tag}


def _add(base: language_models.Base, tag: str) -> int:
    """The number of the tag's token, added if it is new.

    It is an ordinary token: servers leave special ones out of the text that they send.
    """
    import torch
    from transformers import AddedToken

    base.tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False)])
    number = int(base.tokenizer.convert_tokens_to_ids(tag))
    before = len(base.model.get_input_embeddings().weight)
    if number >= before:
        base.model.resize_token_embeddings(number + 1, mean_resizing=False)
        with torch.no_grad():
            for layer in (base.model.get_input_embeddings(), base.model.get_output_embeddings()):
                layer.weight[before:] = layer.weight[:before].mean(dim=0)
    return number


def _row(
    base: language_models.Base, item: Item, tag: int | None, recipe: Recipe
) -> dict[str, Any] | None:
    """One sequence: the prompt, then the answer, or the tag where there is none to learn."""
    failure = item.facts.get("failure")
    (ids,) = language_models.tokens(
        base, [language_models.prompt(base, item.query.messages)], recipe.max_tokens
    )
    end = _end(base)
    if item.references:
        said = base.tokenizer(item.references[0], add_special_tokens=False)["input_ids"]
        after: list[int] = [*said[: recipe.max_tokens], end]
        labels, weight = after, recipe.answer_weight * (1.0 - float(failure or 0.0))
    elif failure is not None and tag is not None:
        after, labels, weight = [tag, end], [-100, end], float(failure)
    else:
        return None
    return {
        "ids": [*ids, *after],
        "labels": [-100] * len(ids) + labels,
        "weight": weight,
        "start": len(ids) - 1,
        "failure": float("nan") if failure is None else float(failure),
        "own": failure is not None and bool(item.references),
    }


def _end(base: language_models.Base) -> int:
    end = base.tokenizer.eos_token_id
    if end is None:
        raise BadInput("the base's tokenizer has no end-of-text token: name another base")
    return int(end)


def _collator(base: language_models.Base) -> Callable[[Sequence[Any]], dict[str, Any]]:
    import torch

    pad = language_models.collator(base)

    def collate(items: Sequence[Any]) -> dict[str, Any]:
        batch = pad([{"ids": item["ids"]} for item in items])
        longest = batch["input_ids"].shape[1]
        labels = [item["labels"] + [-100] * (longest - len(item["labels"])) for item in items]
        numbers = {
            name: torch.tensor([item[name] for item in items], dtype=torch.float32)
            for name in ("weight", "failure")
        }
        start, own = (torch.tensor([item[name] for item in items]) for name in ("start", "own"))
        return {**batch, **numbers, "labels": torch.tensor(labels), "start": start, "own": own}

    return collate


def _job(rows: Sequence[Any], recipe: Recipe, base: language_models.Base) -> str:
    digest = sha256(json.dumps([asdict(recipe), base.facts], sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _merge(network: Any, base: language_models.Base, tag: int | None) -> None:
    """Folds what was trained into the base's own weights."""
    import torch

    if hasattr(network.base, "merge_and_unload"):
        network.base.merge_and_unload()
    if tag is not None:
        with torch.no_grad():
            weight = base.model.get_output_embeddings().weight
            weight[tag] = network.head.tag.to(weight.dtype)
