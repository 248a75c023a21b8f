"""From vectors to believed quality per expert: one file per predictor, found by its name.

A predictor is fitted on vectors (n, width) and scores (n, e) with NaN where unknown, and gives
the mean and the spread of its belief, both (n, e). An expert whose scores are all unknown has
mean and spread NaN. A predictor with `reads_text = True` is given the texts (n,) in place of
vectors. One that learns from more than scores has `given(outcomes)`, and is shown the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from routewright import metrics
from routewright.errors import BadRouter
from routewright.prediction.stored import WIDEST, number, whole
from routewright.types import Array, Query

Folds = NDArray[np.intp]  # a fold number per row
MOST_BLOCKS = 64  # of a view


class Belief(NamedTuple):
    """Expected score in 0..1 and the standard deviation of our belief about it."""

    mean: Array
    spread: Array


class Predictor(Protocol):
    """Predicts each expert's score without running it."""

    def fit(
        self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0
    ) -> Self: ...

    def predict(self, x: Array) -> Belief: ...

    def options(self) -> dict[str, Any]: ...

    def arrays(self) -> dict[str, Any]: ...

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self: ...


def fit_held_out(
    make: Callable[[], Predictor],
    x: Array,
    scores: Array,
    *,
    blocks: Mapping[str, slice],
    fold: Folds,
    seed: int = 0,
) -> tuple[Predictor, Belief]:
    """A predictor fitted on every row, and beliefs about each row without its own fold.

    A predictor that gets these on the way to its own fit has a method of this name.
    """
    model: Any = make()
    if hasattr(model, "fit_held_out"):
        belief: Belief = model.fit_held_out(x, scores, blocks=blocks, fold=fold, seed=seed)
        return model, belief
    mean, spread = np.empty_like(scores), np.empty_like(scores)
    for k in np.unique(fold):
        inside, outside = fold != k, fold == k
        part = make().fit(x[inside], scores[inside], blocks=blocks, seed=seed)
        mean[outside], spread[outside] = part.predict(x[outside])
    return model.fit(x, scores, blocks=blocks, seed=seed), Belief(mean, spread)


def inputs(predictor: Predictor, x: Array, queries: Sequence[Query]) -> Any:
    """What a predictor reads: the vectors, or for one with `reads_text` the texts (n,)."""
    if not getattr(predictor, "reads_text", False):
        return x
    return np.array([query.excerpt for query in queries], dtype=object)


def in_batches(believe: Callable[[Array], Belief], x: Array, size: int, experts: int) -> Belief:
    """Beliefs about at most `size` rows at once: bounds memory."""
    if 0 < len(x) <= size:
        return believe(x)
    parts = [believe(x[i : i + size]) for i in range(0, len(x), size)]
    nothing = Belief(np.empty((0, experts)), np.empty((0, experts)))
    return Belief(*(np.vstack(columns) for columns in zip(nothing, *parts, strict=True)))


def folds(n: int, k: int, seed: int, groups: tuple[str, ...] = ()) -> Folds:
    """A fold number 0..k-1 per row; rows of the same group stay together."""
    rng = np.random.default_rng(seed)
    if not groups:
        return np.asarray(rng.permutation(np.arange(n) % k))
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    return np.asarray(rng.permutation(np.arange(count) % k)[member])


# --- what several predictors share ---------------------------------------------------------


def deviations(scores: Array) -> tuple[Array, Array]:
    """Means per expert (e,) and the scores' differences from them (n, e), gaps filled.

    An unknown score deviates as the row's known ones do on average, drawn towards zero as if
    one more expert had scored its mean; an expert never scored does not deviate.
    """
    mean = metrics.mean(scores)
    table = scores - mean
    known = np.isfinite(table)
    row = np.where(known, table, 0.0).sum(axis=1) / (known.sum(axis=1) + 1)
    return mean, np.where(known, table, np.where(np.isfinite(mean), row[:, None], 0.0))


