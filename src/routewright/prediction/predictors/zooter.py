"""Reward-guided routing: a softmax over the experts, distilled from rewards (Zooter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from routewright import metrics
from routewright.data.outcomes import Outcomes, tags_of
from routewright.errors import BadInput, BadRouter, BadTable
from routewright.prediction.language_models import Tune
from routewright.prediction.predictors import (
    NOTHING,
    Belief,
    Folds,
    View,
    _labels,
    folds,
    view,
)
from routewright.prediction.predictors.linear import Ridge, fit_ridge
from routewright.prediction.predictors.transformer import Progress, Transformer
from routewright.prediction.stored import Arrays, under
from routewright.registry import settings
from routewright.types import Array

Mask = NDArray[np.bool_]

FOLDS = 5
SOFTNESS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.995)  # candidate temperatures, see `temperatures`
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TUNED_SOFTNESS = 0.8  # of a language model, whose training is too long to try several
PENALTY = 10.0  # while the temperature is chosen
TEXT_WEIGHTS = (10**0.5, 1.0)  # candidates, relative to the domain block
FLOOR = 1e-3  # share of the uniform distribution mixed into labels, so that their logs are finite
STEPS = 100  # of the optimiser, at most


def _quiet(description: str, share: float) -> None:
    pass


@dataclass
class Zooter:
    """Reward-guided routing (arXiv 2311.08692): a softmax over the experts, distilled from the
    rewards of their answers.

    Labels are softmax(reward / `temperature`), or with `hard` only the winner. Each label is mixed
    with the mean label of its tags, with the weights `beta` and 1 − `beta`. `leave_one_out` keeps a
    query's own label out of its tag means, `shrinkage` draws the means of rare tags to the overall
    mean, and a query without tags (`untagged`) keeps its `own` label or gets the `mean`. `tags` are
    those of the `table` (its domains if it has none), its `domain`, `clusters=K` of the queries'
    vectors, or `none`. `reward` is the measure to learn from; `auto` is the rewards if the table
    has any, otherwise the scores. `direction` is `forward`, KL(label ‖ router), or `reverse`,
    KL(router ‖ label). A temperature, a `penalty` or a `text_weight` (relative to the domain and
    surface blocks) of None is chosen by validation. The heads are linear functions of the first
    `width` columns of a frozen encoder's vectors. With a `base` (a Hugging Face encoder or causal
    model by name or folder, extra `lm`) or a `tune` (`lora`, `full` or `frozen`), they are the head
    of a language model that is trained with them: by default mDeBERTa-v3-base, as published, with
    `lora`. `epochs` and `learning_rate` are those of the predictor `transformer`.

    The paper's router names a winner and does not consider prices. Inverting the softmax gives
    expected scores: with centred logits c, τ c_m is the expected reward of expert m minus the mean
    of all experts. So score ≈ mean_m + level(q) + slope (c_m(q) − c̄_m). The slope turns logits into
    scores and is fitted to held-out scores. The level, which says how hard the query is for all
    experts, is a ridge regression of its own. The spread is a jackknife over the folds.
    """

    beta: Annotated[float, Field(ge=0, le=1)] = 0.3
    tags: str = "table"
    temperature: PositiveFloat | None = None
    hard: bool = False
    direction: Literal["forward", "reverse"] = "forward"
    reward: str = "auto"
    shrinkage: NonNegativeFloat = 20.0
    leave_one_out: bool = True
    untagged: Literal["own", "mean"] = "own"
    penalty: PositiveFloat | None = None
    text_weight: PositiveFloat | None = None
    width: PositiveInt = 128
    base: str | None = None
    tune: Tune | None = None
    epochs: PositiveInt = 3
    learning_rate: NonNegativeFloat | None = None
    progress: Progress = field(default=_quiet, repr=False, compare=False)
    signals: Signals | None = field(default=None, repr=False)
    view: View = field(default=NOTHING, repr=False)
    distillation: Distillation | None = field(default=None, repr=False)

    @property
    def reads_text(self) -> bool:
        """True for a language model, which reads texts; the linear heads read vectors."""
        return self.base is not None or self.tune is not None

    def given(self, outcomes: Outcomes) -> Self:
        """Takes the rewards and tags of the table on whose rows `fit` will be called.

        Raises BadTable if the table lacks the measure `reward`, and BadInput for unknown `tags`.
        """
        measures = outcomes.measures
        name = ("reward" if "reward" in measures else "score") if _auto(self) else self.reward
        if name not in measures:
            raise BadTable(
                f"the table has no column {name}::EXPERT: run `routewright reward`, or choose the"
                f" reward among {', '.join(measures)}"
            )
        rewards = None if _auto(self) and name == "score" else measures[name]
        self.signals = Signals(rewards, _table_tags(outcomes, self.tags))
        return self

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        fold = folds(len(x), FOLDS, seed)
        self.fit_held_out(x, scores, blocks=blocks, fold=fold, seed=seed)
        return self

    def fit_held_out(
        self, x: Array, scores: Array, *, blocks: Mapping[str, slice], fold: Folds, seed: int = 0
    ) -> Belief:
        """Fits; also returns beliefs about each row from a fit without its fold."""
        if self.reads_text:  # a training for every fold would take too long
            fold = np.unique(fold, return_inverse=True)[1] % 2
        else:
            self.view = self._view(self.text_weight or TEXT_WEIGHTS[0], blocks)
        tags, rewards = self._tags_and_rewards(x, scores, blocks, seed)
        pool = np.isfinite(metrics.mean(scores)) & np.isfinite(metrics.mean(rewards))
        rewards = _labels.filled(rewards)[:, pool]
        rows = _TrainingRows(self._columns(x), rewards, tags, scores[:, pool], seed)
        tuning = self._validate(rows, fold)
        if self.text_weight is None and not self.reads_text:
            rows, tuning = self._choose_text_weight(rows, tuning, x, blocks, fold)
        held_out = rows.held_out(self, tuning, fold)
        mean = self._held_out_scores(rows, held_out, fold, scores, pool)
        heads = rows.heads(self, tuning, slice(None))
        self.distillation = _distil(rows, heads, held_out, tuning, metrics.mean(scores), pool)
        error = _jackknife(heads.logits(rows.columns), held_out, len(np.unique(fold)))
        self.distillation.error[pool] = self.distillation.slope * error
        return Belief(mean, np.broadcast_to(self._spread(), mean.shape).copy())

    def predict(self, x: Array) -> Belief:
        assert self.distillation is not None, "fit first"
        mean = self.distillation.mean_score(self._columns(x))
        return Belief(mean, np.broadcast_to(self._spread(), mean.shape).copy())

    def distribution(self, x: Array) -> Array:
        """The output of the paper's router: the probability (n, e) that an expert has the highest
        reward. The paper's rule is to ask the most probable expert. An expert that was never scored
        has probability 0."""
        assert self.distillation is not None, "fit first"
        probability = np.zeros((len(x), len(self.distillation.mean)))
        logits = self.distillation.heads.logits(self._columns(x))
        probability[:, self.distillation.pool] = _labels.soft(logits, 1.0)
        return probability

    def options(self) -> dict[str, Any]:
        assert self.distillation is not None, "fit first"
        tuning, heads = self.distillation.tuning._asdict(), self.distillation.heads.options()
        return {**settings(self), "chosen": tuning, "heads": heads, "view": self.view.to_json()}

    def arrays(self) -> dict[str, Any]:
        assert self.distillation is not None, "fit first"
        return self.distillation.arrays()

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        tuning = Tuning(**options["chosen"])
        fields = {k: v for k, v in options.items() if k not in ("chosen", "heads", "view")}
        distillation = Distillation.load(tuning, options["heads"], arrays)
        zooter = cls(**fields, view=View.from_json(options["view"]), distillation=distillation)
        if zooter.reads_text != isinstance(distillation.heads, LanguageModelHeads):
            raise BadRouter("predictor 'zooter' has heads of another kind than its base")
        return zooter

    def _view(self, text: float, blocks: Mapping[str, slice]) -> View:
        return view(blocks, text=text, domain=2.0, surface=0.3, width=self.width)

    def _columns(self, x: Any) -> Any:
        return x if self.reads_text else self.view(x)

    # --- fitting -----------------------------------------------------------------------------

    def label(self, rewards: Array, tags: _labels.Incidence, temperature: float) -> Array:
        """The labels (n, e) of some queries; the tag means are computed on these queries only."""
        labels = _labels.hard(rewards) if self.hard else _labels.soft(rewards, temperature)
        return _labels.enhanced(
            labels,
            tags,
            beta=self.beta,
            shrinkage=self.shrinkage,
            leave_one_out=self.leave_one_out,
            untagged=self.untagged,
        )

    def _tags_and_rewards(
        self, x: Array, scores: Array, blocks: Mapping[str, slice], seed: int
    ) -> tuple[_labels.Incidence, Array]:
        """The tags (n, t) and rewards (n, e) of the table; without a table, the domain block of the
        vectors and the scores."""
        rewards = scores
        if self.signals is not None and self.signals.rewards is not None:
            rewards = self.signals.rewards
        if self.tags.startswith("clusters") and self.reads_text:
            raise BadInput(
                "tags 'clusters' need vectors, but a language model reads texts: write tags into"
                " the table first, with `routewright tag --clusters K`"
            )
        if self.tags.startswith("clusters"):
            tags = clusters(x, blocks, _count(self.tags), seed)
        elif self.signals is not None:
            tags = _labels.incidence(self.signals.tags)[0]
        else:
            tags = _domain_tags(x, {} if self.tags == "none" or self.reads_text else blocks)
        if len(rewards) != len(x) or tags.shape[0] != len(x):
            raise BadInput(
                "zooter has the tags of another table: call `given` with the rows to fit"
            )
        return tags, rewards

    def _validate(self, rows: _TrainingRows, fold: Folds) -> Tuning:
        """Chooses the temperature and then the penalty whose held-out logits explain the most of
        the differences between the experts' scores."""
        if self.reads_text:
            default = temperatures(rows.rewards, (TUNED_SOFTNESS,))[0]
            return Tuning(self.temperature or default, float("nan"))
        tuning = Tuning(self.temperature or 1.0, self.penalty or PENALTY)
        if self.temperature is None and not self.hard:
            candidates = [tuning._replace(temperature=t) for t in temperatures(rows.rewards)]
            tuning = rows.best(self, candidates, fold)
        tuning = rows.best(self, self._penalties(tuning), fold)
        if self.hard:
            return tuning._replace(temperature=float("nan"))
        return tuning

    def _penalties(self, tuning: Tuning) -> list[Tuning]:
        return [
            tuning._replace(penalty=p) for p in ((self.penalty,) if self.penalty else PENALTIES)
        ]

    def _choose_text_weight(
        self,
        rows: _TrainingRows,
        tuning: Tuning,
        x: Array,
        blocks: Mapping[str, slice],
        fold: Folds,
    ) -> tuple[_TrainingRows, Tuning]:
        """Sets the view with the text weight that explains the most; returns its rows."""
        trials = [(tuning, rows, self.view)]
        for weight in TEXT_WEIGHTS[1:]:
            other_view = self._view(weight, blocks)
            other = replace(rows, columns=other_view(x))
            trials.append((other.best(self, self._penalties(tuning), fold), other, other_view))
        tuning, rows, self.view = max(trials, key=lambda trial: trial[0].explained)
        return rows, tuning

    def _held_out_scores(
        self, rows: _TrainingRows, logits: Array, fold: Folds, scores: Array, pool: Mask
    ) -> Array:
        """Predicted scores (n, e) of each row from held-out logits (n, pool), with a slope, level
        and means that are fitted without its fold."""
        predictions = np.empty_like(scores)
        for k in np.unique(fold):
            train, test = fold != k, fold == k
            part = _distil(
                rows.take(train), None, logits[train], NO_TUNING, metrics.mean(scores[train]), pool
            )
            predictions[test] = part.combine(rows.columns[test], logits[test])
        return predictions

    def _spread(self) -> Array:
        assert self.distillation is not None, "fit first"
        return self.distillation.error


