"""Reward-guided routing: a softmax over experts, distilled from rewards (Zooter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from routewright import metrics
from routewright.data.outcomes import Outcomes, tags_of
from routewright.errors import BadInput, BadTable
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
from routewright.registry import settings
from routewright.types import Array

Mask = NDArray[np.bool_]

FOLDS = 5
SOFTNESS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.995)  # candidate temperatures, see `temperatures`
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TUNED_SOFTNESS = 0.8  # where a training is too long to try several
PENALTY = 10.0  # while the temperature is chosen
TEXTS = (10**0.5, 1.0)  # candidate weights of the text beside the domain
FLOOR = 1e-3  # share of the uniform distribution mixed into labels, so that their logs exist
STEPS = 100  # of the optimiser


def _quiet(doing: str, share: float) -> None:
    pass


@dataclass
class Zooter:
    """Reward-guided routing (arXiv 2311.08692): a softmax over the experts, distilled from what
    each one's answers earned.

    Labels are softmax(reward / `temperature`), or with `hard` the winner alone; each is mixed,
    `beta` : 1 − `beta`, with the mean label of its tags (`shrinkage`, `leave_one_out` and
    `untagged` as in `labels.enhanced`). `tags` are those of the `table` (its domains where it has
    none), its `domain`, `clusters=K` of the queries' vectors, or `none`. `reward` is the measure
    to learn from; `auto` takes rewards where the table has any, else the scores. `direction` is
    `forward`, KL(label ‖ router), or `reverse`, KL(router ‖ label). A temperature or `penalty` of
    None is chosen by validation, and so is a `text_weight` (of the text beside domain and form).
    The heads are linear, on the first `width` columns of a frozen encoder's vectors; with a `base`
    (a Hugging Face encoder or causal model by name or folder, extra `lm`) or a `tune` (`lora`,
    `full` or `frozen`) they are those of a language model that is trained with them:
    mDeBERTa-v3-base, as published, if none is named, and `lora`. `epochs` and `learning_rate` are
    as for the predictor `transformer`.

    The paper's router names a winner and knows no price. Inverting the softmax gives more: with
    centred logits c, τ c_m is what expert m is expected to earn above the mean of all experts.
    So score ≈ mean_m + level(q) + slope (c_m(q) − c̄_m): the slope turns logits into scores and is
    fitted to held-out ones, and the level, how well the query goes for everyone, is a ridge
    regression of its own. The spread is a jackknife over the folds.
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
    lessons: Lessons | None = field(default=None, repr=False)
    view: View = field(default=NOTHING, repr=False)
    distilled: Distilled | None = field(default=None, repr=False)

    @property
    def reads_text(self) -> bool:
        """A language model reads the texts themselves; encoders have read them already."""
        return self.base is not None or self.tune is not None

    def given(self, outcomes: Outcomes) -> Self:
        """Shows it the table whose rows it will be fitted on: rewards and tags are there."""
        measures = outcomes.measures
        name = ("reward" if "reward" in measures else "score") if _auto(self) else self.reward
        if name not in measures:
            raise BadTable(
                f"there is no {name}::EXPERT to learn from: run `routewright reward`, or choose"
                f" among {', '.join(measures)}"
            )
        rewards = None if _auto(self) and name == "score" else measures[name]
        self.lessons = Lessons(rewards, _carried(outcomes, self.tags))
        return self

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        fold = folds(len(x), FOLDS, seed)
        self.fit_held_out(x, scores, blocks=blocks, fold=fold, seed=seed)
        return self

    def fit_held_out(
        self, x: Array, scores: Array, *, blocks: Mapping[str, slice], fold: Folds, seed: int = 0
    ) -> Belief:
        """Fits; also gives beliefs about each row from a router that did not see it."""
        if self.reads_text:  # a training for every fold would take too long
            fold = np.unique(fold, return_inverse=True)[1] % 2
        else:
            self.view = self._weighing(self.text_weight or TEXTS[0], blocks)
        tagged, rewards = self._lessons(x, scores, blocks, seed)
        pool = np.isfinite(metrics.mean(scores)) & np.isfinite(metrics.mean(rewards))
        rewards = _labels.filled(rewards)[:, pool]
        lesson = _Lesson(self._columns(x), rewards, tagged, scores[:, pool], seed)
        chosen = self._validate(lesson, fold)
        if self.text_weight is None and not self.reads_text:
            lesson, chosen = self._weigh_text(lesson, chosen, x, blocks, fold)
        held = lesson.held_out(self, chosen, fold)
        belief = self._believe_held_out(lesson, held, fold, scores, pool)
        heads = lesson.heads(self, chosen, slice(None))
        self.distilled = _distil(lesson, heads, held, chosen, metrics.mean(scores), pool)
        moved = _jackknife(heads.logits(lesson.columns), held, len(np.unique(fold)))
        self.distilled.error[pool] = self.distilled.slope * moved
        return Belief(belief, np.broadcast_to(self._spread(), belief.shape).copy())

    def predict(self, x: Array) -> Belief:
        assert self.distilled is not None, "fit first"
        mean = self.distilled.mean_score(self._columns(x))
        return Belief(mean, np.broadcast_to(self._spread(), mean.shape).copy())

    def distribution(self, x: Array) -> Array:
        """What the paper's router says: the probability that each expert earns the most, (n, e);
        its rule is to ask the argmax. Experts that were never scored have none."""
        assert self.distilled is not None, "fit first"
        found = np.zeros((len(x), len(self.distilled.mean)))
        logits = self.distilled.heads.logits(self._columns(x))
        found[:, self.distilled.pool] = _labels.soft(logits, 1.0)
        return found

    def options(self) -> dict[str, Any]:
        assert self.distilled is not None, "fit first"
        chosen, heads = self.distilled.chosen._asdict(), self.distilled.heads.options()
        stored = {"chosen": chosen, "heads": heads, "view": self.view.to_json()}
        return {**settings(self), **stored}

    def arrays(self) -> dict[str, Any]:
        assert self.distilled is not None, "fit first"
        return self.distilled.arrays()

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        chosen = Chosen(**options["chosen"])
        known = {k: v for k, v in options.items() if k not in ("chosen", "heads", "view")}
        distilled = Distilled.load(chosen, options["heads"], arrays)
        return cls(**known, view=View.from_json(options["view"]), distilled=distilled)

    def _weighing(self, text: float, blocks: Mapping[str, slice]) -> View:
        return view(blocks, text=text, domain=2.0, surface=0.3, width=self.width)

    def _columns(self, x: Any) -> Any:
        return x if self.reads_text else self.view(x)

    # --- fitting -----------------------------------------------------------------------------

    def label(self, rewards: Array, tagged: _labels.Incidence, temperature: float) -> Array:
        """The labels of some queries, (n, e); tag means are those of these queries alone."""
        plain = _labels.hard(rewards) if self.hard else _labels.soft(rewards, temperature)
        return _labels.enhanced(
            plain,
            tagged,
            beta=self.beta,
            shrinkage=self.shrinkage,
            leave_one_out=self.leave_one_out,
            untagged=self.untagged,
        )

    def _lessons(
        self, x: Array, scores: Array, blocks: Mapping[str, slice], seed: int
    ) -> tuple[_labels.Incidence, Array]:
        """Tags and rewards; without a table, the labels among the vectors and the scores."""
        rewards = scores
        if self.lessons is not None and self.lessons.rewards is not None:
            rewards = self.lessons.rewards
        if self.tags.startswith("clusters") and self.reads_text:
            raise BadInput(
                "clusters need vectors, and a language model reads texts: write tags with"
                " `routewright tag --clusters K` first"
            )
        if self.tags.startswith("clusters"):
            tagged = clusters(x, blocks, _count(self.tags), seed)
        elif self.lessons is not None:
            tagged = _labels.incidence(self.lessons.tags)[0]
        else:
            tagged = _among(x, {} if self.tags == "none" or self.reads_text else blocks)
        if len(rewards) != len(x) or tagged.shape[0] != len(x):
            raise BadInput("zooter was shown another table than the one that it is fitted on")
        return tagged, rewards

    def _validate(self, lesson: _Lesson, fold: Folds) -> Chosen:
        """Temperature, then penalty: those whose held-out logits explain most of the differences
        between the experts' scores."""
        if self.reads_text:
            usual = temperatures(lesson.rewards, (TUNED_SOFTNESS,))[0]
            return Chosen(self.temperature or usual, float("nan"))
        chosen = Chosen(self.temperature or 1.0, self.penalty or PENALTY)
        if self.temperature is None and not self.hard:
            tried = [chosen._replace(temperature=t) for t in temperatures(lesson.rewards)]
            chosen = lesson.best(self, tried, fold)
        chosen = lesson.best(self, self._penalties(chosen), fold)
        if self.hard:
            return chosen._replace(temperature=float("nan"))
        return chosen

    def _penalties(self, chosen: Chosen) -> list[Chosen]:
        return [
            chosen._replace(penalty=p) for p in ((self.penalty,) if self.penalty else PENALTIES)
        ]

    def _weigh_text(
        self, lesson: _Lesson, chosen: Chosen, x: Array, blocks: Mapping[str, slice], fold: Folds
    ) -> tuple[_Lesson, Chosen]:
        """The same lesson, seen at the weight of the text at which it explains most."""
        trials = [(chosen, lesson, self.view)]
        for text in TEXTS[1:]:
            seen = self._weighing(text, blocks)
            other = replace(lesson, columns=seen(x))
            trials.append((other.best(self, self._penalties(chosen), fold), other, seen))
        chosen, lesson, self.view = max(trials, key=lambda trial: trial[0].explained)
        return lesson, chosen

    def _believe_held_out(
        self, lesson: _Lesson, held: Array, fold: Folds, scores: Array, pool: Mask
    ) -> Array:
        """Beliefs (n, e) about each row from heads, slope and means that did not see it."""
        found = np.empty_like(scores)
        for k in np.unique(fold):
            inside, outside = fold != k, fold == k
            part = lesson.take(inside)
            without = _distil(
                part, None, held[inside], NOTHING_CHOSEN, metrics.mean(scores[inside]), pool
            )
            found[outside] = without.combine(lesson.columns[outside], held[outside])
        return found

    def _spread(self) -> Array:
        assert self.distilled is not None, "fit first"
        return self.distilled.error


