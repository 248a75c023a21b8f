"""A sandbox specialist becomes a dedicated model, with the generalist `sage` behind it.

`lexis` (words, dates) is asked about everything. A tag, a gate on its own state, and gates that
read only the prompt are compared at every share deferred, with the answers that each would give.
Then `abacus` (sums) is put before questions about months, and grows on what sage answered.
`python -m bench dedicated`; about ten minutes on one core. SEEDS=1 is a quick look, PART=defer or
PART=grow half of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from routewright import dedicated
from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.metrics import auc, deferred, ownership
from routewright.prediction import language_models
from routewright.prediction.encoders import build as encoder_of
from routewright.registry import find
from routewright.sandbox.export import export
from routewright.sandbox.model import TinyLM
from routewright.sandbox.skills import Question, grade, questions

SEEDS = range(int(os.environ.get("SEEDS", 3)))
TRAIN, DEV = 600, 1200  # lessons in deferring; held-out questions
SAMPLES = 4  # answers at temperature 1 that a lesson's label is of
RATES = {"learning_rate": 5e-3, "head_rate": 1e-2, "batch": 32}
TAG = {"learning_rate": 1e-3, "head_rate": 3e-2, "batch": 32, "epochs": 4, "rank": 4}
KINDS = {
    "tag": TAG,
    "tag, base frozen": {"tune": "frozen", "head_rate": 5e-2, "batch": 32, "epochs": 10},
    "gate head, LoRA": {"kind": "gate", **RATES, "epochs": 4},
    "gate head, frozen": {"kind": "gate", "tune": "frozen", **RATES, "epochs": 8},
}
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
TAUGHT = (1000, 1500, 2250)  # months asked of sage: each half as many again
GROW = {"tune": "full", "learning_rate": 2e-3, "batch": 32, "epochs": 20}
CHECKED, JUDGED = 200, 330  # months for lessons in deferring, and held out


def main() -> None:
    import torch

    torch.set_num_threads(1)
    with (
        language_models.quiet(),
        tempfile.TemporaryDirectory(prefix="routewright-dedicated-") as name,
    ):
        folder = Path(name)
        if os.environ.get("PART", "both") in ("both", "defer"):
            deferring(folder)
        if os.environ.get("PART", "both") in ("both", "grow"):
            growing(folder)


# --- a tag, a gate, and gates that read only the prompt ------------------------------------


def deferring(folder: Path) -> None:
    """Quality at every ρ, mean of the seeds; each seed has its own questions."""
    base = export("lexis", folder / "lexis")
    found = [_compared(base, folder / str(seed), seed) for seed in SEEDS]
    table = Table(title=f"lexis, then sage: quality against ρ, mean of {len(SEEDS)} seeds")
    shares = (f"ρ = {share}" for share in SHARES)
    for heading in ("decides", "ρ = 0", *shares, "AUC", "lift", "ownership"):
        table.add_column(heading)
    for name in found[0]:
        figures = np.array([one[name] for one in found])
        table.add_row(name, *(f"{x:.4f}" for x in figures.mean(axis=0)))
    Console(width=120).print(table)
    print(
        "lift: at ρ = 0.5, over random mixing, as a share of the oracle's; by seed",
        {name: [round(one[name][-2], 3) for one in found] for name in KINDS},
    )
    print("ownership: the largest 1 − ρ at which quality is that of always asking sage")


def _compared(base: Path, folder: Path, seed: int) -> dict[str, list[float]]:
    """Figures by who decides. Nobody has seen the questions before: not the base, not the model."""
    drawn = questions(TRAIN + DEV, 100 + seed)
    dev, frame = drawn[TRAIN:], _asked(drawn[:TRAIN], "lexis", SAMPLES)
    known = _outcomes(_asked(dev, "lexis"), folder / "dev.parquet")
    sage, own = known.pool(["sage"]).score[:, 0], _written(base, dev)
    lessons = dedicated.lessons(frame, "lexis")
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # doubts, scores of what it says itself
    for name, options in KINDS.items():
        out = folder / name.replace(" ", "-")
        dedicated.train(lessons, str(base), out, dedicated.Recipe(seed=seed, **options))
        model = dedicated.load(str(out))
        doubts = model.doubts([query.messages for query in known.queries])
        found[name] = doubts, _written(out, dev) if model.kind == "tag" else own
    gates = _prompt_only(_outcomes(frame, folder / "train.parquet"), known)
    gates |= {"random": np.random.default_rng(seed).random(len(own)), "oracle": sage - own}
    found |= {name: (doubts, own) for name, doubts in gates.items()}
    return {name: _figures(*one, own, sage) for name, one in found.items()}


def _figures(
    doubts: np.ndarray, said: np.ndarray, own: np.ndarray, sage: np.ndarray
) -> list[float]:
    """`said` scores the model's answers, `own` those of the base as it was."""
    curve, n = deferred(doubts, said, sage), len(own)
    random = (own.mean() + sage.mean()) / 2
    best = deferred(sage - own, own, sage)[n // 2]
    lift = (curve[n // 2] - random) / (best - random)
    owned = ownership(doubts, said, sage, float(sage.mean()))
    shares = [float(curve[round(share * n)]) for share in SHARES]
    return [float(said.mean()), *shares, float(auc(doubts, 1 - own)), float(lift), owned]


def _prompt_only(train: Outcomes, dev: Outcomes) -> dict[str, np.ndarray]:
    """What routers see: the prompt, by n-grams and surface, without the model's own state."""
    encoder = encoder_of("lexical+surface").fit(train.queries, seed=0)
    x, y = encoder.encode(train.queries), encoder.encode(dev.queries)
    labels = train.pool(["lexis"]).measures["soft"]
    found = {}
    for name in ("linear", "knn"):
        gate = find("predictors", name)().fit(x, labels, blocks=encoder.blocks, seed=0)
        found[f"prompt only, {name}"] = -gate.predict(y).mean[:, 0]
    return found


def _asked(asked: Sequence[Question], name: str, samples: int = 0) -> pl.DataFrame:
    """What a model and sage say, as an interview writes it."""
    lm, sage = TinyLM.load(name), TinyLM.load("sage")
    rows = []
    for question in asked:
        own, other = lm.generate(question.text).text, sage.generate(question.text).text
        again = [
            grade(question, lm.generate(question.text, temperature=1.0, seed=n).text)
            for n in range(1, samples + 1)
        ]
        rows.append(
            {
                "id": question.id,
                "prompt": question.text,
                "domain": question.skill,
                f"answer::{name}": own,
                f"score::{name}": grade(question, own),
                f"soft::{name}": float(np.mean(again)) if again else None,
                "answer::sage": other,
                "score::sage": grade(question, other),
            }
        )
    return pl.DataFrame(rows)


def _outcomes(frame: pl.DataFrame, path: Path) -> Outcomes:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return outcomes.read(path)


# --- ownership grows -----------------------------------------------------------------------


def growing(folder: Path) -> None:
    """Rounds with half as many answers of sage again, each with a gate of its own; means."""
    base = export("abacus", folder / "abacus")
    title = f"abacus on months, sage behind it; {JUDGED} held out, mean of {len(SEEDS)} seeds"
    table = Table(title=title)
    for heading in ("sage's answers", "right", "quality: sage", "own", "best mix", *OWNED):
        table.add_column(heading)
    found = np.array([_rounds(base, folder / f"grown-{seed}", seed) for seed in SEEDS])
    for n, cells in zip((0, *TAUGHT), found.mean(axis=0), strict=True):
        table.add_row(str(n), f"{cells[0]:.0f}", *(f"{cell:.4f}" for cell in cells[1:]))
    Console(width=120).print(table)
    last = len(OWNED) - 1
    print("ownership at sage's quality, by seed:", found[:, :, -1 - last].round(3).tolist())


def _rounds(base: Path, folder: Path, seed: int) -> list[list[float]]:
    pool = questions(max(TAUGHT) + CHECKED, 1 + seed, ["month"], held_out=False)
    check, taught = pool[:CHECKED], pool[CHECKED:]
    dev = questions(JUDGED, 50 + seed, ["month"])
    sage = np.array([grade(q, TinyLM.load("sage").generate(q.text).text) for q in dev])
    told = _asked(taught, "abacus")
    rows = []
    for n in (0, *TAUGHT):
        grown, lessons = base, []
        if n:
            grown = folder / str(n)
            lessons = dedicated.answers(told[:n], "sage")
            dedicated.train(lessons, str(base), grown, dedicated.Recipe(seed=seed, **GROW))
        own, doubts = _gated(grown, check, dev, folder / f"gate-{n}")
        curve = deferred(doubts, own, sage)
        owned = [ownership(doubts, own, sage, share * sage.mean()) for share in OWNED.values()]
        rows.append([len(lessons), sage.mean(), own.mean(), curve.max(), *owned])
        print(n, np.round(rows[-1], 4).tolist(), flush=True)
    return rows


OWNED = {"ownership at sage's quality": 1.0, "at 95 % of it": 0.95}


def _gated(
    grown: Path, check: Sequence[Question], dev: Sequence[Question], out: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The grown base's own scores, and the doubts of a gate that knows where it fails."""
    right = _written(grown, check)
    frame = pl.DataFrame(
        {
            "id": [question.id for question in check],
            "prompt": [question.text for question in check],
            "score::own": right,
        }
    )
    recipe = dedicated.Recipe(kind="gate", tune="frozen", head_rate=1e-2, batch=32, epochs=8)
    dedicated.train(dedicated.lessons(frame, "own"), str(grown), out, recipe)
    chats = [[{"role": "user", "content": question.text}] for question in dev]
    return _written(grown, dev), dedicated.load(str(out)).doubts(chats)


def _written(folder: Path, asked: Sequence[Question], batch: int = 64) -> np.ndarray:
    """Scores of what a model writes if it must not defer, many at a time."""
    import torch

    model = dedicated.load(str(folder))
    base, tag = model.base, model.card.get("tag_id")
    never = {} if tag is None else {"sequence_bias": [[[tag], -99.0]]}
    texts = [language_models.prompt(base, [{"role": "user", "content": q.text}]) for q in asked]
    ids, pad = (
        language_models.tokens(base, texts, language_models.longest(base)),
        language_models.padding(base),
    )
    scores = []
    with torch.inference_mode():
        for i in range(0, len(ids), batch):
            part = ids[i : i + batch]
            longest = max(map(len, part))
            left = torch.tensor([[pad] * (longest - len(row)) + row for row in part])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in part])
            written = base.model.generate(
                left,
                attention_mask=mask,
                max_new_tokens=20,
                do_sample=False,
                pad_token_id=pad,
                **never,
            )
            said = base.tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
            scores += [grade(q, t) for q, t in zip(asked[i : i + batch], said, strict=True)]
    return np.array(scores)


if __name__ == "__main__":
    main()
