"""Train the sandbox models from scratch: ``python -m routewright.sandbox.train``.

This module needs torch (``pip install torch``). The same seed on the same machine gives the same
weights. ``--scale 0.1`` is a quick trial with a tenth of the steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from safetensors.torch import save as as_safetensors
from torch import Tensor

from routewright import files
from routewright.sandbox.model import (
    ANSWER,
    END,
    MODELS,
    PAD,
    WEIGHTS,
    Config,
    TinyLM,
    Tokenizer,
    rotations,
)
from routewright.sandbox.skills import (
    SKILLS,
    VERIFY_TEMPLATE,
    WORDS,
    Question,
    grade,
    is_held_out,
    questions,
)

CONTEXT = 160
THREADS = 1  # on sequences this short, a second thread only waits
Example = tuple[list[int], list[int]]  # prompt and answer tokens


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train one model: its size, the number of steps and the mix of skills."""

    dim: int
    heads: int
    layers: int
    steps: int
    mix: dict[str, float]
    """The relative share of each skill in the training questions."""
    batch: int = 128
    rate: float = 0.02


def _mix(rest: float, **own: float) -> dict[str, float]:
    return {name: own.get(name, rest) for name in SKILLS}


RECIPES = {
    "abacus": Recipe(
        dim=96,
        heads=4,
        layers=3,
        steps=1700,
        mix=_mix(0.06, addition=0.7, subtraction=0.9, multiplication=2, length=0.7, duration=0.9),
    ),
    "lexis": Recipe(
        dim=96,
        heads=4,
        layers=3,
        steps=1500,
        mix=_mix(0.06, reverse=0.5, sort=0.6, consonants=0.4, weekday=1.6, month=1.6),
    ),
    # The generalist sees less of the specialists' skills, so that routing can gain something.
    "sage": Recipe(
        dim=128,
        heads=4,
        layers=4,
        steps=2400,
        mix=_mix(1.0, multiplication=0.8, duration=0.8, reverse=0.3, sort=0.25, consonants=0.3),
    ),
}


