"""SmolLM2 as a dedicated model: does it know what it does not know better than a prompt-only gate?

Lessons and held-out questions are two halves of the question set, drawn anew for every seed. The
fallback is a larger model that is always right. The log-probability of its own answer is beside
them: it is known only once the answer has been paid for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from bench.real import _lab, expert
from routewright import dedicated
from routewright.data.outcomes import Outcomes
from routewright.data.outcomes import read as read_outcomes
from routewright.data.queries import Item
from routewright.grading.graders.auto import Auto
from routewright.metrics import auc, deferred, ownership
from routewright.prediction import language_models
from routewright.prediction.encoders import build as encoder_of
from routewright.registry import find
from routewright.types import Array, Query

SEEDS = int(os.environ.get("SEEDS", 3))
TRAINED = int(os.environ.get("TRAINED", 1))  # seeds for which dedicated models are trained, too
SHARES = (0.3, 0.5, 0.7)
NAME = "greedy"
FROZEN = {"kind": "gate", "tune": "frozen", "head_rate": 1e-2, "batch": 32, "epochs": 20}
LORA = {"learning_rate": 1e-3, "head_rate": 1e-2, "batch": 8, "epochs": 1}
KINDS: dict[str, dict[str, Any]] = {
    "gate head, frozen": FROZEN,
    "gate head, LoRA": {"kind": "gate", **LORA},
    "tag, LoRA": LORA,
}
GROWN = (80, 160)  # answers of the fallback that a round learns from
TOKENS = 16  # of an answer


def main() -> None:
    if sentence := _lab.absent():
        return print(sentence)
    table = expert.FOLDER / "answers.parquet"
    if not table.exists():
        expert.asked(expert.FOLDER, expert.ROWS, expert.VERIFIED)
    frame = pl.read_parquet(table)
    deferring(frame, _lab.BUILD / "dedicated", SEEDS, TRAINED)
    growing(frame, _lab.BUILD / "dedicated")


# --- answer or defer -------------------------------------------------------------------------


def deferring(
    frame: pl.DataFrame, folder: Path, seeds: int, trained: int, only: Sequence[str] = tuple(KINDS)
) -> dict[str, Array]:
    """Figures by who decides, (seeds, figures); what was trained is kept in `folder`.

    A model of each kind of `only` is trained for the first `trained` seeds.
    """
    found: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        kinds = only if seed < trained else ()
        for name, figures in _compared(frame, folder / str(seed), seed, kinds).items():
            found.setdefault(name, []).append(figures)
    table = Table(title=f"{len(frame) // 2} lessons, {len(frame) - len(frame) // 2} held out")
    for head in ("decides", "seeds", "ρ = 0", *(f"ρ = {share}" for share in SHARES)):
        table.add_column(head, no_wrap=True)
    for head in ("AUC", "lift at 0.5", "ownership at 95 %"):
        table.add_column(head, no_wrap=True)
    for name, rows in found.items():
        table.add_row(name, str(len(rows)), *(f"{x:.3f}" for x in np.mean(rows, axis=0)))
    Console(width=120).print(table)
    for name in ("probe of its state", "log-probability"):
        gaps = [
            ours[-3] - prompt[-3]
            for ours, prompt in zip(found[name], found["prompt only, stack"], strict=True)
        ]
        print(f"AUC of {name} − prompt only, stack, by seed: {np.round(gaps, 3).tolist()}")
    return {name: np.array(rows) for name, rows in found.items()}


def _compared(
    frame: pl.DataFrame, folder: Path, seed: int, kinds: Sequence[str]
) -> dict[str, list[float]]:
    """Figures by who decides; half of the rows, drawn by the seed, are held out."""
    order = np.random.default_rng(seed).permutation(len(frame))
    train, dev = frame[order[: len(frame) // 2]], frame[order[len(frame) // 2 :]]
    own = dev[f"score::{NAME}"].to_numpy().astype(float)
    known = train[f"score::{NAME}"].to_numpy()
    seen = states(frame, folder.parent / "states.safetensors")[order]
    doubts = _prompt_only(train, dev, folder) | {
        "probe of its state": -_probe(seen[: len(train)], known, seen[len(train) :]),
        "log-probability": -dev[f"logprob::{NAME}"].fill_null(-9.0).to_numpy(),
        "random": np.random.default_rng(seed).random(len(own)),
        "oracle": 1 - own,
    }
    found = {name: _figures(one, own, own) for name, one in doubts.items()}
    for name in kinds:
        path = folder / f"{name}.json"
        made = _lab.cached(path, lambda kind=name, at=path: _trained(kind, train, dev, at, seed))
        found[name] = _figures(np.array(made["doubts"]), np.array(made["scores"]), own)
    return found


def _trained(
    name: str, train: pl.DataFrame, dev: pl.DataFrame, path: Path, seed: int
) -> dict[str, list[float]]:
    """The doubts of a dedicated model about `dev`, and the scores of what it answers itself."""
    out = path.with_suffix("")
    if not (out / "dedicated.json").exists():
        lessons = dedicated.lessons(train, NAME)
        recipe = dedicated.Recipe(seed=seed, max_tokens=256, **KINDS[name])
        with _lab.progress(f"{name}, seed {seed}") as tell:
            dedicated.train(
                lessons,
                str(_lab.smollm2()),
                out,
                recipe,
                progress=lambda doing, share: tell(share),
            )
    model, items = dedicated.load(str(out)), _items(dev)
    scores = dev[f"score::{NAME}"].to_list()
    if model.kind == "tag":
        scores = written(model, items)
    doubts = model.doubts([item.query.messages for item in items])
    return {"doubts": doubts.tolist(), "scores": scores}


def _figures(doubts: Array, scores: Array, own: Array) -> list[float]:
    """`scores` are of the model's answers, `own` of those of the base as it was."""
    right, n = np.ones(len(own)), len(own)
    curve = deferred(doubts, scores, right)
    random = (own.mean() + 1) / 2
    best = deferred(1 - own, own, right)[n // 2]
    lift = (curve[n // 2] - random) / (best - random)
    shares = [float(curve[round(share * n)]) for share in SHARES]
    owned = ownership(doubts, scores, right, 0.95)
    return [float(scores.mean()), *shares, float(auc(doubts, 1 - own)), float(lift), owned]


def states(frame: pl.DataFrame, path: Path) -> Array:
    """The base's state (n, width) at the end of every prompt, read once."""
    from safetensors.numpy import load_file, save_file

    if not path.exists():
        import torch

        base = language_models.body(
            language_models.open_base(str(_lab.smollm2()), causal_head=True)
        )
        messages = [item.query.messages for item in _items(frame)]
        prompts = [language_models.prompt(base, one) for one in messages]
        ids = language_models.tokens(base, prompts, 256)
        rows = []
        with torch.inference_mode():
            for row in _lab.each("states of the prompts", ids, len(ids)):
                rows.append(base.model(torch.tensor([row])).last_hidden_state[0, -1].numpy())
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": np.stack(rows)}, path)
    return np.asarray(load_file(path)["states"], dtype=np.float64)


def _probe(seen: Array, right: Any, fresh: Array) -> Array:
    """A ridge regression on states: the expected score of the answer, (n,)."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 13))).fit(seen, right)
    return np.asarray(model.predict(fresh))


def _prompt_only(train: pl.DataFrame, dev: pl.DataFrame, folder: Path) -> dict[str, Array]:
    """Gates that read only the prompt, without its domain, and a table by domain."""
    known, fresh = (_outcomes(f, folder / f"{n}.parquet") for n, f in (("a", train), ("b", dev)))
    encoder = encoder_of("lexical+surface").fit(known.queries, seed=0)
    x, y = encoder.encode(known.queries), encoder.encode(fresh.queries)
    found = {}
    for name in ("stack", "knn"):
        gate = find("predictors", name)().fit(x, known.score, blocks=encoder.blocks, seed=0)
        found[f"prompt only, {name}"] = -gate.predict(y).mean[:, 0]
    means = train.group_by("domain").agg(pl.col(f"score::{NAME}").mean())
    table = dict(means.iter_rows())
    found["domain table"] = np.array([-table.get(domain, 0.5) for domain in dev["domain"]])
    return found


def _outcomes(frame: pl.DataFrame, path: Path) -> Outcomes:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.with_columns(split=pl.lit("train")).write_parquet(path)
    return read_outcomes(path, experts=[NAME])


# --- ownership grows ---------------------------------------------------------------------------


def growing(frame: pl.DataFrame, folder: Path, rounds: Sequence[int] = GROWN) -> None:
    """Two rounds in which the base learns the fallback's answers; its own quality after each."""
    order = np.random.default_rng(0).permutation(len(frame))
    train, dev = frame[order[: len(frame) // 2]], frame[order[len(frame) // 2 :]]
    taught = train.with_columns(
        pl.col("reference").alias("answer::reference"), pl.lit(1.0).alias("score::reference")
    )
    rows = [("before", 0, float(dev[f"score::{NAME}"].mean() or 0))]
    for n in rounds:
        scores = _lab.cached(
            folder / f"grown-{n}.json", lambda n=n: _grown(taught[:n], dev, folder / f"grown-{n}")
        )
        rows.append((f"round {len(rows)}", n, float(np.mean(scores))))
    table = Table(title=f"learns the fallback's answers; {len(dev)} held out")
    for head in ("", "answers", "own quality"):
        table.add_column(head)
    for name, n, quality in rows:
        table.add_row(name, str(n), f"{quality:.3f}")
    Console(width=120).print(table)


def _grown(taught: pl.DataFrame, dev: pl.DataFrame, out: Path) -> list[float]:
    if not (out / "config.json").exists():
        lessons = dedicated.answers(taught, "reference", pupil=NAME)
        with _lab.progress(out.name) as tell:
            dedicated.train(
                lessons,
                str(_lab.smollm2()),
                out,
                dedicated.Recipe(max_tokens=256, **LORA),
                progress=lambda doing, share: tell(share),
            )
    return written(dedicated.load(str(out)), _items(dev))


# --- what it writes ----------------------------------------------------------------------------


def _items(frame: pl.DataFrame) -> list[Item]:
    return [
        Item(Query.of(prompt), reference)
        for prompt, reference in zip(frame["prompt"], frame["reference"], strict=True)
    ]


def written(model: dedicated.Model, items: Sequence[Item], batch: int = 16) -> list[float]:
    """Scores of what a model writes if it may not defer: one line at temperature 0."""
    return [
        float(Auto().grade(item, text.strip().split("\n")[0]).score)
        for item, text in zip(items, texts_of(model, items, batch), strict=True)
    ]


def texts_of(model: dedicated.Model, items: Sequence[Item], batch: int) -> list[str]:
    import torch

    base, tag = model.base, model.card.get("tag_id")
    never = {} if tag is None else {"sequence_bias": [[[tag], -99.0]]}
    prompts = [language_models.prompt(base, item.query.messages) for item in items]
    ids, pad = language_models.tokens(base, prompts, 256), language_models.padding(base)
    texts: list[str] = []
    with torch.inference_mode():
        for i in range(0, len(ids), batch):
            part = ids[i : i + batch]
            width = max(map(len, part))
            left = torch.tensor([[pad] * (width - len(row)) + row for row in part])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
            replies = base.model.generate(
                left,
                attention_mask=mask,
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=pad,
                **never,
            )
            texts += base.tokenizer.batch_decode(replies[:, width:], skip_special_tokens=True)
    return texts


if __name__ == "__main__":
    main()
