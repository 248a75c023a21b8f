"""A language model reads the query, and a head predicts the score of each expert. Extra: `lm`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from routewright import metrics
from routewright.errors import BadInput
from routewright.prediction import language_models
from routewright.prediction.language_models import Precision, Tune
from routewright.prediction.predictors import Belief, Folds
from routewright.prediction.predictors.factor import unconfirmed_signal
from routewright.prediction.stored import Arrays
from routewright.types import Array

Head: TypeAlias = Literal["bilinear", "rasch", "mlp"]
Loss: TypeAlias = Literal["bce", "kl", "reverse_kl"]
RATES = {"lora": 2e-4, "full": 2e-5, "frozen": 0.0}  # default learning rates of the base
SETTINGS = (
    "base head tune loss epochs learning_rate head_rate batch accumulate max_tokens rank width"
    " temperature precision checkpointing"
).split()

Progress = Callable[[str, float], None]  # a description of the work, and the finished share of it


def _quiet(description: str, share: float) -> None:
    pass


@dataclass
class Transformer:
    """Routoo's performance predictor (arXiv 2401.13979): one pass per query for all experts.

    `base` is an encoder (mean pooling) or a causal model (last token), a Hugging Face name or a
    local folder; a router refers to it and does not copy it. `tune` trains adapters of that `rank`
    (`lora`), the `full` model, or nothing of it (`frozen`). `head` is `bilinear` (multidimensional
    item response theory), `rasch` (as published; it ranks the experts alike for every query) or
    `mlp`. `loss` is `bce` on soft scores, or `kl` or `reverse_kl` against softmax(scores /
    `temperature`). `checkpointing` saves memory by computing activations twice. With a `folder`, a
    killed training continues from its last checkpoint. Held-out predictions come from a training
    on the other half of the rows. The spread is the part of the signal that held-out scores do not
    confirm.

    With q the pooled state (width,), z = W q and v_e an expert's embedding, the logit of the
    expert's score is:

        bilinear  z · v_e + b_e + c · q        rasch  b_e + c · q
        mlp       g([z, v_e, z ∘ v_e]) + b_e

    A training starts at each expert's mean score: v, c and the last layer of g are zero. With `kl`,
    only the differences between experts are learned, in units of the temperature, and their level
    is the mean score. After `fit`, which holds out no rows, the spread is the whole signal.
    """

    reads_text: ClassVar[bool] = True

    base: str = "microsoft/mdeberta-v3-base"
    head: Head = "bilinear"
    tune: Tune = "lora"
    loss: Loss = "bce"
    epochs: PositiveInt = 3
    learning_rate: NonNegativeFloat | None = None  # of the base; None: 2e-4 for lora, 2e-5 for full
    head_rate: NonNegativeFloat = 1e-3
    batch: PositiveInt = 16  # rows at once
    accumulate: PositiveInt = 1  # batches per step
    max_tokens: PositiveInt = 256
    rank: PositiveInt = 8  # of the adapters
    width: PositiveInt = 16  # of the experts' embeddings
    temperature: PositiveFloat = 0.3
    precision: Precision = "float32"  # of a base that is not trained in full
    checkpointing: bool = False  # activations are computed twice, to save memory
    folder: str = ""  # for checkpoints
    facts: dict[str, Any] = field(default_factory=dict, repr=False)  # identify the base
    weights: language_models.Weights = field(default_factory=dict, repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (e,)
    noise: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (e,)
    progress: Progress = field(default=_quiet, repr=False, compare=False)
    _base: language_models.Base | None = field(default=None, repr=False, compare=False)
    _network: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tune == "full" and self.precision != "float32":
            raise BadInput(
                f"precision '{self.precision}' cannot be trained with tune 'full': choose float32"
            )

    def fit(self, x: Any, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        items = self._read(x)
        self._train(items, scores, seed, "all", 0.0, 1.0)
        self.noise = _deviation(self._mean_scores(items))
        return self

    def fit_held_out(
        self, x: Any, scores: Array, *, blocks: Mapping[str, slice], fold: Folds, seed: int = 0
    ) -> Belief:
        """Fits; also returns beliefs about each row from a training on the other half."""
        items = self._read(x)
        half = np.unique(fold, return_inverse=True)[1] % 2
        mean = np.full(scores.shape, np.nan)
        for k in range(2):
            train, test = np.flatnonzero(half != k), np.flatnonzero(half == k)
            self._train([items[i] for i in train], scores[train], seed, f"half-{k}", k / 4, 0.25)
            mean[test] = self._mean_scores([items[i] for i in test])
        self._train(items, scores, seed, "all", 0.5, 0.5)
        self.noise = unconfirmed_signal(mean, scores)
        return Belief(mean, self._spread(mean))

    def predict(self, x: Any) -> Belief:
        """Beliefs about the experts' scores (n, e) on texts (n,)."""
        mean = self._mean_scores(self._tokens(self._load_base(), x))
        return Belief(mean, self._spread(mean))

    def logits(self, x: Any) -> Array:
        """The head's raw output (n, e) for texts (n,)."""
        items = self._tokens(self._load_base(), x)
        return self._in_batches(self._network[0], items, self._network[0].logits, len(self.mean))

    def options(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in SETTINGS}, "facts": self.facts}

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, "noise": self.noise, **self.weights}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        part = Arrays("predictor 'transformer'", arrays)
        own = {name: part.take(name, "experts", unknown=True) for name in ("mean", "noise")}
        weights = {name: array for name, array in arrays.items() if name not in own}
        return cls(**options, **own, weights=weights)

    # --- training ------------------------------------------------------------------------------

    def _read(self, x: Any) -> list[language_models.Item]:
        """Texts as tokens, or as the pooled states of a frozen base, which never change."""
        language_models.require("predictor 'transformer'")
        self.progress(f"loading {self.base}", 0.0)
        self._base = language_models.open_base(self.base, precision=self.precision)
        self.facts = self._base.facts
        items = self._tokens(self._base, x)
        if self.tune != "frozen":
            return items
        self.progress(f"{self.base} reads the queries", 0.0)
        network = self._build(self._base, scores=np.zeros((1, 1)))
        pooled = self._in_batches(network, items, network.embed)
        return [{"pooled": row.astype(np.float32)} for row in pooled]

    def _tokens(self, base: language_models.Base, x: Sequence[str]) -> list[language_models.Item]:
        return [{"ids": ids} for ids in language_models.tokens(base, x, self.max_tokens)]

    def _train(
        self,
        items: Sequence[language_models.Item],
        scores: Array,
        seed: int,
        stage: str,
        before: float,
        share: float,
    ) -> None:
        """Trains a new head, and of the base what `tune` names, on the rows with a known score.

        For the progress, this training starts at the share `before` and has a `share` of the work.
        """
        base, self._base = self._base, None
        if base is None:  # an earlier training changed the last one
            base = language_models.open_base(self.base, precision=self.precision)
        if self.tune == "frozen":
            self._base = base
        self.mean = metrics.mean(scores)
        mask = np.isfinite(scores).any(axis=1)
        rows = [{**items[i], "labels": scores[i]} for i in np.flatnonzero(mask).tolist()]
        with language_models.seeded(seed):
            network = self._build(base, scores[mask])
        rate = RATES[self.tune] if self.learning_rate is None else self.learning_rate
        language_models.train(
            network,
            rows,
            language_models.collator(base),
            language_models.Plan(
                self.epochs, self.batch, self.accumulate, rate, self.head_rate, seed
            ),
            folder=Path(self.folder, stage) if self.folder else None,
            job=self._job(rows, seed),
            on_progress=lambda part: self.progress(
                f"training {self.base} ({stage}, {100 * part:.0f} %)", before + share * part
            ),
        )
        self._network, self.weights = (network, base), language_models.weights(network)

    def _job(self, rows: Sequence[language_models.Item], seed: int) -> str:
        """A digest of everything that the trained weights depend on."""
        digest = sha256(json.dumps([self.options(), seed], sort_keys=True).encode())
        for row in rows:
            for value in row.values():
                digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    # --- predicting ------------------------------------------------------------------------------

    def _load_base(self) -> language_models.Base:
        """Loads the base of a stored predictor. Raises BadInput if the base has changed."""
        if self._network is None:
            assert self.weights, "fit first"
            language_models.require("predictor 'transformer'")
            base = language_models.open_base(self.base, precision=self.precision)
            if base.facts != self.facts:
                raise BadInput(
                    f"base '{self.base}' has changed since the router was fitted: restore the old"
                    " one, or fit again"
                )
            self.attach(base)
        loaded: language_models.Base = self._network[1]
        return loaded

    def attach(self, base: language_models.Base) -> Self:
        """Builds the network on a base that is already loaded, from the stored weights."""
        network = self._build(base, np.zeros((1, len(self.mean))))
        language_models.put(network, self.weights)
        self._network = (network, base)
        return self

    def adapters_off(self) -> AbstractContextManager[None]:
        """Switches the adapters off inside the context."""
        adapted = self._network and hasattr(self._network[0].base, "disable_adapter")
        return self._network[0].base.disable_adapter() if adapted else nullcontext()

    def _mean_scores(self, items: Sequence[language_models.Item]) -> Array:
        """Expected scores (n, e), NaN for experts that were never scored."""
        network = self._network[0]
        logits = self._in_batches(network, items, network.logits, len(self.mean))
        mask = np.isfinite(self.mean)
        if self.loss == "bce":
            mean = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        else:
            level = logits[:, mask].mean(axis=1, keepdims=True)
            mean = np.clip(self.mean[mask].mean() + self.temperature * (logits - level), 0.0, 1.0)
        return np.where(mask, mean, np.nan)

    def _in_batches(
        self, network: Any, items: Sequence[language_models.Item], method: Any, width: int = 0
    ) -> Array:
        """One float64 row per item from a `method` of the network; texts of similar length share a
        batch. Without items the array is (0, `width`)."""
        import torch

        collate = language_models.collator(self._base or self._network[1])
        order = np.argsort([len(item.get("ids", ())) for item in items], kind="stable")
        rows: list[Any] = [None] * len(items)
        network.eval()
        with torch.inference_mode():
            for i in range(0, len(items), self.batch):
                part = order[i : i + self.batch]
                batch = collate(
                    [{k: v for k, v in items[j].items() if k != "labels"} for j in part]
                )
                output = method(
                    **{name: t.to(language_models.device()) for name, t in batch.items()}
                )
                for j, row in zip(part, output.double().cpu().numpy(), strict=True):
                    rows[j] = row
        return np.array(rows).reshape(len(items), -1 if items else width)

    def _spread(self, mean: Array) -> Array:
        return np.broadcast_to(self.noise, mean.shape).copy()

    # --- the network -----------------------------------------------------------------------------

    def _build(self, base: language_models.Base, scores: Array) -> Any:
        """Base and head as one torch module; the new head predicts the mean scores."""
        import torch

        start = torch.tensor(self._start(scores), dtype=torch.float32)
        loss = self._loss(float(np.isfinite(scores).sum(axis=1).mean()))
        adapted = language_models.adapt(
            base, self.tune, rank=self.rank, checkpointing=self.checkpointing
        )
        causal = base.causal

        class Network(language_models.module()):  # type: ignore[misc]
            def __init__(self, head: Any) -> None:
                super().__init__()
                self.base, self.head = adapted, head

            def embed(self, input_ids: Any, attention_mask: Any) -> Any:
                states = self.base(input_ids=input_ids, attention_mask=attention_mask)
                return language_models.pool(states.last_hidden_state, attention_mask, causal=causal)

            def logits(
                self, input_ids: Any = None, attention_mask: Any = None, pooled: Any = None
            ) -> Any:
                q = self.embed(input_ids, attention_mask) if pooled is None else pooled
                return self.head(q)

            def forward(
                self,
                labels: Any,
                input_ids: Any = None,
                attention_mask: Any = None,
                pooled: Any = None,
            ) -> dict[str, Any]:
                logits = self.logits(input_ids, attention_mask, pooled)
                return {"loss": loss(logits.float(), labels), "logits": logits}

        network = Network(head(self.head, base.width, self.width, start))
        return network.to(language_models.device())

    def _start(self, scores: Array) -> Array:
        """The logits (e,) of the mean scores."""
        mean = np.nan_to_num(metrics.mean(scores), nan=0.5)
        if self.loss != "bce":
            return np.asarray(mean / self.temperature)
        p = np.clip(mean, 1e-3, 1 - 1e-3)
        return np.asarray(np.log(p / (1 - p)))

    def _loss(self, cells: float) -> Callable[[Any, Any], Any]:
        """The loss as a function of logits and scores (n, e); `cells` scores are known per row.

        It divides by this average and not by the number of known scores in the batch, so that
        accumulated batches give the same gradient as one large batch.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        def bce(logits: Any, scores: Any) -> Any:
            mask = ~scores.isnan()
            terms = cross_entropy(logits, scores.nan_to_num(), reduction="none")
            return (terms * mask).sum() / (len(scores) * cells)

        def divergence(logits: Any, scores: Any) -> Any:
            unknown = scores.isnan()
            target = (scores.nan_to_num() / self.temperature).masked_fill(unknown, -1e9)
            s, z = target.log_softmax(dim=1), logits.masked_fill(unknown, -1e9).log_softmax(dim=1)
            first, second = (s, z) if self.loss == "kl" else (z, s)
            terms = (first.exp() * (first - second)).masked_fill(unknown, 0.0)
            return terms.sum() / len(scores)

        return bce if self.loss == "bce" else divergence


def head(kind: str, states: int, width: int, start: Any) -> Any:
    """A torch module from pooled states (n, states) to logits (n, e), initially `start` (e,)."""
    import torch
    from torch import nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(states, elementwise_affine=False)
            self.level = nn.Parameter(start.clone())
            # All experts start alike, so that their order in the table does not matter.
            if kind != "rasch":
                self.project = nn.Linear(states, width)
                self.experts = nn.Parameter(torch.zeros(len(start), width))
            if kind == "mlp":
                self.mix = nn.Sequential(nn.Linear(3 * width, 2 * width), nn.GELU())
                self.last = nn.Linear(2 * width, 1, bias=False)
                nn.init.zeros_(self.last.weight)
            else:
                self.difficulty = nn.Linear(states, 1, bias=False)
                nn.init.zeros_(self.difficulty.weight)

        def forward(self, pooled: Any) -> Any:
            q = self.norm(pooled)
            if kind == "rasch":
                return self.level + self.difficulty(q)
            z = self.project(q)
            if kind == "bilinear":
                return z @ self.experts.T + self.level + self.difficulty(q)
            z = z[:, None].expand(-1, len(self.level), -1)
            v = self.experts[None].expand(len(z), -1, -1)
            return self.last(self.mix(torch.cat([z, v, z * v], dim=2))).squeeze(2) + self.level

    return Head()


def _deviation(predictions: Array) -> Array:
    """The standard deviation of each expert's predictions, (n, e) ▶ (e,)."""
    return np.asarray(np.sqrt(metrics.mean((predictions - metrics.mean(predictions)) ** 2)))