def components(deviation: Array) -> Array:
    """An orthonormal basis of expert space, (e, e): the common level first, then the principal
    components of the differences between experts.

    Routing depends on the differences alone; the level says how hard a query is. They deserve
    different amounts of shrinkage.
    """
    e = deviation.shape[1]
    level = np.full(e, 1 / np.sqrt(e))
    differences = deviation - np.outer(deviation @ level, level)
    _, vectors = np.linalg.eigh(differences.T @ differences)
    # The smallest eigenvector is the level itself; signs are fixed for repeatability.
    principal = vectors[:, ::-1][:, : e - 1]
    signs = np.sign(principal[np.abs(principal).argmax(axis=0), np.arange(e - 1)])
    return np.column_stack([level, principal * signs])


class View(NamedTuple):
    """How a predictor sees the encoder's blocks: which, how many columns, how heavy."""

    slices: tuple[slice, ...]
    weights: tuple[float, ...]
    units: tuple[bool, ...]  # rows scaled to length one before weighing

    def __call__(self, x: Array) -> Array:
        parts = []
        for part, weight, unit in zip(*self, strict=True):
            block = x[:, part]
            if unit:
                length = np.sqrt(np.einsum("ij,ij->i", block, block))
                block = block / np.maximum(length, 1e-9)[:, None]
            parts.append(block * weight)
        return np.hstack(parts) if parts else np.zeros((len(x), 0))

    def unfold(self, rows: Array) -> Array:
        """Weights of the view's columns (columns, k) ▶ of the encoder's (stop, k), so that
        view(x) @ rows is x[:, :stop] @ unfolded; for views that scale no block to length one."""
        assert not any(self.units), "the length of a block is no linear function of it"
        found = np.zeros((max((s.stop for s in self.slices), default=0), rows.shape[1]))
        start = 0
        for part, weight, _ in zip(*self, strict=True):
            stop = start + part.stop - part.start
            found[part] += weight * rows[start:stop]
            start = stop
        return found

    def to_json(self) -> list[list[Any]]:
        return [[s.start, s.stop, w, u] for s, w, u in zip(*self, strict=True)]

    @property
    def width(self) -> int:
        """The columns of the view."""
        return sum(part.stop - part.start for part in self.slices)

    @classmethod
    def from_json(cls, stored: Any) -> View:
        """Raises BadRouter for anything that `to_json` does not write."""
        if not isinstance(stored, list) or len(stored) > MOST_BLOCKS:
            raise BadRouter(f"a view must be a list of at most {MOST_BLOCKS} blocks")
        parts, weights, units = [], [], []
        for block in stored:
            if not isinstance(block, list) or len(block) != 4 or not isinstance(block[3], bool):
                raise BadRouter("a block of a view must be [start, stop, weight, true or false]")
            start = whole(block[0], "the start of a block", 0, WIDEST)
            parts.append(slice(start, whole(block[1], "the stop of a block", start, WIDEST)))
            weights.append(number(block[2], "the weight of a block"))
            units.append(block[3])
        return cls(tuple(parts), tuple(weights), tuple(units))


NOTHING = View((), (), ())  # before a predictor is fitted


def view(
    blocks: Mapping[str, slice],
    *,
    text: float = 1.0,
    domain: float = 1.0,
    surface: float = 1.0,
    width: int | None = None,
    unit: bool = False,
) -> View:
    """Weights for the blocks by what they are: embeddings of the text, labels, surface features.

    `width` keeps the first columns of each text block (SVD sorts them by importance).
    """
    slices, weights, units = [], [], []
    for name, block in blocks.items():
        is_text = name not in ("domain", "surface")
        stop = min(block.stop, block.start + width) if is_text and width else block.stop
        slices.append(slice(block.start, stop))
        weights.append({"domain": domain, "surface": surface}.get(name, text))
        units.append(unit and is_text)
    return View(tuple(slices), tuple(weights), tuple(units))