class Lessons(NamedTuple):
    """What a table teaches beyond scores: rewards (n, e), None for the scores, and tags."""

    rewards: Array | None
    tags: Sequence[Sequence[str]]


class Chosen(NamedTuple):
    """What validation has chosen, and how well that explains held-out differences (R²)."""

    temperature: float  # NaN for hard labels
    penalty: float
    explained: float = float("nan")


NOTHING_CHOSEN = Chosen(float("nan"), float("nan"))


class Heads(NamedTuple):
    """One linear head per expert on a frozen encoder's vectors (n, width)."""

    centre: Array  # (width,)
    weights: Array  # (width, e)
    bias: Array  # (e,)

    def logits(self, columns: Array) -> Array:
        """Centred over the experts, (n, e): only differences mean something."""
        raw = (columns - self.centre) @ self.weights + self.bias
        return np.asarray(raw - raw.mean(axis=1, keepdims=True))

    def options(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, Any]:
        return self._asdict()


class Tuned(NamedTuple):
    """The heads of a language model that was trained with them; reads texts (n,)."""

    model: Transformer

    def logits(self, texts: Any) -> Array:
        raw = self.model.logits(texts)
        return np.asarray(raw - raw.mean(axis=1, keepdims=True))

    def options(self) -> dict[str, Any]:
        return self.model.options()

    def arrays(self) -> dict[str, Any]:
        return self.model.arrays()


