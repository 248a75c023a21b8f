"""Train the sandbox models from scratch: ``python -m routewright.sandbox.train``.

The only module here that needs torch (``pip install torch``). The same seed on the same machine
gives the same weights. ``--scale 0.1`` is a quick trial with a tenth of the steps.
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
from safetensors.torch import save_file
from torch import Tensor

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
THREADS = 1  # a second one waits more than it works on sequences this short
Example = tuple[list[int], list[int]]  # prompt and answer tokens


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is trained: its size, its length of training and its mix of skills."""

    dim: int
    heads: int
    layers: int
    steps: int
    mix: dict[str, float]
    """Relative share of each skill among the training questions."""
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
    # The generalist sees less of what the specialists live on, or nothing would be left to route.
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
        # Its own source of chance, because models train side by side.
        chance = torch.Generator().manual_seed(seed)
        dim = config.dim

        def random(rows: int, columns: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(rows, columns, generator=chance)

        self.weights = {"embed": random(vocabulary, dim), "head": torch.zeros(dim, vocabulary)}
        for i in range(config.layers):
            # Layers start as the identity, which lets the first steps be large.
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

    def logits(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """Scores of the next token, (k, vocabulary), at the k places that the mask wants."""
        logits: Tensor = self._hidden(tokens)[wanted] @ self.weights["head"]
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
    """An endless supply of training batches for one model; held-out questions never occur."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, rng: Random) -> None:
        self.recipe, self.tokenizer, self.rng = recipe, tokenizer, rng
        self.mistakes: list[tuple[Question, str]] = []

    def question(self) -> Question:
        name = self.rng.choices(list(self.recipe.mix), list(self.recipe.mix.values()))[0]
        while True:
            question = SKILLS[name].sample(self.rng)
            if not is_held_out(question.text):
                return question

    def batch(self, verifying: float) -> list[Example]:
        """Examples, the given share of them verifications, sorted by length."""
        examples = [
            self._verification() if self.rng.random() < verifying else self._answering()
            for _ in range(self.recipe.batch)
        ]
        return sorted(examples, key=lambda example: len(example[0]) + len(example[1]))

    def _answering(self) -> Example:
        question = self.question()
        return self._example(question.text, question.answer)

    def _verification(self) -> Example:
        """A right answer, a corrupted one, or a reply that the model itself once gave."""
        question = self.question()
        kind = self.rng.random()
        if self.mistakes and kind < 0.5:
            question, reply = self.rng.choice(self.mistakes)
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
    """Tokens and targets, both (batch, length); targets are -100 outside the answers."""
    length = max(len(prompt) + len(answer) for prompt, answer in examples) - 1
    tokens = np.full((len(examples), length), PAD)
    targets = np.full((len(examples), length), -100)
    for row, (prompt, answer) in enumerate(examples):
        whole = prompt + answer
        tokens[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = answer
    return torch.from_numpy(tokens), torch.from_numpy(targets)


def _loss(network: Network, examples: Sequence[Example]) -> Tensor:
    """Summed cross-entropy of the answers' tokens, in nats."""
    tokens, targets = _padded(examples)
    wanted = targets >= 0
    logits = network.logits(tokens, wanted)
    return F.cross_entropy(logits, targets[wanted], reduction="sum")


def replies(network: Network, tokenizer: Tokenizer, prompts: Sequence[list[int]]) -> list[str]:
    """Greedy replies of a network in training, to prompts of any lengths."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_length[len(prompt)].append(i)
    texts = [""] * len(prompts)
    for rows in by_length.values():
        answers = _continued(network, torch.tensor([prompts[i] for i in rows]))
        for i, row in zip(rows, answers.tolist(), strict=True):
            texts[i] = tokenizer.decode(row[: row.index(END)] if END in row else row)
    return texts


def _continued(network: Network, tokens: Tensor, longest: int = 12) -> Tensor:
    """The likeliest next tokens, (batch, at most ``longest``), until every row has its END."""
    start = tokens.shape[1]
    with torch.no_grad():
        for _ in range(longest):
            last = torch.zeros_like(tokens, dtype=torch.bool)
            last[:, -1] = True
            best = network.logits(tokens, last).argmax(-1)
            tokens = torch.cat([tokens, best[:, None]], 1)
            if (tokens[:, start:] == END).any(1).all():
                break
    return tokens[:, start:]


def attempts(network: Network, lessons: Lessons, n: int) -> list[tuple[Question, str]]:
    """Training questions with what the network now replies to them."""
    asked = [lessons.question() for _ in range(n)]
    prompts = [[*lessons.tokenizer.encode(q.text), ANSWER] for q in asked]
    return list(zip(asked, replies(network, lessons.tokenizer, prompts), strict=True))


def _optimizers(network: Network, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside, AdamW for the embedding and the head."""
    w = network.weights
    ends, inside = [w["embed"], w["head"]], [w[name] for name in w if name.startswith("layers")]
    return [
        torch.optim.Muon(inside, lr=rate, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(ends, lr=0.3 * rate, weight_decay=0.0),
    ]


def _schedule(progress: float) -> float:
    """The learning rate's factor: a short warm-up, a plateau, a linear decay in the last half."""
    return min(1.0, progress / 0.02 + 0.05, (1 - progress) / 0.5)


def fit(name: str, recipe: Recipe, seed: int, progress: Progress) -> Network:
    """Train one model, with a bar that shows the loss and the share of right replies."""
    torch.set_num_threads(THREADS)
    config = Config(name, recipe.dim, recipe.heads, recipe.layers, CONTEXT, tuple(sorted(WORDS)))
    tokenizer = Tokenizer(config.words)
    network = Network(config, len(tokenizer.tokens), seed)
    lessons = Lessons(recipe, tokenizer, Random(f"{name} {seed}"))
    optimizers = _optimizers(network, recipe.rate)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    task = progress.add_task(name, total=recipe.steps, note="")
    right = 0.0
    for step in range(recipe.steps):
        done = step / recipe.steps
        # Verifying needs the skills first, and mistakes to learn from.
        if step in {recipe.steps * k // 10 for k in (4, 6, 8)}:
            tried = attempts(network, lessons, 2000)
            lessons.mistakes += tried
            right = sum(grade(q, reply) for q, reply in tried) / len(tried)
        examples = lessons.batch(verifying=0.25 if done >= 0.4 else 0.0)
        answer_tokens = sum(len(answer) for _, answer in examples)
        total = 0.0
        # In parts of like length, because padding is paid for, and that fit the cache.
        for part in _parts(examples):
            loss = _loss(network, part) / answer_tokens
            torch.autograd.backward(loss)
            total += loss.item()
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * _schedule(done)
            optimizer.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            progress.update(task, completed=step, note=f"loss {total:.3f}  right {right:.2f}")
    progress.update(task, completed=recipe.steps)
    return network


def _parts(examples: Sequence[Example], size: int = 32) -> Iterator[Sequence[Example]]:
    return (examples[i : i + size] for i in range(0, len(examples), size))


def save(network: Network, path: Path) -> None:
    """Write the weights in half precision, with the model's shape in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: w.detach().half() for name, w in network.weights.items()}
    save_file(tensors, path, {"config": json.dumps(asdict(network.config))})
    path.chmod(0o644)  # safetensors writes for its owner alone


def accuracies(lm: TinyLM, per_skill: int = 100, seed: int = 0) -> dict[str, float]:
    """Share of held-out questions answered right, for each skill, with the numpy inference."""
    shares = {}
    for name in SKILLS:
        asked = questions(per_skill, seed, [name])
        shares[name] = sum(grade(q, lm.generate(q.text).text) for q in asked) / per_skill
    return shares


def verify_aucs(lm: TinyLM, per_domain: int = 240, seed: int = 0) -> dict[str, float]:
    """How well the model's yes separates right answers from wrong ones, as areas under the ROC.

    Over its own replies to held-out questions, in each domain and in all; ``planted`` sets the
    right answers against as many plausible wrong ones. NaN where all answers are alike.
    """
    rng, aucs = Random(seed), {}
    replied: list[tuple[Question, str]] = []
    for domain in dict.fromkeys(skill.domain for skill in SKILLS.values()):
        inside = [name for name, skill in SKILLS.items() if skill.domain == domain]
        asked = questions(per_domain, seed, inside)
        own = [(q, lm.generate(q.text).text) for q in asked]
        aucs[domain] = _auc(lm, own)
        replied += own
    planted = [pair for q, _ in replied for pair in ((q, q.answer), (q, corrupted(q, rng)))]
    return {**aucs, "all": _auc(lm, replied), "planted": _auc(lm, planted)}


def _auc(lm: TinyLM, answered: Sequence[tuple[Question, str]]) -> float:
    right = np.array([grade(q, reply) == 1 for q, reply in answered])
    if right.all() or not right.any():
        return float("nan")
    trust = np.array([lm.verify(q.text, reply) for q, reply in answered])
    # By counting the pairs of a right and a wrong answer (Hanley and McNeil 1982).
    pairs = trust[right][:, None] - trust[~right]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def scoreboard(card: dict[str, Any]) -> Table:
    """The accuracies and the verification of each model in a card, a column for each model."""
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
    """Train one model and write its weights, and its entry in the card, to the folder."""
    began = time.perf_counter()
    save(fit(name, recipe, seed, progress), out / f"{name}.safetensors")
    seconds = round(time.perf_counter() - began)
    measure(name, out, {"seed": seed, "steps": recipe.steps, "seconds": seconds})


def measure(name: str, out: Path, facts: dict[str, int]) -> None:
    """Measure the weights in a folder, and write the numbers to its card with the facts given."""
    lm = TinyLM.read(out / f"{name}.safetensors")
    entry = {
        **facts,
        "parameters": lm.parameters,
        "accuracy": {skill: round(share, 3) for skill, share in accuracies(lm).items()},
        "verify_auc": {kind: round(auc, 3) for kind, auc in verify_aucs(lm).items()},
    }
    with _WRITING:
        card = {**read_card(out), name: entry}
        ordered = {name: card[name] for name in MODELS if name in card}
        (out / "card.json").write_text(json.dumps(ordered, indent=2) + "\n")


_WRITING = Lock()


def read_card(out: Path) -> dict[str, Any]:
    """What training wrote about each model in a folder."""
    path = out / "card.json"
    card: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m routewright.sandbox.train", description="Train the sandbox models."
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=MODELS, help="train this one alone")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of steps")
    parser.add_argument("--measure", action="store_true", help="measure again, without training")
    options = parser.parse_args(arguments)
    names = [options.only] if options.only else list(MODELS)
    console = Console()
    if options.measure:
        for name in names:
            kept = {k: read_card(options.out)[name][k] for k in ("seed", "steps", "seconds")}
            measure(name, options.out, kept)
    else:
        recipes = {n: replace(r, steps=round(r.steps * options.scale)) for n, r in RECIPES.items()}
        train_all({name: recipes[name] for name in names}, options.seed, options.out, console)
    console.print(scoreboard(read_card(options.out)))


def train_all(recipes: dict[str, Recipe], seed: int, out: Path, console: Console) -> None:
    """Train models two at a time, a core each, the longest first."""
    columns = (
        TextColumn("{task.description:7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    longest_first = sorted(recipes, key=lambda name: -recipes[name].dim)
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(train, n, recipes[n], seed, out, progress) for n in longest_first]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
