"""Extremely randomised trees over vector, surface features and domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.predictors import NOTHING, Belief, View, components, deviations, view
from routewright.types import Array

BATCH = 1024


@dataclass
class Trees:
    """One forest for the experts' level and all differences between them (Geurts et al. 2006).

    scikit-learn grows it; the trees are stored as arrays and walked with NumPy.
    """

    trees: int = 80
    leaf: int = 8  # training queries in a leaf, at least
    width: int = 48
    view: View = NOTHING
    depth: int = field(default=0, repr=False)
    mean: Array = field(default_factory=lambda: np.empty(0), repr=False)
    nodes: dict[str, Any] = field(default_factory=dict, repr=False)

    def fit(self, x: Array, scores: Array, *, blocks: Mapping[str, slice], seed: int = 0) -> Self:
        from sklearn.ensemble import ExtraTreesRegressor

        self.view = view(blocks, width=self.width)
        self.mean, deviation = deviations(scores)
        basis = components(deviation)
        forest = ExtraTreesRegressor(
            self.trees,
            min_samples_leaf=min(self.leaf, max(1, len(x) // 4)),
            max_features=0.3,
            random_state=seed,
            n_jobs=-1,
        ).fit(self._columns(x), deviation @ basis)
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
        return self

    def predict(self, x: Array) -> Belief:
        parts = [self._walk(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        shape = (0, len(self.mean))
        return Belief(
            np.vstack([np.empty(shape), *(part.mean for part in parts)]),
            np.vstack([np.empty(shape), *(part.spread for part in parts)]),
        )

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
        return cls(**chosen, mean=arrays["mean"], nodes=nodes)

    def _columns(self, x: Array) -> Any:
        return self.view(x).astype(np.float32)

    def _walk(self, x: Array) -> Belief:
        columns, nodes = self._columns(x), self.nodes
        feature, cut, child = nodes["feature"], nodes["cut"], nodes["child"]
        flat, first = columns.ravel(), np.arange(len(x))[:, None] * columns.shape[1]
        node = np.tile(nodes["start"], (len(x), 1))
        for step in range(self.depth):
            # `take` is several times faster than indexing for one query at a time.
            right = flat.take(first + feature.take(node)) > cut.take(node)
            before, node = node, child.take(2 * node + right)
            if step % 4 == 3 and np.array_equal(before, node):
                break  # every query has reached its leaf in every tree
        said = nodes["value"].take(node, axis=0).astype(np.float64)  # (n, trees, e)
        mean = np.clip(self.mean + said.mean(axis=1), 0.0, 1.0)
        spread = said.std(axis=1) / np.sqrt(len(nodes["start"]))
        return Belief(mean, np.where(np.isfinite(self.mean), spread, np.nan))
