"""Extremely randomised trees over vector, surface features and domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import PositiveInt

from routewright.parallel import jobs
from routewright.prediction.predictors import (
    NOTHING,
    Belief,
    View,
    components,
    deviations,
    in_batches,
    view,
)
from routewright.types import Array, Indices

BATCH = 1024


@dataclass
class Trees:
    """One forest for the experts' level and all differences between them (Geurts et al. 2006).

    scikit-learn grows it; the trees are stored as arrays and walked with NumPy.
    """

    trees: PositiveInt = 80
    leaf: PositiveInt = 8  # training queries in a leaf, at least
    width: PositiveInt = 48
    view: View = NOTHING
    depth: int = field(default=0, repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)
    nodes: dict[str, Any] = field(default_factory=dict, repr=False)  # as stored
    pairs: Pairs | None = field(default=None, repr=False)  # as walked

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        from sklearn.ensemble import ExtraTreesRegressor

        self.view = view(blocks, width=self.width)
        columns = self._columns(x)
        self.mean, deviation = deviations(scores)
        basis = components(deviation)
        forest = ExtraTreesRegressor(
            self.trees,
            min_samples_leaf=min(self.leaf, max(1, len(x) // 4)),
            max_features=0.3,
            random_state=seed,
            n_jobs=jobs(columns.size),
        ).fit(columns, deviation @ basis)
        grown = [tree.tree_ for tree in forest.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in grown)])[:-1]
        value = np.concatenate([tree.value.reshape(tree.node_count, -1) for tree in grown])
        self.depth = max(tree.max_depth for tree in grown)
        feature = np.concatenate([tree.feature for tree in grown]).astype(np.int32)
        itself = np.arange(len(feature), dtype=np.int32)
        leaf = feature < 0
        children = {
            side: np.concatenate(
                [getattr(t, f"children_{side}") + s for t, s in zip(grown, starts, strict=True)]
            ).astype(np.int32)
            for side in ("left", "right")
        }
        self.nodes = {
            "start": starts.astype(np.int32),
            "feature": np.maximum(feature, 0),
            "cut": np.concatenate([tree.threshold for tree in grown]).astype(np.float32),
            # A leaf leads to itself: walking on changes nothing.
            "child": np.stack(
                [np.where(leaf, itself, children[side]) for side in ("left", "right")], axis=1
            ).ravel(),
            "value": (value @ basis.T).astype(np.float32),
        }
        self.pairs = _paired(self.nodes)
        return self

    def predict(self, x: Array) -> Belief:
        return in_batches(self._walk, x, BATCH, len(self.mean))

    def options(self) -> dict[str, Any]:
        return {
            "trees": self.trees,
            "leaf": self.leaf,
            "width": self.width,
            "view": self.view.to_json(),
            "depth": int(self.depth),
        }

    def arrays(self) -> dict[str, Any]:
        return {"mean": self.mean, **self.nodes}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        nodes = {name: array for name, array in arrays.items() if name != "mean"}
        chosen = {**options, "view": View.from_json(options["view"])}
        return cls(**chosen, mean=arrays["mean"], nodes=nodes, pairs=_paired(nodes))

    def _columns(self, x: Array) -> Any:
        return self.view(x).astype(np.float32)

    def _walk(self, x: Array) -> Belief:
        assert self.pairs is not None, "fit first"
        columns, (start, feature, cut, child) = self._columns(x), self.pairs
        flat = columns.ravel()
        first = np.arange(len(x))[:, None] * columns.shape[1]
        node = np.tile(start, (len(x), 1))
        for step in range(self.depth):
            # `take` is several times faster than indexing for one query at a time.
            column = feature.take(node)
            if len(x) > 1:
                column += first
            before, node = node, child.take(node + (flat.take(column) > cut.take(node)))
            if step % 6 == 5 and np.array_equal(before, node):
                break  # every query has reached its leaf in every tree
        said = self.nodes["value"].take(node // 2, axis=0).astype(np.float64)  # (n, trees, e)
        centre = said.mean(axis=1)
        error = np.sqrt(((said - centre[:, None]) ** 2).mean(axis=1) / len(start))
        mean = (self.mean + centre).clip(0.0, 1.0)
        return Belief(mean, np.where(np.isfinite(self.mean), error, np.nan))


class Pairs(NamedTuple):
    """The trees as walked: node k is at 2 k, its twin at 2 k + 1, so that a comparison added to a
    node's number finds the child. NumPy indexes fastest with its own integers."""

    start: Indices  # (trees,)
    feature: Indices  # (2 nodes,)
    cut: Any  # (2 nodes,) float32
    child: Indices  # (2 nodes,)


def _paired(nodes: Mapping[str, Any]) -> Pairs:
    start, child = (2 * nodes[name].astype(np.intp) for name in ("start", "child"))
    feature = np.repeat(nodes["feature"].astype(np.intp), 2)
    return Pairs(start, feature, np.repeat(nodes["cut"], 2), child)