class Signals(NamedTuple):
    """What Zooter learns from in a table besides scores; `rewards` (n, e) None means the scores."""

    rewards: Array | None
    tags: Sequence[Sequence[str]]


class Tuning(NamedTuple):
    """The settings that validation chose, and the R² of held-out differences between experts."""

    temperature: float  # NaN for hard labels
    penalty: float
    explained: float = float("nan")


NO_TUNING = Tuning(float("nan"), float("nan"))


class Heads(NamedTuple):
    """One linear head per expert on a frozen encoder's vectors (n, width)."""

    centre: Array  # (width,)
    weights: Array  # (width, e)
    bias: Array  # (e,)

    def logits(self, columns: Array) -> Array:
        """Logits (n, e), centred over the experts, because only differences have a meaning."""
        raw = (columns - self.centre) @ self.weights + self.bias
        return np.asarray(raw - raw.mean(axis=1, keepdims=True))

    def options(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, Any]:
        return self._asdict()


class LanguageModelHeads(NamedTuple):
    """The heads of a language model that was trained with them; they read texts (n,)."""

    model: Transformer

    def logits(self, texts: Any) -> Array:
        """Logits (n, e), centred over the experts."""
        raw = self.model.logits(texts)
        return np.asarray(raw - raw.mean(axis=1, keepdims=True))

    def options(self) -> dict[str, Any]:
        return self.model.options()

    def arrays(self) -> dict[str, Any]:
        return self.model.arrays()


