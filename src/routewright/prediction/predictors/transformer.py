"""A language model reads the query, and a head tells what each expert would score; extra: `lm`."""

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
from routewright.prediction.predictors.factor import unconfirmed
from routewright.types import Array

Head: TypeAlias = Literal["bilinear", "rasch", "mlp"]
Loss: TypeAlias = Literal["bce", "kl", "reverse_kl"]
RATES = {"lora": 2e-4, "full": 2e-5, "frozen": 0.0}  # of the base, unless told
SETTINGS = (
    "base head tune loss epochs learning_rate head_rate batch accumulate max_tokens rank width"
    " temperature precision checkpointing"
).split()

Progress = Callable[[str, float], None]  # what is being done, share of the whole done before it


def _quiet(doing: str, share: float) -> None:
    pass


@dataclass
class Transformer:
    """Routoo's performance predictor (arXiv 2401.13979): one pass per query, for all experts.

    `base` is an encoder (mean pooling) or a causal model (last token), a Hugging Face name or a
    local folder; a router refers to it, and does not copy it. `tune` trains `lora` adapters of
    that `rank`, the `full` model, or leaves it `frozen`. `head` is `bilinear` (multidimensional
    item response theory), `rasch` (as published; ranks the experts alike for every query) or
    `mlp`. `loss` is `bce` on soft scores, or `kl` or `reverse_kl` against softmax(scores /
    `temperature`). `checkpointing` computes activations twice rather than keep them. A killed
    training goes on if `folder` is given. Held-out rows are those of a training on the other
    half. The spread is the signal that they did not confirm.

    With q the pooled state (width,), z = W q and v_e an expert's embedding:

        bilinear  z · v_e + b_e + c · q        rasch  b_e + c · q
        mlp       g([z, v_e, z ∘ v_e]) + b_e

    is the logit of the expert's score. A training starts at each expert's mean: v, c and the
    last layer of g are zero. Under `kl` only differences between experts are learned, in units
    of the temperature; their level is the mean score. `spread` without held-out rows (`fit`) is
    the whole signal, since nothing confirmed any of it.
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
    facts: dict[str, Any] = field(default_factory=dict, repr=False)  # what tells the base
    weights: language_models.Weights = field(default_factory=dict, repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (e,)
    noise: Array = field(default_factory=lambda: np.empty(0), repr=False)  # (e,)
    progress: Progress = field(default=_quiet, repr=False, compare=False)
    _base: language_models.Base | None = field(default=None, repr=False, compare=False)
    _network: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tune == "full" and self.precision != "float32":
            raise BadInput(f"precision '{self.precision}' does not go with tune 'full'")

    def fit(self, x: Any, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        items = self._read(x)
        self._learn(items, scores, seed, "all", 0.0, 1.0)
        forecast = self._believe(items)
        self.noise = _whole(forecast)
        return self

    def fit_held_out(
        self, x: Any, scores: Array, *, blocks: Mapping[str, slice], fold: Folds, seed: int = 0
    ) -> Belief:
        """Fits; also gives beliefs about each row from a training on the other half."""
        items = self._read(x)
        half = np.unique(fold, return_inverse=True)[1] % 2
        mean = np.full(scores.shape, np.nan)
        for k in range(2):
            inside, outside = np.flatnonzero(half != k), np.flatnonzero(half == k)
            self._learn([items[i] for i in inside], scores[inside], seed, f"half-{k}", k / 4, 0.25)
            mean[outside] = self._believe([items[i] for i in outside])
        self._learn(items, scores, seed, "all", 0.5, 0.5)
        self.noise = unconfirmed(mean, scores)
        return Belief(mean, self._spread(mean))

    def predict(self, x: Any) -> Belief:
        """Beliefs about texts (n,)."""
        mean = self._believe(self._tokens(self._ready(), x))
        return Belief(mean, self._spread(mean))

    def logits(self, x: Any) -> Array:
        """What the head says of texts (n,) before it is read as scores, (n, e)."""
        items = self._tokens(self._ready(), x)
        return self._over(self._network[0], items, self._network[0].logits, len(self.mean))

    def options(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in SETTINGS}, "facts": self.facts}

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, "noise": self.noise, **self.weights}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        own = {name: arrays[name] for name in ("mean", "noise")}
        trained = {name: array for name, array in arrays.items() if name not in own}
        return cls(**options, **own, weights=trained)

    # --- training ------------------------------------------------------------------------------

    def _read(self, x: Any) -> list[language_models.Item]:
        """Texts as tokens; those of a frozen base are read once and for all."""
        language_models.require("predictor 'transformer'")
        self.progress(f"loading {self.base}", 0.0)
        self._base = language_models.open_base(self.base, precision=self.precision)
        self.facts = self._base.facts
        items = self._tokens(self._base, x)
        if self.tune != "frozen":
            return items
        self.progress(f"{self.base} reads the queries", 0.0)
        network = self._build(self._base, scores=np.zeros((1, 1)))
        pooled = self._over(network, items, network.embed)
        return [{"pooled": row.astype(np.float32)} for row in pooled]

    def _tokens(self, base: language_models.Base, x: Sequence[str]) -> list[language_models.Item]:
        return [{"ids": ids} for ids in language_models.tokens(base, x, self.max_tokens)]

    def _learn(
        self,
        items: Sequence[language_models.Item],
        scores: Array,
        seed: int,
        stage: str,
        before: float,
        share: float,
    ) -> None:
        """Trains a fresh head, and what `tune` says of the base, on rows with a known score."""
        base, self._base = self._base, None
        if base is None:  # the one before was changed by training
            base = language_models.open_base(self.base, precision=self.precision)
        if self.tune == "frozen":
            self._base = base
        self.mean = metrics.mean(scores)
        known = np.isfinite(scores).any(axis=1)
        rows = [{**items[i], "labels": scores[i]} for i in np.flatnonzero(known).tolist()]
        with language_models.seeded(seed):
            network = self._build(base, scores[known])
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
            done=lambda part: self.progress(
                f"training {self.base} ({stage}, {part:.0%})", before + share * part
            ),
        )
        self._network, self.weights = (network, base), language_models.weights(network)

    def _job(self, rows: Sequence[language_models.Item], seed: int) -> str:
        """What tells one training from another."""
        digest = sha256(json.dumps([self.options(), seed], sort_keys=True).encode())
        for row in rows:
            for value in row.values():
                digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    # --- predicting ------------------------------------------------------------------------------

    def _ready(self) -> language_models.Base:
        """Loads the base of a stored predictor; raises BadInput if it is not the same."""
        if self._network is None:
            assert self.weights, "fit first"
            language_models.require("predictor 'transformer'")
            base = language_models.open_base(self.base, precision=self.precision)
            if base.facts != self.facts:
                raise BadInput(
                    f"base '{self.base}' has changed since the router was fitted: bring the old"
                    " one back, or fit again"
                )
            self.stand_on(base)
        found: language_models.Base = self._network[1]
        return found

    def stand_on(self, base: language_models.Base) -> Self:
        """Puts what is stored onto a base that is loaded already, adapters inside it."""
        network = self._build(base, np.zeros((1, len(self.mean))))
        language_models.put(network, self.weights)
        self._network = (network, base)
        return self

    def adapters_off(self) -> AbstractContextManager[None]:
        """Inside, the base is what it was before the adapters."""
        adapted = self._network and hasattr(self._network[0].base, "disable_adapter")
        return self._network[0].base.disable_adapter() if adapted else nullcontext()

    def _believe(self, items: Sequence[language_models.Item]) -> Array:
        """Expected scores (n, e), NaN for experts that were never scored."""
        network = self._network[0]
        logits = self._over(network, items, network.logits, len(self.mean))
        known = np.isfinite(self.mean)
        if self.loss == "bce":
            mean = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        else:
            level = logits[:, known].mean(axis=1, keepdims=True)
            mean = np.clip(self.mean[known].mean() + self.temperature * (logits - level), 0.0, 1.0)
        return np.where(known, mean, np.nan)

    def _over(
        self, network: Any, items: Sequence[language_models.Item], what: Any, width: int = 0
    ) -> Array:
        """One row per item, texts of like length together, float64."""
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
                found = what(**{name: t.to(language_models.device()) for name, t in batch.items()})
                for j, row in zip(part, found.double().cpu().numpy(), strict=True):
                    rows[j] = row
        return np.array(rows).reshape(len(items), -1 if items else width)

    def _spread(self, mean: Array) -> Array:
        return np.broadcast_to(self.noise, mean.shape).copy()

    # --- the network -----------------------------------------------------------------------------

    def _build(self, base: language_models.Base, scores: Array) -> Any:
        """Base and head as one torch module with a fresh head that believes the mean scores."""
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
        """The logits (e,) that stand for the mean scores."""
        mean = np.nan_to_num(metrics.mean(scores), nan=0.5)
        if self.loss != "bce":
            return np.asarray(mean / self.temperature)
        inside = np.clip(mean, 1e-3, 1 - 1e-3)
        return np.asarray(np.log(inside / (1 - inside)))

    def _loss(self, cells: float) -> Callable[[Any, Any], Any]:
        """Of logits and scores (n, e); `cells` are known per row, on average.

        Dividing by what is known in this batch would make accumulated batches differ from one
        large one.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        def bce(logits: Any, scores: Any) -> Any:
            known = ~scores.isnan()
            terms = cross_entropy(logits, scores.nan_to_num(), reduction="none")
            return (terms * known).sum() / (len(scores) * cells)

        def divergence(logits: Any, scores: Any) -> Any:
            unknown = scores.isnan()
            target = (scores.nan_to_num() / self.temperature).masked_fill(unknown, -1e9)
            s, z = target.log_softmax(dim=1), logits.masked_fill(unknown, -1e9).log_softmax(dim=1)
            first, second = (s, z) if self.loss == "kl" else (z, s)
            terms = (first.exp() * (first - second)).masked_fill(unknown, 0.0)
            return terms.sum() / len(scores)

        return bce if self.loss == "bce" else divergence


def head(kind: str, states: int, width: int, start: Any) -> Any:
    """A torch module from pooled states (n, states) to logits (n, e), at first `start` (e,)."""
    import torch
    from torch import nn

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(states, elementwise_affine=False)
            self.level = nn.Parameter(start.clone())
            # Experts start alike: which column of the table is theirs must not matter.
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


def _whole(forecast: Array) -> Array:
    """Standard deviation of each expert's forecasts, (e,): all of it may be noise."""
    return np.asarray(np.sqrt(metrics.mean((forecast - metrics.mean(forecast)) ** 2)))