@dataclass(frozen=True)
class _Lesson:
    """What the heads learn from, of the experts that have both scores and rewards."""

    columns: Any  # (n, width), or (n,) texts
    rewards: Array  # (n, e), gaps filled
    tagged: _labels.Incidence
    scores: Array  # (n, e), NaN where unknown
    seed: int

    def take(self, rows: Any) -> _Lesson:
        return replace(
            self,
            columns=self.columns[rows],
            rewards=self.rewards[rows],
            tagged=self.tagged[rows],
            scores=self.scores[rows],
        )

    def heads(self, zooter: Zooter, chosen: Chosen, rows: Any) -> Heads | Tuned:
        part = self.take(rows)
        wanted = zooter.label(part.rewards, part.tagged, chosen.temperature)
        if zooter.reads_text:
            return fit_tuned(part.columns, wanted, zooter, self.seed)
        return fit_heads(part.columns, wanted, chosen.penalty, zooter.direction)

    def held_out(self, zooter: Zooter, chosen: Chosen, fold: Folds) -> Array:
        """Logits (n, e) of each row from heads and tag means that it is no part of."""
        found = np.empty_like(self.rewards)
        for k in np.unique(fold):
            heads = self.heads(zooter, chosen, fold != k)
            found[fold == k] = heads.logits(self.columns[fold == k])
        return found

    def best(self, zooter: Zooter, tried: Sequence[Chosen], fold: Folds) -> Chosen:
        judged = []
        for one in tried:
            slope, explained = _slope(self.held_out(zooter, one, fold), self.scores)
            judged.append(one._replace(explained=explained if slope > 0 else 0.0))
        return max(judged, key=lambda one: one.explained)