@dataclass(frozen=True)
class _TrainingRows:
    """The rows that the heads are fitted on, for the experts that have both scores and rewards."""

    columns: Any  # (n, width), or (n,) texts
    rewards: Array  # (n, e), gaps filled
    tags: _labels.Incidence
    scores: Array  # (n, e), NaN where unknown
    seed: int

    def take(self, rows: Any) -> _TrainingRows:
        return replace(
            self,
            columns=self.columns[rows],
            rewards=self.rewards[rows],
            tags=self.tags[rows],
            scores=self.scores[rows],
        )

    def heads(self, zooter: Zooter, tuning: Tuning, rows: Any) -> Heads | LanguageModelHeads:
        """Heads fitted to the labels of some rows."""
        part = self.take(rows)
        labels = zooter.label(part.rewards, part.tags, tuning.temperature)
        if zooter.reads_text:
            return fit_language_model(part.columns, labels, zooter, self.seed)
        return fit_heads(part.columns, labels, tuning.penalty, zooter.direction)

    def held_out(self, zooter: Zooter, tuning: Tuning, fold: Folds) -> Array:
        """Logits (n, e) of each row from heads and tag means that are fitted without its fold."""
        logits = np.empty_like(self.rewards)
        for k in np.unique(fold):
            heads = self.heads(zooter, tuning, fold != k)
            logits[fold == k] = heads.logits(self.columns[fold == k])
        return logits

    def best(self, zooter: Zooter, candidates: Sequence[Tuning], fold: Folds) -> Tuning:
        """The candidate whose held-out logits explain the most, with its R²."""
        trials = []
        for tuning in candidates:
            slope, explained = _slope(self.held_out(zooter, tuning, fold), self.scores)
            trials.append(tuning._replace(explained=explained if slope > 0 else 0.0))
        return max(trials, key=lambda trial: trial.explained)


