"""A model of one's own that answers or defers: what it learns from, how, and when it defers.

A dedicated model (after Leeroo Dedicated Math 7B) is a Hugging Face folder. Either it has one
token more than its base and opens with it where it would fail (kind `tag`), or a head on the
base's state at the prompt's end foretells that, and the base answers as it always did (`gate`).
`dedicated.json` beside the weights says which, and from what doubt on it defers. Extra: `lm`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from routewright import outcomes as tables
from routewright import training
from routewright.errors import BadInput, BadTable
from routewright.items import Item
from routewright.outcomes import Outcomes, fingerprints
from routewright.predictors.transformer import RATES, Transformer
from routewright.types import Array, Message

TAG = "<DEFER>"
VERSION = 1
CARD, GATE, TAUGHT = "dedicated.json", "gate.safetensors", "taught.safetensors"

WITHIN = 10.0  # logits by which the tag must be unlikely within an answer: room for a bias

NEVER = -1e9

Kind = Literal["tag", "gate"]
Progress = Callable[[str, float], None]  # what is being done, share of it that is done


def _quiet(doing: str, share: float) -> None:
    pass


@dataclass(frozen=True)
class Recipe:
    """How a dedicated model is trained; names as in `predictors.transformer`.

    `defer_weight` is what a query that the base fails weighs against one that it answers right,
    in the decision; None weighs them so that both sides count alike. `answer_weight` is what an
    answer weighs against a decision.
    """

    kind: Kind = "tag"
    tag: str = TAG
    tune: str = "lora"
    epochs: int = 3
    learning_rate: float | None = None  # of the base; None: 2e-4 for lora, 2e-5 for full
    head_rate: float = 1e-3  # of the tag's row, or of the gate
    batch: int = 16
    accumulate: int = 1
    max_tokens: int = 1024  # of a prompt, and of an answer
    rank: int = 8
    defer_weight: float | None = 1.0
    answer_weight: float = 5.0
    precision: str = "float32"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("tag", "gate"):
            raise BadInput(f"kind '{self.kind}' is unknown: choose tag or gate")
        if self.tune not in training.TUNES:
            raise BadInput(f"tune '{self.tune}' is unknown: choose lora, full or frozen")
        if self.precision not in training.PRECISIONS:
            known = " or ".join(training.PRECISIONS)
            raise BadInput(f"precision '{self.precision}' is unknown: choose {known}")
        if not self.tag.strip() or self.tag != self.tag.strip():
            raise BadInput(f"tag '{self.tag}' must be a text without blanks around it")


# --- what is learnt from -------------------------------------------------------------------


def lessons(frame: pl.DataFrame, expert: str, *, taught: Any = ()) -> list[Item]:
    """What an outcome table says about where `expert` fails, as a query set.

    The fact `failure` is the share of its answers that were wrong (1 − `soft::`, else 1 −
    `score::`); `reference` is its own answer, where that was right. Queries whose fingerprints are
    among `taught` are left out: on what it has learnt from, a model does not fail as elsewhere.
    """
    failure = 1 - _score(frame, expert, soft=True)
    right = _score(frame, expert) >= 1
    said = _texts(frame, expert)
    items = []
    for query, split, share, good, text in zip(
        tables.queries_of(frame), _splits(frame), failure, right, said, strict=True
    ):
        if np.isnan(share):
            continue
        answer = text if good and share < 1 else None
        items.append(Item(query, answer, split, facts={"failure": round(float(share), 6)}))
    return _unseen(items, taught)


def answers(
    frame: pl.DataFrame, teacher: str, *, pupil: str | None = None, at_least: float = 1.0
) -> list[Item]:
    """The teacher's answers that scored `at_least` so much, as lessons in answering.

    With `pupil`, what it already says right is kept in its own words, so that it forgets nothing.
    Raises BadTable where the table holds no such answer.
    """
    good = _score(frame, teacher) >= at_least
    said = _texts(frame, teacher)
    own = _score(frame, pupil) >= 1 if pupil else np.zeros(len(frame), bool)
    told = _texts(frame, pupil) if pupil else said
    items = []
    for i, (query, split) in enumerate(zip(tables.queries_of(frame), _splits(frame), strict=True)):
        text = told[i] if own[i] else said[i] if good[i] else None
        if text:
            items.append(Item(query, text, split))
    if not items:
        raise BadTable(f"no answer of '{teacher}' scored {at_least:g} or more: nothing to learn")
    return items


def _score(frame: pl.DataFrame, expert: str, *, soft: bool = False) -> Array:
    """Scores (n,), NaN where unknown; with `soft` the mean of samples goes before."""
    experts = [c.removeprefix("score::") for c in frame.columns if c.startswith("score::")]
    tables.check_names([expert], experts)
    names = [f"soft::{expert}"] * soft + [f"score::{expert}"]
    known = [pl.col(name) for name in names if name in frame.columns]
    return (
        frame.select(pl.coalesce(known).fill_nan(None).alias("x"))["x"].cast(pl.Float64).to_numpy()
    )


def _texts(frame: pl.DataFrame, expert: str) -> list[str | None]:
    known = [pl.col(f"{c}::{expert}") for c in ("text", "answer") if f"{c}::{expert}" in frame]
    if not known:
        return [None] * len(frame)
    return frame.select(pl.coalesce(known).cast(pl.String).alias("x"))["x"].to_list()


def _splits(frame: pl.DataFrame) -> list[str]:
    return frame["split"].to_list() if "split" in frame.columns else ["train"] * len(frame)


def _unseen(items: Sequence[Item], taught: Any) -> list[Item]:
    known = set(np.asarray(taught, dtype=np.uint64).tolist())
    return [item for item in items if int(fingerprints([item.query])[0]) not in known]


def taught(folder: str | Path) -> Any:
    """Fingerprints of every query that a model was trained on, as far as its folder says."""
    path = Path(folder) / TAUGHT
    if not path.exists():
        return np.empty(0, np.uint64)
    from safetensors.numpy import load_file

    return load_file(path)["queries"]


# --- training ------------------------------------------------------------------------------


def train(
    items: Sequence[Item],
    base: str,
    out: Path,
    recipe: Recipe = Recipe(),
    *,
    progress: Progress = _quiet,
) -> None:
    """Trains a dedicated model on lessons and writes its folder `out`.

    Items with a fact `failure` teach when to defer, those with a `reference` what to answer (with
    both it is the base's own answer, to be kept). With no `failure` anywhere the model learns to
    answer and has no tag: a base for the next round.
    Killed, the same call goes on from its last checkpoint. Raises BadInput.
    """
    training.require("a dedicated model")
    if out.exists() and not (out / "checkpoints").exists() and any(out.iterdir()):
        raise BadInput(f"'{out}' is there already: name another folder")
    defers = any("failure" in item.facts for item in items)
    if not items or (recipe.kind == "gate" and not defers):
        raise BadInput("there is nothing to learn when to defer from: see `dedicate build`")
    if not defers and recipe.tune == "frozen":
        raise BadInput("tune 'frozen' cannot learn to answer: choose lora or full")
    if recipe.kind == "gate":
        card = _train_gate(items, base, out, recipe, progress)
    else:
        card = _train_tag(items, base, out, recipe, defers, progress)
    _sign(out, base, items)
    if defers:
        card |= {"version": VERSION, "kind": recipe.kind, "tag": recipe.tag, "base": base}
        card |= {"rows": len(items), "recipe": asdict(recipe)}
        _write(out, card)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _sign(out: Path, base: str, items: Sequence[Item]) -> None:
    """Notes what was learnt from, here and by the base."""
    from safetensors.numpy import save_file

    own = fingerprints([item.query for item in items])
    save_file({"queries": np.union1d(own, taught(base))}, out / TAUGHT)


def _write(out: Path, card: Mapping[str, Any]) -> None:
    fresh = out / f".{CARD}.partial"
    fresh.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    fresh.replace(out / CARD)


def _train_gate(
    items: Sequence[Item], base: str, out: Path, recipe: Recipe, progress: Progress
) -> dict[str, Any]:
    from safetensors.numpy import save_file

    progress(f"loading {base}", 0.0)
    opened = training.open_base(base, precision=recipe.precision, writes=True)
    if not (out / "config.json").exists():  # the base itself answers: it comes along, unchanged
        _save(opened, out)
    known = [item for item in items if "failure" in item.facts]
    prompts = [training.prompt(opened, item.query.messages) for item in known]
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


def _train_tag(
    items: Sequence[Item],
    base: str,
    out: Path,
    recipe: Recipe,
    defers: bool,
    progress: Progress,
) -> dict[str, Any]:
    progress(f"loading {base}", 0.0)
    opened = training.open_base(base, precision=recipe.precision, writes=True)
    tag = _add(opened, recipe.tag) if defers else None
    rows = [row for item in items if (row := _row(opened, item, tag, recipe))]
    with training.seeded(recipe.seed):
        network = _network(opened, tag, rows, recipe)
    rate = RATES[recipe.tune] if recipe.learning_rate is None else recipe.learning_rate
    plan = training.Plan(
        recipe.epochs, recipe.batch, recipe.accumulate, rate, recipe.head_rate, recipe.seed
    )
    out.mkdir(parents=True, exist_ok=True)
    training.train(
        network,
        rows,
        _collator(opened),
        plan,
        folder=out / "checkpoints",
        job=_job(rows, recipe, opened),
        done=lambda share: progress(f"training {base}", share),
    )
    _merge(network, opened, tag)
    _save(opened, out)
    return {"tag_id": tag}


def _add(base: training.Base, tag: str) -> int:
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


def _row(base: training.Base, item: Item, tag: int | None, recipe: Recipe) -> dict[str, Any] | None:
    """One sequence: the prompt, then the answer, or the tag where there is none to learn."""
    failure = item.facts.get("failure")
    (ids,) = training.tokens(base, [training.prompt(base, item.query.messages)], recipe.max_tokens)
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


def _end(base: training.Base) -> int:
    end = base.tokenizer.eos_token_id
    if end is None:
        raise BadInput("the base's tokenizer has no end-of-text token: name another base")
    return int(end)


def _collator(base: training.Base) -> Callable[[Sequence[Any]], dict[str, Any]]:
    import torch

    pad = training.collator(base)

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


def _network(base: training.Base, tag: int | None, rows: Sequence[Any], recipe: Recipe) -> Any:
    """The base with adapters, and a row of its output layer that is trained by itself.

    The loss of a row is the cross-entropy of deferring against anything else at the prompt's end,
    and that of the answer, given that it answers: of the base's own answer against what it would
    say without adapters, so that learning to defer changes little else, or of another's, the mean
    over its tokens. Within an answer the tag is a mistake that is made to look likely: a server
    that biases it everywhere must not write it there.
    """
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.nn.functional import binary_cross_entropy_with_logits as decision

    cross_entropy = partial(functional.cross_entropy, reduction="none")
    adapted = training.adapt(
        base, recipe.tune, rank=recipe.rank, checkpointing=recipe.checkpointing
    )
    output = base.model.get_output_embeddings()
    heavier = _defer_weight(rows, recipe)

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tag = nn.Parameter(output.weight[tag].detach().float().clone())

    class Network(training.module()):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.base = adapted
            if tag is not None:
                self.head = Head()
                output.register_forward_hook(self._with_tag)
                if output.weight is base.model.get_input_embeddings().weight:  # tied
                    base.model.get_input_embeddings().register_forward_hook(self._embedded)

        def _with_tag(self, module: Any, args: Any, logits: Any) -> Any:
            assert tag is not None, "the hook stands only where there is a tag"
            own = (args[0].to(self.head.tag.dtype) @ self.head.tag)[..., None].to(logits.dtype)
            return torch.cat([logits[..., :tag], own, logits[..., tag + 1 :]], dim=-1)

        def _embedded(self, module: Any, args: Any, states: Any) -> Any:
            return torch.where((args[0] == tag)[..., None], self.head.tag.to(states.dtype), states)

        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            labels: Any,
            start: Any,
            weight: Any,
            failure: Any,
            own: Any,
        ) -> dict[str, Any]:
            read = {"input_ids": input_ids, "attention_mask": attention_mask}
            logits, wanted = self.base(**read).logits, labels[:, 1:] >= 0
            said, target = logits[:, :-1][wanted].float(), labels[:, 1:][wanted]  # (k, vocabulary)
            place = torch.arange(wanted.shape[1], device=labels.device)
            first = (place == start[:, None])[wanted]
            if tag is not None:
                said[:, tag] += torch.where(first, NEVER, WITHIN)
            terms = cross_entropy(said, target)
            if tag is not None and hasattr(self.base, "disable_adapter"):
                kept = own[:, None].expand(wanted.shape)[wanted]
                terms = torch.where(kept, cross_entropy(said, self._before(read, wanted)), terms)
            length = torch.where(own, 1, wanted.sum(dim=1).clamp(min=1))
            each = (weight / length)[:, None].expand(wanted.shape)[wanted]
            loss = (terms * each).sum()
            if tag is not None and (known := ~failure.isnan()).any():
                opening = logits[torch.arange(len(logits)), start][known].float()
                loss = loss + self._decision(opening, failure[known])
            return {"loss": loss / len(labels)}

        def _before(self, read: Mapping[str, Any], wanted: Any) -> Any:
            """The chances of tokens as the base saw them, (k, vocabulary)."""
            with torch.no_grad(), self.base.disable_adapter():
                logits = self.base(**read).logits[:, :-1][wanted].float()
            logits[:, tag] = NEVER
            return logits.softmax(dim=1)

        def _decision(self, opening: Any, fails: Any) -> Any:
            assert tag is not None, "without a tag there is nothing to decide"
            terms = decision(_log_odds(opening, tag), fails, reduction="none")
            return (terms * (heavier * fails + 1 - fails)).sum()

    return Network().to(training.device())


def _log_odds(logits: Any, tag: int) -> Any:
    """Of the tag against every other token, (n, vocabulary) ▶ (n,)."""
    return logits[:, tag] - _without(logits, tag).logsumexp(dim=1)


def lead(logits: Any, tag: int) -> Any:
    """How far the tag is ahead of the likeliest other token, (n, vocabulary) ▶ (n,): above zero
    a greedy decoder takes it."""
    return logits[:, tag] - _without(logits, tag).amax(dim=1)


def _without(logits: Any, tag: int) -> Any:
    import torch

    others = logits.clone()
    others[:, tag] = -torch.inf
    return others


def _defer_weight(rows: Sequence[Any], recipe: Recipe) -> float:
    if recipe.defer_weight is not None:
        return recipe.defer_weight
    failure = np.array([row["failure"] for row in rows])
    fails = float(np.nansum(failure))
    return float(np.nansum(1 - failure)) / fails if fails else 1.0


def _job(rows: Sequence[Any], recipe: Recipe, base: training.Base) -> str:
    digest = sha256(json.dumps([asdict(recipe), base.facts], sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _merge(network: Any, base: training.Base, tag: int | None) -> None:
    """Folds what was trained into the base's own weights."""
    import torch

    if hasattr(network.base, "merge_and_unload"):
        network.base.merge_and_unload()
    if tag is not None:
        with torch.no_grad():
            weight = base.model.get_output_embeddings().weight
            weight[tag] = network.head.tag.to(weight.dtype)


def _save(base: training.Base, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with training.quiet():
        base.model.save_pretrained(out)
    base.tokenizer.save_pretrained(out)


# --- the trained model ---------------------------------------------------------------------


@dataclass
class Model:
    """A causal model that can write and, if its folder says so, defer; `load` opens one."""

    base: training.Base
    card: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def kind(self) -> Kind | None:
        """None for a model that never defers."""
        kind: Kind | None = self.card.get("kind")
        return kind

    @property
    def tag(self) -> str:
        return str(self.card.get("tag", TAG))

    @property
    def offset(self) -> float:
        """What is added to a doubt: above zero, together, the model defers."""
        return float(self.card.get("calibration", {}).get("offset", 0.0))

    def doubts(self, conversations: Sequence[Sequence[Message]], *, batch: int = 16) -> Array:
        """How much the model would rather defer, (n,), in logits; nothing is generated."""
        texts = [training.prompt(self.base, messages) for messages in conversations]
        if self.kind == "gate":
            chance = np.clip(self._gate.predict(texts).mean[:, 0], 1e-9, 1 - 1e-9)
            return np.asarray(np.log(1 - chance) - np.log(chance))
        assert self.kind == "tag", "this model never defers"
        return self._leads(texts, batch)

    def _leads(self, texts: Sequence[str], batch: int) -> Array:
        import torch

        collate, number = training.collator(self.base), int(self.card["tag_id"])
        ids = training.tokens(self.base, texts, int(self.card["recipe"]["max_tokens"]))
        order = np.argsort([len(row) for row in ids], kind="stable")
        found = np.empty(len(ids))
        with torch.inference_mode():
            for i in range(0, len(ids), batch):
                part = order[i : i + batch]
                tensors = collate([{"ids": ids[j]} for j in part])
                inside = {name: t.to(training.device()) for name, t in tensors.items()}
                logits = self.base.model(**inside).logits
                ends = inside["attention_mask"].sum(dim=1) - 1
                last = logits[torch.arange(len(part)), ends].float()
                found[part] = lead(last, number).double().cpu().numpy()
        return found

    @cached_property
    def _gate(self) -> Transformer:
        """Reads with the base that answers, unless it was trained in full."""
        from safetensors.numpy import load_file

        options = {**self.card["gate"], "base": str(self.folder), "checkpointing": False}
        gate = Transformer.load(options, load_file(self.folder / GATE))
        return gate if gate.tune == "full" else gate.stand_on(training.body(self.base))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, a gate's adapters are off: the base writes as it always did."""
        with self._gate.adapters_off() if self.kind == "gate" else nullcontext():
            yield


def load(name: str, *, precision: str | None = None) -> Model:
    """A folder that `train` wrote, or any causal model by name. Raises BadInput."""
    training.require("a local model")
    card = read_card(Path(name)) if (Path(name) / CARD).exists() else {}
    precision = precision or ("bfloat16" if training.device() == "cuda" else "float32")
    return Model(training.open_base(name, precision=precision, writes=True), card, Path(name))


def read_card(folder: Path) -> dict[str, Any]:
    """What `dedicated.json` says; raises BadInput."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["version"] != VERSION or card["kind"] not in ("tag", "gate"):
            raise BadInput(f"'{folder}' was made by another version: train it again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"'{folder}' is no dedicated model: there is no good {CARD}") from error
    return dict(card)


# --- when it defers ------------------------------------------------------------------------


def held_out(outcomes: Outcomes, folder: Path) -> Outcomes:
    """The rows that the model in a folder has not learnt from; raises BadInput if none is left."""
    known = set(taught(folder).tolist())
    marks = [int(fingerprints([query])[0]) for query in outcomes.queries]
    kept = outcomes.rows([i for i, mark in enumerate(marks) if mark not in known])
    if not len(kept):
        raise BadInput(f"'{folder}' has learnt from every row of this table: name held-out ones")
    return kept


def offset(doubts: Array, share: float) -> float:
    """What to add to doubts so that `share` of them (0..1) end above zero: a quantile, halfway
    between two doubts.

    >>> offset(np.array([0.0, 1.0, 2.0, 3.0]), 0.5)
    -1.5
    """
    most = np.sort(doubts)[::-1]
    deferred = round(share * len(most))
    edges = np.concatenate([[most[0] + 2.0], most, [most[-1] - 2.0]])
    return float(-(edges[deferred] + edges[deferred + 1]) / 2)


def calibrate(folder: Path, doubts: Array, share: float, **found: Any) -> None:
    """Writes into a folder from what doubt on its model defers: `share` of the held-out queries."""
    told = {"share": share, "offset": offset(doubts, share), "rows": len(doubts), **found}
    _write(folder, {**read_card(folder), "calibration": told})


def queries(outcomes: Outcomes) -> list[tuple[Message, ...]]:
    return [query.messages for query in outcomes.queries]