@dataclass(frozen=True)
class Distilled:
    """Heads, and how to read scores from their logits."""

    heads: Heads | Tuned
    chosen: Chosen
    slope: float  # score per logit
    typical: Array  # (pool,) mean logits
    level: Ridge | None  # of the mean score over the experts
    mean: Array  # (e,) mean score, NaN for experts never scored
    pool: Mask  # (e,) whom the heads know
    error: Array  # (e,) standard deviation of the belief

    def mean_score(self, columns: Array) -> Array:
        return self.combine(columns, self.heads.logits(columns))

    def combine(self, columns: Array, logits: Array) -> Array:
        moved = logits - self.typical
        moved = self.slope * (moved - moved.mean(axis=1, keepdims=True))
        if self.level is not None:
            moved = moved + self.level.predict(columns).mean - self.level.mean
        found = np.repeat(self.mean[None], len(columns), axis=0)
        found[:, self.pool] += moved
        return np.clip(found, 0.0, 1.0)

    def arrays(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("typical", "mean", "pool", "error")}
        heads = {f"heads.{k}": v for k, v in self.heads.arrays().items()}
        fitted = {} if self.level is None else self.level._asdict()
        level = {f"level.{k}": v for k, v in fitted.items()}
        return {**own, "slope": np.array([self.slope]), **heads, **level}

    @classmethod
    def load(cls, chosen: Chosen, tuned: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        def under(part: str) -> dict[str, Any]:
            return {k.removeprefix(part): v for k, v in arrays.items() if k.startswith(part)}

        own = {name: arrays[name] for name in ("typical", "mean", "error")}
        return cls(
            heads=_tuned(tuned, under("heads.")) if tuned else Heads(**under("heads.")),
            chosen=chosen,
            slope=float(arrays["slope"][0]),
            level=Ridge(**level) if (level := under("level.")) else None,
            pool=np.asarray(arrays["pool"], dtype=bool),
            **own,
        )


def _distil(
    lesson: _Lesson,
    heads: Heads | Tuned | None,
    held: Array,
    chosen: Chosen,
    mean: Array,
    pool: Mask,
) -> Distilled:
    """What turns logits into scores, from held-out logits (n, pool) and scores."""
    slope, _ = _slope(held, lesson.scores)
    level = metrics.mean((lesson.scores - metrics.mean(lesson.scores)).T) + np.nanmean(
        metrics.mean(lesson.scores)
    )
    known = np.isfinite(level)
    return Distilled(
        heads=heads or Heads(np.zeros(0), np.zeros((0, 0)), np.zeros(0)),
        chosen=chosen,
        slope=max(slope, 0.0),
        typical=held.mean(axis=0),
        level=(
            None
            if lesson.columns.ndim == 1
            else fit_ridge(lesson.columns[known], level[known, None])
        ),
        mean=mean,
        pool=pool,
        error=np.where(np.isfinite(mean), 0.0, np.nan),
    )


def _slope(logits: Array, scores: Array) -> tuple[float, float]:
    """Score per logit, and the share of the scores' differences between experts that it explains.

    Both tables lose their means per expert, then per query over the experts that are known.
    """
    known = np.isfinite(scores)

    def differences(table: Array) -> Array:
        centred = np.where(known, table - metrics.mean(np.where(known, table, np.nan)), 0.0)
        row = centred.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        return np.where(known, centred - row, 0.0)

    c, d = differences(logits), differences(np.where(known, scores, 0.0))
    with_logits, logits_alone, alone = float((c * d).sum()), float((c * c).sum()), (d * d).sum()
    if logits_alone < 1e-12 or alone < 1e-12:
        return 0.0, 0.0
    return with_logits / logits_alone, with_logits**2 / logits_alone / float(alone)


def _jackknife(logits: Array, held: Array, count: int) -> Array:
    """Standard deviation (e,) of logits: how much it moves them to leave out one fold of `count`,
    scaled as the jackknife does."""
    return np.asarray(np.sqrt((count - 1) * ((logits - held) ** 2).mean(axis=0)))


def fit_heads(columns: Array, wanted: Array, penalty: float, direction: str = "forward") -> Heads:
    """Linear heads whose softmax is closest to the labels `wanted` (n, e), by L-BFGS.

    Minimises Σ KL + penalty/2 · ‖weights‖²; the biases are free. `forward` is KL(label ‖ head),
    the cross-entropy on soft labels up to a constant; `reverse` is KL(head ‖ label), with labels
    mixed with a little of the uniform distribution so that it is finite.
    """
    from scipy.optimize import minimize

    n, width = columns.shape
    e = wanted.shape[1]
    centre = columns.mean(axis=0) if n else np.zeros(width)
    a = columns - centre
    distance = {"forward": _forward, "reverse": _reverse}[direction]
    # In coordinates u with weights = whiten @ u, the curvature is about the same in all
    # directions, and a few steps are enough.
    share = wanted.mean(axis=0) if n else np.ones(e) / e
    curvature = max(float((share * (1 - share)).mean()), 1e-6)
    whiten = np.linalg.inv(np.linalg.cholesky(curvature * a.T @ a + penalty * np.eye(width))).T
    b, pull = a @ whiten, penalty * whiten.T @ whiten
    scale = 1 / np.sqrt(curvature * max(n, 1))  # of the biases

    def objective(flat: Array) -> tuple[float, Array]:
        u, bias = flat[: width * e].reshape(width, e), scale * flat[width * e :]
        loss, slope = distance(b @ u + bias, wanted)
        pulled = pull @ u
        loss += float((u * pulled).sum()) / 2
        return loss, np.concatenate([(b.T @ slope + pulled).ravel(), scale * slope.sum(axis=0)])

    start = np.zeros((width + 1) * e)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    weights = whiten @ found[: width * e].reshape(width, e)
    return Heads(centre, weights, scale * found[width * e :])


def fit_tuned(texts: Any, wanted: Array, zooter: Zooter, seed: int) -> Tuned:
    """A language model whose softmax is closest to the labels `wanted` (n, e).

    The predictor `transformer` learns softmax(scores / τ): the labels' logs at τ = 1 are that.
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
    scores = np.log((1 - FLOOR) * wanted + FLOOR / wanted.shape[1])
    return Tuned(model.fit(texts, scores, blocks={}, seed=seed))


def _tuned(options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Tuned:
    return Tuned(Transformer.load(options, arrays))


def _forward(logits: Array, wanted: Array) -> tuple[float, Array]:
    """Σ KL(label ‖ softmax) without the labels' own entropy, and its gradient."""
    log = _log_softmax(logits)
    return float(-(wanted * log).sum()), np.exp(log) - wanted


def _reverse(logits: Array, wanted: Array) -> tuple[float, Array]:
    """Σ KL(softmax ‖ label), and its gradient."""
    log = _log_softmax(logits)
    said = np.exp(log)
    ratio = log - np.log((1 - FLOOR) * wanted + FLOOR / wanted.shape[1])
    divergence = (said * ratio).sum(axis=1, keepdims=True)
    return float(divergence.sum()), said * (ratio - divergence)


def _log_softmax(logits: Array) -> Array:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(logits, axis=1))