@dataclass(frozen=True)
class Distillation:
    """The fitted heads, and the parameters that turn their logits into scores."""

    heads: Heads | LanguageModelHeads
    tuning: Tuning
    slope: float  # score per logit
    typical: Array  # (pool,) mean logits
    level: Ridge | None  # predicts the mean score over the experts; None for a language model
    mean: Array  # (e,) mean score, NaN for experts never scored
    pool: Mask  # (e,) true for the experts of the heads
    error: Array  # (e,) standard deviation of the belief

    def mean_score(self, columns: Array) -> Array:
        """Predicted scores (n, e)."""
        return self.combine(columns, self.heads.logits(columns))

    def combine(self, columns: Array, logits: Array) -> Array:
        """Predicted scores (n, e) from logits (n, pool)."""
        deviation = logits - self.typical
        deviation = self.slope * (deviation - deviation.mean(axis=1, keepdims=True))
        if self.level is not None:
            deviation = deviation + self.level.predict(columns).mean - self.level.mean
        scores = np.repeat(self.mean[None], len(columns), axis=0)
        scores[:, self.pool] += deviation
        return np.clip(scores, 0.0, 1.0)

    def arrays(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("typical", "mean", "pool", "error")}
        heads = {f"heads.{k}": v for k, v in self.heads.arrays().items()}
        ridge = {} if self.level is None else self.level._asdict()
        level = {f"level.{k}": v for k, v in ridge.items()}
        return {**own, "slope": np.array([self.slope]), **heads, **level}

    @classmethod
    def load(cls, tuning: Tuning, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        """From the arrays of `arrays()` and the heads' options, which linear heads do not have."""
        part = Arrays("predictor 'zooter'", arrays)
        mean = part.take("mean", "experts", unknown=True)
        pool = part.take("pool", "experts", kind="biu", least=0, most=1).astype(bool)
        heads: Heads | LanguageModelHeads
        if options:
            heads = LanguageModelHeads(Transformer.load(options, under(arrays, "heads.")))
        else:
            heads = Heads(
                part.take("heads.centre", "columns"),
                part.take("heads.weights", "columns", int(pool.sum())),
                part.take("heads.bias", int(pool.sum())),
            )
        return cls(
            heads=heads,
            tuning=tuning,
            slope=float(part.take("slope", 1)[0]),
            typical=part.take("typical", int(pool.sum())),
            level=_load_level(part) if under(arrays, "level.") else None,
            mean=mean,
            pool=pool,
            error=part.take("error", "experts", unknown=True),
        )


def _load_level(part: Arrays) -> Ridge:
    return Ridge(
        part.take("level.centre", "columns"),
        part.take("level.weights", "columns", 1),
        part.take("level.mean", 1),
        part.take("level.noise", 1, unknown=True),
    )


def _distil(
    rows: _TrainingRows,
    heads: Heads | LanguageModelHeads | None,
    held_out: Array,
    tuning: Tuning,
    mean: Array,
    pool: Mask,
) -> Distillation:
    """Fits the slope and the level to held-out logits (n, pool) and the rows' scores."""
    slope, _ = _slope(held_out, rows.scores)
    level = metrics.mean((rows.scores - metrics.mean(rows.scores)).T) + np.nanmean(
        metrics.mean(rows.scores)
    )
    mask = np.isfinite(level)
    return Distillation(
        heads=heads or Heads(np.zeros(0), np.zeros((0, 0)), np.zeros(0)),
        tuning=tuning,
        slope=max(slope, 0.0),
        typical=held_out.mean(axis=0),
        level=(
            None if rows.columns.ndim == 1 else fit_ridge(rows.columns[mask], level[mask, None])
        ),
        mean=mean,
        pool=pool,
        error=np.where(np.isfinite(mean), 0.0, np.nan),
    )


def _slope(logits: Array, scores: Array) -> tuple[float, float]:
    """The score per logit, and the share of the scores' differences between experts (R²) that the
    logits explain.

    Both tables (n, e) are centred per expert and then per query, over the known scores.
    """
    mask = np.isfinite(scores)

    def differences(table: Array) -> Array:
        centred = np.where(mask, table - metrics.mean(np.where(mask, table, np.nan)), 0.0)
        row = centred.sum(axis=1, keepdims=True) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        return np.where(mask, centred - row, 0.0)

    c, d = differences(logits), differences(np.where(mask, scores, 0.0))
    product, logits_square, square = float((c * d).sum()), float((c * c).sum()), (d * d).sum()
    if logits_square < 1e-12 or square < 1e-12:
        return 0.0, 0.0
    return product / logits_square, product**2 / logits_square / float(square)


def _jackknife(logits: Array, held_out: Array, count: int) -> Array:
    """The jackknife's standard deviation (e,) of logits (n, e), from those without one of `count`
    folds."""
    return np.asarray(np.sqrt((count - 1) * ((logits - held_out) ** 2).mean(axis=0)))


def fit_heads(columns: Array, labels: Array, penalty: float, direction: str = "forward") -> Heads:
    """Linear heads whose softmax is closest to the labels (n, e), by L-BFGS.

    Minimises Σ KL + penalty/2 · ‖weights‖²; the biases have no penalty. `forward` is
    KL(label ‖ head), the cross-entropy on soft labels up to a constant. `reverse` is
    KL(head ‖ label); a small share of the uniform distribution is mixed into the labels, so that it
    is finite.
    """
    from scipy.optimize import minimize

    n, width = columns.shape
    e = labels.shape[1]
    centre = columns.mean(axis=0) if n else np.zeros(width)
    a = columns - centre
    distance = {"forward": _forward, "reverse": _reverse}[direction]
    # In coordinates u with weights = whiten @ u, the curvature is about the same in all
    # directions, so that a few steps suffice.
    share = labels.mean(axis=0) if n else np.ones(e) / e
    curvature = max(float((share * (1 - share)).mean()), 1e-6)
    whiten = np.linalg.inv(np.linalg.cholesky(curvature * a.T @ a + penalty * np.eye(width))).T
    b, ridge = a @ whiten, penalty * whiten.T @ whiten
    scale = 1 / np.sqrt(curvature * max(n, 1))  # of the biases

    def objective(flat: Array) -> tuple[float, Array]:
        u, bias = flat[: width * e].reshape(width, e), scale * flat[width * e :]
        loss, gradient = distance(b @ u + bias, labels)
        shrinkage = ridge @ u
        loss += float((u * shrinkage).sum()) / 2
        slopes = b.T @ gradient + shrinkage
        return loss, np.concatenate([slopes.ravel(), scale * gradient.sum(axis=0)])

    start = np.zeros((width + 1) * e)
    best = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    weights = whiten @ best[: width * e].reshape(width, e)
    return Heads(centre, weights, scale * best[width * e :])


def fit_language_model(texts: Any, labels: Array, zooter: Zooter, seed: int) -> LanguageModelHeads:
    """A language model whose softmax is closest to the labels (n, e).

    The predictor `transformer` learns softmax(scores / τ), so its scores are the logs of the
    labels, with τ = 1.
    """
    model = Transformer(
        zooter.base or Transformer.base,
        tune=zooter.tune or Transformer.tune,
        epochs=zooter.epochs,
        learning_rate=zooter.learning_rate,
        loss="kl" if zooter.direction == "forward" else "reverse_kl",
        temperature=1.0,
        progress=zooter.progress,
    )
    scores = np.log((1 - FLOOR) * labels + FLOOR / labels.shape[1])
    return LanguageModelHeads(model.fit(texts, scores, blocks={}, seed=seed))


def _forward(logits: Array, labels: Array) -> tuple[float, Array]:
    """Σ KL(label ‖ softmax) without the labels' own entropy, and its gradient (n, e)."""
    log = _log_softmax(logits)
    return float(-(labels * log).sum()), np.exp(log) - labels


def _reverse(logits: Array, labels: Array) -> tuple[float, Array]:
    """Σ KL(softmax ‖ label), and its gradient (n, e)."""
    log = _log_softmax(logits)
    probability = np.exp(log)
    ratio = log - np.log((1 - FLOOR) * labels + FLOOR / labels.shape[1])
    divergence = (probability * ratio).sum(axis=1, keepdims=True)
    return float(divergence.sum()), probability * (ratio - divergence)


def _log_softmax(logits: Array) -> Array:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(logits, axis=1))