class Network:
    """The transformer of ``model.py``, in torch, with the weights named as on disk."""

    def __init__(self, config: Config, vocabulary: int, seed: int) -> None:
        self.config = config
        # Each network has its own generator, because models train concurrently.
        generator = torch.Generator().manual_seed(seed)
        dim = config.dim

        def random(rows: int, columns: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(rows, columns, generator=generator)

        self.weights = {"embed": random(vocabulary, dim), "head": torch.zeros(dim, vocabulary)}
        for i in range(config.layers):
            # Layers start as the identity, so that the first steps can be large.
            self.weights |= {
                f"layers.{i}.qkv": random(dim, 3 * dim, dim**-0.5),
                f"layers.{i}.out": torch.zeros(dim, dim),
                f"layers.{i}.up": random(dim, 4 * dim, dim**-0.5),
                f"layers.{i}.down": torch.zeros(4 * dim, dim),
            }
        for weight in self.weights.values():
            weight.requires_grad_()
        tables = rotations(config.context, dim // config.heads)
        self.cos, self.sin = (torch.from_numpy(a) for a in tables)

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (k, vocabulary) of the next token at the k positions where the mask is true."""
        logits: Tensor = self._hidden(tokens)[mask] @ self.weights["head"]
        return logits

    def _hidden(self, tokens: Tensor) -> Tensor:
        (batch, n), heads, w = tokens.shape, self.config.heads, self.weights
        x = w["embed"][tokens]  # (batch, n, dim)
        for i in range(self.config.layers):
            h = (_normalise(x) @ w[f"layers.{i}.qkv"]).view(batch, n, 3, heads, -1)
            q, k, v = h.permute(2, 0, 3, 1, 4)
            q, k = self._rotate(q), self._rotate(k)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + mixed.transpose(1, 2).reshape(batch, n, -1) @ w[f"layers.{i}.out"]
            h = F.gelu(_normalise(x) @ w[f"layers.{i}.up"], approximate="tanh")
            x = x + h @ w[f"layers.{i}.down"]
        return _normalise(x)

    def _rotate(self, x: Tensor) -> Tensor:
        n, size = x.shape[-2:]
        return x * self.cos[:n] + x.roll(size // 2, -1) * self.sin[:n]


def _normalise(x: Tensor) -> Tensor:
    normed: Tensor = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normed


class Lessons:
    """Draws training batches for one model, without the held-out questions."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, rng: Random) -> None:
        self.recipe, self.tokenizer, self.rng = recipe, tokenizer, rng
        self.replies: list[tuple[Question, str]] = []  # of the model in training, right and wrong

    def question(self) -> Question:
        name = self.rng.choices(list(self.recipe.mix), list(self.recipe.mix.values()))[0]
        while True:
            question = SKILLS[name].sample(self.rng)
            if not is_held_out(question.text):
                return question

    def batch(self, verifying: float) -> list[Example]:
        """Examples sorted by length; a share ``verifying`` (0..1) of them are verifications."""
        examples = [
            self._verification() if self.rng.random() < verifying else self._answering()
            for _ in range(self.recipe.batch)
        ]
        return sorted(examples, key=lambda example: len(example[0]) + len(example[1]))

    def _answering(self) -> Example:
        question = self.question()
        return self._example(question.text, question.answer)

    def _verification(self) -> Example:
        """Asks about a right answer, a corrupted one, or an earlier reply of the model itself."""
        question = self.question()
        kind = self.rng.random()
        if self.replies and kind < 0.5:
            question, reply = self.rng.choice(self.replies)
        elif kind < 0.75:
            reply = question.answer
        else:
            reply = corrupted(question, self.rng)
        prompt = VERIFY_TEMPLATE.format(question=question.text, answer=reply)
        return self._example(prompt, "yes" if grade(question, reply) else "no")

    def _example(self, prompt: str, reply: str) -> Example:
        encode = self.tokenizer.encode
        return [*encode(prompt), ANSWER], [*encode(reply), END]


def corrupted(question: Question, rng: Random) -> str:
    """A plausible wrong answer to a question."""
    skill = SKILLS[question.skill]
    while True:
        answer = question.answer
        if len(answer) < 2 or skill.domain in ("calendar", "logic"):
            answer = skill.sample(rng).answer
        else:
            i, j = rng.sample(range(len(answer)), 2)
            alphabet = "0123456789" if answer.isdigit() else "aeioulnrst"
            letters = list(answer)
            if rng.random() < 0.5:
                letters[i], letters[j] = letters[j], letters[i]
            else:
                letters[i] = rng.choice(alphabet)
            answer = "".join(letters)
        if not grade(question, answer):
            return answer


def _padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Tokens and targets, both (batch, length), where targets are -100 outside the answers."""
    length = max(len(prompt) + len(answer) for prompt, answer in examples) - 1
    tokens = np.full((len(examples), length), PAD)
    targets = np.full((len(examples), length), -100)
    for row, (prompt, answer) in enumerate(examples):
        sequence = prompt + answer
        tokens[row, : len(sequence) - 1] = sequence[:-1]
        targets[row, len(prompt) - 1 : len(sequence) - 1] = answer
    return torch.from_numpy(tokens), torch.from_numpy(targets)


def _loss(network: Network, examples: Sequence[Example]) -> Tensor:
    """The sum of the cross-entropies of the answers' tokens, in nats."""
    tokens, targets = _padded(examples)
    mask = targets >= 0
    logits = network.logits(tokens, mask)
    return F.cross_entropy(logits, targets[mask], reduction="sum")


def replies(network: Network, tokenizer: Tokenizer, prompts: Sequence[list[int]]) -> list[str]:
    """The greedy replies of a network in training to prompts of any length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(prompt)].append(i)
    texts = [""] * len(prompts)
    for rows in by_length.values():
        answers = _generate(network, torch.tensor([prompts[i] for i in rows]))
        for i, row in zip(rows, answers.tolist(), strict=True):
            texts[i] = tokenizer.decode(row[: row.index(END)] if END in row else row)
    return texts


def _generate(network: Network, tokens: Tensor, limit: int = 12) -> Tensor:
    """The most likely next tokens, (batch, at most ``limit``), until every row has an END."""
    start = tokens.shape[1]
    with torch.no_grad():
        for _ in range(limit):
            last = torch.zeros_like(tokens, dtype=torch.bool)
            last[:, -1] = True
            best = network.logits(tokens, last).argmax(-1)
            tokens = torch.cat([tokens, best[:, None]], 1)
            if (tokens[:, start:] == END).any(1).all():
                break
    return tokens[:, start:]


def attempts(network: Network, lessons: Lessons, n: int) -> list[tuple[Question, str]]:
    """``n`` training questions with the network's current replies."""
    drawn = [lessons.question() for _ in range(n)]
    prompts = [[*lessons.tokenizer.encode(q.text), ANSWER] for q in drawn]
    return list(zip(drawn, replies(network, lessons.tokenizer, prompts), strict=True))


def _optimizers(network: Network, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for the embedding and the head."""
    w = network.weights
    ends, layers = [w["embed"], w["head"]], [w[name] for name in w if name.startswith("layers")]
    return [
        torch.optim.Muon(layers, lr=rate, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(ends, lr=0.3 * rate, weight_decay=0.0),
    ]


def _schedule(progress: float) -> float:
    """The factor of the learning rate: a short warm-up, a plateau, then a linear decay."""
    return min(1.0, progress / 0.02 + 0.05, (1 - progress) / 0.5)


def fit(name: str, recipe: Recipe, seed: int, progress: Progress) -> Network:
    """Trains one model; a bar shows the loss and the share of right replies."""
    torch.set_num_threads(THREADS)
    config = Config(name, recipe.dim, recipe.heads, recipe.layers, CONTEXT, tuple(sorted(WORDS)))
    tokenizer = Tokenizer(config.words)
    network = Network(config, len(tokenizer.tokens), seed)
    lessons = Lessons(recipe, tokenizer, Random(f"{name} {seed}"))
    optimizers = _optimizers(network, recipe.rate)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    task = progress.add_task(name, total=recipe.steps, note="")
    accuracy = 0.0
    for step in range(recipe.steps):
        share = step / recipe.steps
        # Verification starts late: it needs the skills first, and replies to learn from.
        if step in {recipe.steps * k // 10 for k in (4, 6, 8)}:
            new = attempts(network, lessons, 2000)
            lessons.replies += new
            accuracy = sum(grade(q, reply) for q, reply in new) / len(new)
        examples = lessons.batch(verifying=0.25 if share >= 0.4 else 0.0)
        answer_tokens = sum(len(answer) for _, answer in examples)
        total = 0.0
        # Parts of similar length need little padding, and small parts fit into the CPU cache.
        for part in _parts(examples):
            loss = _loss(network, part) / answer_tokens
            torch.autograd.backward(loss)
            total += loss.item()
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * _schedule(share)
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            progress.update(task, completed=step, note=f"loss {total:.3f}  right {accuracy:.2f}")
    progress.update(task, completed=recipe.steps)
    return network


def _parts(examples: Sequence[Example], size: int = 32) -> Iterator[Sequence[Example]]:
    return (examples[i : i + size] for i in range(0, len(examples), size))


def save(network: Network, path: Path) -> None:
    """Writes the weights in half precision, with the model's shape in the metadata."""
    tensors = {name: w.detach().half() for name, w in network.weights.items()}
    files.write(path, as_safetensors(tensors, {"config": json.dumps(asdict(network.config))}))


def accuracies(lm: TinyLM, per_skill: int = 100, seed: int = 0) -> dict[str, float]:
    """The share of held-out questions answered right, per skill, with the numpy inference."""
    shares = {}
    for name in SKILLS:
        drawn = questions(per_skill, seed, [name])
        shares[name] = sum(grade(q, lm.generate(q.text).text) for q in drawn) / per_skill
    return shares


def verify_aucs(lm: TinyLM, per_domain: int = 240, seed: int = 0) -> dict[str, float]:
    """How well ``verify`` separates right from wrong answers: areas under the ROC curve.

    They are computed on the model's own replies to held-out questions, for each domain and for
    ``all``. ``planted`` compares the right answers with as many plausible wrong ones. An area is
    NaN if all answers are right or all are wrong.
    """
    rng, aucs = Random(seed), {}
    answered: list[tuple[Question, str]] = []
    for domain in dict.fromkeys(skill.domain for skill in SKILLS.values()):
        names = [name for name, skill in SKILLS.items() if skill.domain == domain]
        drawn = questions(per_domain, seed, names)
        pairs = [(q, lm.generate(q.text).text) for q in drawn]
        aucs[domain] = _auc(lm, pairs)
        answered += pairs
    planted = [pair for q, _ in answered for pair in ((q, q.answer), (q, corrupted(q, rng)))]
    return {**aucs, "all": _auc(lm, answered), "planted": _auc(lm, planted)}


def _auc(lm: TinyLM, pairs: Sequence[tuple[Question, str]]) -> float:
    right = np.array([grade(q, reply) == 1 for q, reply in pairs])
    if right.all() or not right.any():
        return float("nan")
    confidence = np.array([lm.verify(q.text, reply) for q, reply in pairs])
    # The share of pairs of a right and a wrong answer in the right order (Hanley and McNeil 1982).
    gaps = confidence[right][:, None] - confidence[~right]
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


def scoreboard(card: dict[str, Any]) -> Table:
    """A table of the accuracies and verification AUCs in a card, with a column for each model."""
    table = Table("domain", "skill", *card, title="accuracy on held-out questions")
    scores = [entry["accuracy"] for entry in card.values()]
    for skill in SKILLS.values():
        table.add_row(skill.domain, skill.name, *(f"{s[skill.name]:.2f}" for s in scores))
    overall = [float(np.mean(list(s.values()))) for s in scores]
    table.add_row("", "overall", *(f"{share:.2f}" for share in overall), end_section=True)
    checks = [entry["verify_auc"] for entry in card.values()]
    for kind in checks[0]:
        table.add_row("verify AUC", kind, *(f"{check[kind]:.2f}" for check in checks))
    return table


def train(name: str, recipe: Recipe, seed: int, out: Path, progress: Progress) -> None:
    """Trains one model and writes its weights and its entry in the card to the folder."""
    start = time.perf_counter()
    save(fit(name, recipe, seed, progress), out / f"{name}.safetensors")
    seconds = round(time.perf_counter() - start)
    measure(name, out, {"seed": seed, "steps": recipe.steps, "seconds": seconds})


def measure(name: str, out: Path, facts: dict[str, int]) -> None:
    """Measures the weights in a folder and writes the figures and ``facts`` to its card."""
    lm = TinyLM.read(out / f"{name}.safetensors")
    entry = {
        **facts,
        "parameters": lm.parameters,
        "accuracy": {skill: round(share, 3) for skill, share in accuracies(lm).items()},
        "verify_auc": {kind: round(auc, 3) for kind, auc in verify_aucs(lm).items()},
    }
    with _CARD_LOCK:
        card = {**read_card(out), name: entry}
        ordered = {name: card[name] for name in MODELS if name in card}
        files.write(out / "card.json", json.dumps(ordered, indent=2) + "\n")


_CARD_LOCK = Lock()


def read_card(out: Path) -> dict[str, Any]:
    """Returns the entries that training wrote to a folder's card, by model."""
    path = out / "card.json"
    card: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m routewright.sandbox.train", description="Train the sandbox models."
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=MODELS, help="train only this model")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of steps")
    parser.add_argument(
        "--measure", action="store_true", help="measure the weights again without training"
    )
    options = parser.parse_args(arguments)
    names = [options.only] if options.only else list(MODELS)
    console = Console()
    if options.measure:
        for name in names:
            facts = {k: read_card(options.out)[name][k] for k in ("seed", "steps", "seconds")}
            measure(name, options.out, facts)
    else:
        recipes = {n: replace(r, steps=round(r.steps * options.scale)) for n, r in RECIPES.items()}
        train_all({name: recipes[name] for name in names}, options.seed, options.out, console)
    console.print(scoreboard(read_card(options.out)))


def train_all(recipes: dict[str, Recipe], seed: int, out: Path, console: Console) -> None:
    """Trains models two at a time, one per core, starting with the largest."""
    columns = (
        TextColumn("{task.description:7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    largest_first = sorted(recipes, key=lambda name: -recipes[name].dim)
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(train, n, recipes[n], seed, out, progress) for n in largest_first]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