def temperatures(rewards: Array, softness: Sequence[float] = SOFTNESS) -> list[float]:
    """Candidates whose labels have an entropy that lies evenly between hard labels' and log e:
    the same labels come out whatever the rewards' scale."""
    least, most = _labels.entropy(_labels.hard(rewards)), np.log(max(rewards.shape[1], 2))
    return [
        _labels.temperature_for(rewards, least + max(share, 0.05) * (most - least))
        for share in softness
    ]


# --- tags ----------------------------------------------------------------------------------


def clusters(x: Array, blocks: Mapping[str, slice], count: int, seed: int) -> _labels.Incidence:
    """Tags without anybody's tagging: which of `count` k-means clusters a query's text is in."""
    from sklearn.cluster import KMeans

    columns = view(blocks, domain=0.0, surface=0.0, unit=True)(x)
    count = min(count, len(np.unique(columns, axis=0)))
    member = KMeans(count, n_init=3, random_state=seed).fit_predict(columns)
    return _labels.incidence([[str(number)] for number in member])[0]


def _carried(outcomes: Outcomes, tags: str) -> Sequence[Sequence[str]]:
    """The tags of each row, as the option `tags` wants them."""
    if tags.startswith("clusters"):
        _count(tags)
        return ()
    if tags not in ("table", "domain", "none"):
        raise BadInput(f"tags '{tags}' is none of table, domain, clusters=K, none")
    return tags_of(outcomes.queries, tags)


def _count(tags: str) -> int:
    """`clusters=40` ▶ 40."""
    kind, _, count = tags.partition("=")
    if kind != "clusters" or not count.isdigit() or int(count) < 2:
        raise BadInput(f"tags '{tags}' is none of table, domain, clusters=K (K of 2 or more), none")
    return int(count)


def _among(x: Array, blocks: Mapping[str, slice]) -> _labels.Incidence:
    """The labels that the vectors hold themselves (encoder `domain`)."""
    from scipy.sparse import csr_matrix

    return csr_matrix((x[:, blocks.get("domain", slice(0, 0))] > 0).astype(np.float64))


def _auto(zooter: Zooter) -> bool:
    return zooter.reward == "auto"