def temperatures(rewards: Array, softness: Sequence[float] = SOFTNESS) -> list[float]:
    """Temperatures whose labels have given entropies, as shares from that of hard labels to log e.

    The labels therefore do not depend on the scale of the rewards (n, e).
    """
    least, most = _labels.entropy(_labels.hard(rewards)), np.log(max(rewards.shape[1], 2))
    return [
        _labels.temperature_for(rewards, least + max(share, 0.05) * (most - least))
        for share in softness
    ]


# --- tags ----------------------------------------------------------------------------------


def clusters(x: Array, blocks: Mapping[str, slice], count: int, seed: int) -> _labels.Incidence:
    """Clusters as tags: the incidence matrix of `count` k-means clusters of the queries' texts."""
    from sklearn.cluster import KMeans

    columns = view(blocks, domain=0.0, surface=0.0, unit=True)(x)
    count = min(count, len(np.unique(columns, axis=0)))
    numbers = KMeans(count, n_init=3, random_state=seed).fit_predict(columns)
    return _labels.incidence([[str(number)] for number in numbers])[0]


def _table_tags(outcomes: Outcomes, tags: str) -> Sequence[Sequence[str]]:
    """The tags of each row that the option `tags` names; clusters are computed later."""
    if tags.startswith("clusters"):
        _count(tags)
        return ()
    if tags not in ("table", "domain", "none"):
        raise BadInput(f"tags '{tags}' is unknown: choose table, domain, clusters=K or none")
    return tags_of(outcomes.queries, tags)


def _count(tags: str) -> int:
    """`clusters=40` ▶ 40."""
    kind, _, count = tags.partition("=")
    if kind != "clusters" or not count.isdigit() or int(count) < 2:
        raise BadInput(f"tags '{tags}' is unknown: write clusters=K with a number K of 2 or more")
    return int(count)


def _domain_tags(x: Array, blocks: Mapping[str, slice]) -> _labels.Incidence:
    """The tags in the `domain` block of the vectors."""
    from scipy.sparse import csr_matrix

    return csr_matrix((x[:, blocks.get("domain", slice(0, 0))] > 0).astype(np.float64))


def _auto(zooter: Zooter) -> bool:
    return zooter.reward == "auto"
