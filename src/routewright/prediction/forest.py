"""Extremely randomised trees as plain arrays: grown by scikit-learn, walked with NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from routewright.parallel import jobs
from routewright.types import Array

BATCH = 1024


@dataclass(frozen=True)
class Forest:
    """The mean of many trees (Geurts et al. 2006); `nodes` holds them all, end to end."""

    depth: int = 0
    nodes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def grow(
        cls, x: Array, y: Array, *, trees: int, leaf: int, share: float, seed: int = 0
    ) -> Self:
        """Fits columns (n, c) to targets (n, outputs); a leaf holds at least `leaf` rows, a split
        looks at a `share` of the columns."""
        from sklearn.ensemble import ExtraTreesRegressor

        forest = ExtraTreesRegressor(
            trees,
            min_samples_leaf=min(leaf, max(1, len(x) // 4)),
            max_features=share,
            random_state=seed,
            n_jobs=jobs(x.size),
        ).fit(x.astype(np.float32), y[:, 0] if y.shape[1] == 1 else y)
        grown = [tree.tree_ for tree in forest.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in grown)])[:-1]
        feature = np.concatenate([tree.feature for tree in grown]).astype(np.int32)
        itself = np.arange(len(feature), dtype=np.int32)
        children = [
            np.concatenate(
                [getattr(t, f"children_{side}") + s for t, s in zip(grown, starts, strict=True)]
            ).astype(np.int32)
            for side in ("left", "right")
        ]
        # A leaf leads to itself: walking on changes nothing.
        child = np.stack([np.where(feature < 0, itself, side) for side in children], axis=1)
        value = np.concatenate([tree.value.reshape(tree.node_count, -1) for tree in grown])
        nodes = {
            "start": starts.astype(np.int32),
            "feature": np.maximum(feature, 0),
            "cut": np.concatenate([tree.threshold for tree in grown]).astype(np.float32),
            "child": child.ravel(),
            "value": value.astype(np.float32),
        }
        return cls(max(tree.max_depth for tree in grown), nodes)

    @classmethod
    def constant(cls, values: Sequence[float]) -> Self:
        """One leaf, for everything."""
        nothing = np.zeros(1, np.int32)
        return cls(
            nodes={
                "start": nothing,
                "feature": nothing,
                "cut": nothing.astype(np.float32),
                "child": np.zeros(2, np.int32),
                "value": np.array([values], np.float32),
            }
        )

    def predict(self, x: Array) -> Array:
        """Columns (n, c) ▶ means over the trees (n, outputs)."""
        width = self.nodes["value"].shape[1]
        parts = [self._walk(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        return np.vstack([np.empty((0, width)), *parts])

    def _walk(self, x: Array) -> Array:
        columns, nodes = x.astype(np.float32), self.nodes
        feature, cut, child = nodes["feature"], nodes["cut"], nodes["child"]
        flat, first = columns.ravel(), np.arange(len(x))[:, None] * columns.shape[1]
        node = np.tile(nodes["start"], (len(x), 1))
        for step in range(self.depth):
            # `take` is several times faster than indexing for one query at a time.
            right = flat.take(first + feature.take(node)) > cut.take(node)
            before, node = node, child.take(2 * node + right)
            if step % 4 == 3 and np.array_equal(before, node):
                break  # every query has reached its leaf in every tree
        said: Array = nodes["value"].take(node, axis=0).mean(axis=1, dtype=np.float64)
        return said
