"""Extremely randomised trees as plain arrays: grown by scikit-learn, walked with NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from routewright.errors import BadRouter
from routewright.parallel import n_jobs
from routewright.prediction.stored import WIDEST, Arrays, whole
from routewright.types import Array, Indices

BATCH = 1024
DEEPEST = 5000  # nodes on a path


@dataclass(frozen=True)
class Forest:
    """The mean of many trees (Geurts et al. 2006); `nodes` holds them all, end to end."""

    depth: int = 0
    nodes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def grow(
        cls,
        x: Array,
        y: Array,
        *,
        trees: int,
        leaf: int,
        share: float,
        seed: int = 0,
        back: Array | None = None,
    ) -> Self:
        """Fits columns (n, c) to targets (n, k); a leaf holds at least `leaf` rows, a split
        looks at a `share` of the columns.

        `back` (k, outputs) maps what the leaves hold to what the forest predicts, where the
        targets stand in another basis.
        """
        from sklearn.ensemble import ExtraTreesRegressor

        forest = ExtraTreesRegressor(
            trees,
            min_samples_leaf=min(leaf, max(1, len(x) // 4)),
            max_features=share,
            random_state=seed,
            n_jobs=n_jobs(x.size),
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
            "value": (value if back is None else value @ back).astype(np.float32),
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

    @classmethod
    def load(
        cls, depth: Any, arrays: Mapping[str, Any], columns: int | None = None, outputs: int = 1
    ) -> Self:
        """The stored forest of so many outputs, for columns (n, `columns`) or an unknown number.

        Raises BadRouter unless every path of it ends in a leaf.
        """
        part = Arrays("a forest", arrays)
        value = part.take("value", "nodes", outputs)
        count = part.size("nodes")
        last = (columns or WIDEST) - 1
        child = part.take("child", 2 * count, kind="iu", least=0, most=count - 1)
        nodes = {
            "start": part.take("start", "trees", kind="iu", least=0, most=count - 1),
            "feature": part.take("feature", "nodes", kind="iu", least=0, most=last),
            "cut": part.take("cut", "nodes"),
            "child": child,
            "value": value,
        }
        # The children of a node come after it, and a leaf leads to itself.
        if (child < np.arange(2 * count) // 2).any() or not part.size("trees"):
            raise BadRouter("a forest has a path that does not end")
        return cls(whole(depth, "the depth of a forest", 0, DEEPEST), nodes)

    @cached_property
    def columns(self) -> int:
        """The columns that it reads, at least."""
        return int(self.nodes["feature"].max()) + 1

    def predict(self, x: Array) -> Array:
        """Columns (n, c) ▶ means over the trees (n, outputs)."""
        width = self.nodes["value"].shape[1]
        parts = [self.leaves(x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
        means = [values.mean(axis=1, dtype=np.float64) for values in parts]
        return np.vstack([np.empty((0, width)), *means])

    def leaves(self, x: Array) -> Any:
        """Columns (n, c) ▶ what each tree says, (n, trees, outputs) in single precision."""
        if x.shape[1] < self.columns:
            raise BadRouter(f"a forest reads {self.columns} columns, and there are {x.shape[1]}")
        columns, (start, feature, cut, child) = x.astype(np.float32), self._pairs
        flat, first = columns.ravel(), np.arange(len(x))[:, None] * columns.shape[1]
        node = np.tile(start, (len(x), 1))
        for step in range(self.depth):
            # `take` is several times faster than indexing for one query at a time.
            column = feature.take(node)
            if len(x) > 1:
                column += first
            before, node = node, child.take(node + (flat.take(column) > cut.take(node)))
            if step % 6 == 5 and np.array_equal(before, node):
                break  # every query has reached its leaf in every tree
        return self.nodes["value"].take(node // 2, axis=0)

    @cached_property
    def _pairs(self) -> _Pairs:
        nodes = self.nodes
        start, child = (2 * nodes[name].astype(np.intp) for name in ("start", "child"))
        feature = np.repeat(nodes["feature"].astype(np.intp), 2)
        return _Pairs(start, feature, np.repeat(nodes["cut"], 2), child)


class _Pairs(NamedTuple):
    """The trees as walked: node k is at 2 k, its twin at 2 k + 1, so that a comparison added to a
    node's number finds the child. NumPy indexes fastest with its own integers."""

    start: Indices  # (trees,)
    feature: Indices  # (2 nodes,)
    cut: Any  # (2 nodes,) float32
    child: Indices  # (2 nodes,)
