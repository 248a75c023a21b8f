"""How similar is a query to the training queries? Far away from them, a router uses the means.

A prediction for a text unlike every training query is an extrapolation. The similarity of the text
to the nearest of a sample of training queries decides how much of the prediction is used. A text
farther away than most training queries are from each other is unfamiliar: its familiarity is below
one half, and strategies with a budget leave it to the fixed mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright.errors import BadRouter
from routewright.prediction.predictors import NOTHING, View, view
from routewright.prediction.stored import Arrays, number
from routewright.types import Array

LANDMARKS = 1000
UNUSUAL = 0.5  # percentage of the training queries that count as unusual
TOLERANCE = 1e-3  # of distances: places are stored in single precision
RARE = 0.01  # share of the training queries that are farther away than `limit`
# The same for a router that gains nothing on topics that it was not fitted on: on `llmrouter_mix`,
# fitted on half of the tasks, it notices half of the queries of the other tasks (bench.left_out).
RARE_IF_CAREFUL = 0.08
LEAST_LIMIT = 1.0  # where the training queries hardly differ; on real tables limits are above it
SURFACE = 0.15  # weight of a standard deviation of a surface feature in a distance


def distance_view(blocks: Mapping[str, slice]) -> View:
    """What distances between queries are measured by: directions of the text, and its surface."""
    parts = {name: block for name, block in blocks.items() if name != "domain"}
    return view(parts, surface=SURFACE, width=128, unit=True)


@dataclass
class Novelty:
    """The familiarity of queries: 1 near the training queries, falling to 0 far away from them.

    The similarity of a query is the largest product of its vector, in the text blocks, with the
    direction of a training query. A text of unknown n-grams has a short vector and therefore a low
    similarity. `usual` is the similarity that all but 0.5 % of the training queries exceed.

    The distance of a query is that to the nearest `place`, in directions of the text and surface
    features. If it is above `limit`, the familiarity is below one half.
    """

    view: View = NOTHING
    usual: float = 0.0
    landmarks: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), repr=False
    )
    distance: View = NOTHING
    limit: float = np.inf
    places: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), repr=False
    )

    def fit(
        self,
        x: Array,
        blocks: Mapping[str, slice],
        *,
        groups: Sequence[str] = (),
        rare: float = RARE,
        seed: int = 0,
    ) -> Self:
        """Takes a sample of the vectors (n, width) as landmarks and places. A query of the same
        group is no neighbour; `rare` is the share of the queries that are farther than `limit`."""
        text = {name: block for name, block in blocks.items() if name not in ("domain", "surface")}
        self.view = view(text, width=128)
        rows = self.view(x)
        rng = np.random.default_rng(seed)
        sample = rng.choice(len(rows), min(LANDMARKS, len(rows)), replace=False)
        length = np.linalg.norm(rows[sample], axis=1, keepdims=True)
        directions = rows[sample] / np.maximum(length, 1e-9)
        self.landmarks = directions.astype(np.float32)
        similarity = rows @ self.landmarks.T.astype(np.float64)
        similarity[sample, np.arange(len(sample))] = -1.0  # no query is its own neighbour
        self.usual = max(float(np.percentile(similarity.max(axis=1), UNUSUAL)), 0.0)
        self.distance = distance_view(blocks)
        sites = self.distance(x)
        if not sites.shape[1]:  # the encoder reads no text
            return self
        self.places = sites[sample].astype(np.float32)
        self.__dict__.pop("_sites", None)  # of an earlier fit
        member = np.asarray(groups) if len(groups) else np.arange(len(x))
        apart = _distances(sites, *_sites(self.places))
        apart[member[:, None] == member[sample]] = np.inf
        nearest = apart.min(axis=1)
        nearest = nearest[np.isfinite(nearest)]
        quantile = float(np.quantile(nearest, 1 - rare)) if nearest.size else np.inf
        self.limit = max(quantile, LEAST_LIMIT)
        return self

    def trust(self, x: Array) -> Array:
        """The familiarity (n,) of each query, 0..1: the share of its prediction to use."""
        similarity = self._similarity(x)
        if not np.isfinite(self.limit):
            return similarity
        nearest = _distances(self.distance(x), *self._sites).min(axis=1)
        far = nearest > self.limit + TOLERANCE
        return np.where(far, similarity * 0.49 * self.limit / np.maximum(nearest, 1e-9), similarity)

    @cached_property
    def _sites(self) -> tuple[Array, Array]:
        """The places in double precision, (distances, places), and their squared lengths."""
        return _sites(self.places)

    def _similarity(self, x: Array) -> Array:
        if not self.landmarks.size or self.usual <= 0:
            return np.ones(len(x))
        rows = self.view(x)
        similarity = (rows.astype(np.float32) @ self.landmarks.T).max(axis=1).astype(np.float64)
        # Single precision suffices for most queries, which are clearly familiar.
        unclear = similarity < self.usual + 1e-4
        if unclear.any():
            similarity[unclear] = (rows[unclear] @ self.landmarks.T.astype(np.float64)).max(axis=1)
        return np.asarray((similarity / self.usual).clip(0.0, 1.0))

    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"view": self.view.to_json(), "usual": self.usual}
        if np.isfinite(self.limit):
            options |= {"distance": self.distance.to_json(), "limit": self.limit}
        return options

    def arrays(self) -> dict[str, Any]:
        places = {"places": self.places} if np.isfinite(self.limit) else {}
        return {"landmarks": self.landmarks, **places}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        view = View.from_json(options["view"])
        usual = number(options["usual"], "the usual similarity", 0.0)
        landmarks = Arrays("the novelty", arrays).take("landmarks", "landmarks", "columns")
        if landmarks.size and landmarks.shape[1] != view.width:
            raise BadRouter("the novelty has landmarks of another width than its view")
        if "limit" not in options:  # of an earlier version
            return cls(view, usual, landmarks)
        distance = View.from_json(options["distance"])
        limit = number(options["limit"], "the limit of familiar distances", 0.0)
        places = Arrays("the novelty", arrays).take("places", "places", "distances")
        if not len(places) or places.shape[1] != distance.width:
            raise BadRouter("the novelty has places of another width than its distances")
        return cls(view, usual, landmarks, distance, limit, places)


def _sites(places: NDArray[np.float32]) -> tuple[Array, Array]:
    there = places.astype(np.float64)
    return there.T, (there**2).sum(axis=1)


def _distances(rows: Array, sites: Array, lengths: Array) -> Array:
    """Euclidean distances (n, places)."""
    squares = (rows**2).sum(axis=1)[:, None] + lengths - 2 * rows @ sites
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
