"""Routes a query set: the experts to ask first, and the predictions, for every query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from routewright import parallel
from routewright.errors import needs
from routewright.router.explanation import check_latency, first_experts
from routewright.router.frontier import OperatingPoint
from routewright.router.predicted import PredictedRouter
from routewright.router.router import Router
from routewright.strategies.single import Single
from routewright.types import Array, Query

if TYPE_CHECKING:
    import polars as pl

BATCH = 2000  # queries that are predicted together


def route(
    router: Path,
    point: OperatingPoint,
    queries: Iterable[Query],
    latency_price: float = 0.0,
    engine: str = "local",
) -> Iterator[pl.DataFrame]:
    """Tables of `schema` for the queries in turn, BATCH at a time; memory holds a few of them.

    `router` is a folder. With a `latency_price` (quality per second), as `explanation.explain`.
    """
    route_part = partial(_route_part, router.absolute(), point, latency_price)
    return parallel.in_order(route_part, parallel.batches(queries, BATCH), engine)


def schema(router: Router) -> dict[str, pl.DataType]:
    """The columns of the tables, and their types."""
    with needs("an outcome table"):
        import polars as pl

    texts = {"id": pl.String(), "expert": pl.String(), "asks": pl.List(pl.String())}
    numbers = [f"{kind}::{name}" for name in router.experts for kind in ("quality", "cost")]
    return {**texts, **dict.fromkeys(numbers, pl.Float64())}


def _route_part(
    folder: Path, point: OperatingPoint, latency_price: float, queries: Sequence[Query]
) -> pl.DataFrame:
    import polars as pl

    router = _loaded(folder)
    check_latency(router, latency_price)
    prediction = router.predict(queries)
    predicted = PredictedRouter.of(router, queries, prediction)
    by_latency = Single(predicted, point.price, latency_price)
    strategy = by_latency if latency_price else predicted.strategy_at(point)
    asks = [first_experts(strategy, query) for query in queries]
    columns: dict[str, Any] = {
        "id": [query.id for query in queries],
        "expert": [a[0] for a in asks],
        "asks": asks,
    }
    chance = prediction.chance
    for m, name in enumerate(router.experts):
        columns[f"quality::{name}"] = _known(chance[:, m])
        columns[f"cost::{name}"] = _known(prediction.cost[:, m])
    return pl.DataFrame(columns, schema=schema(router))


def _known(numbers: Array) -> pl.Series:
    """A column of numbers; those that are not finite are null."""
    import polars as pl

    return pl.Series(np.where(np.isfinite(numbers), numbers, np.nan), nan_to_null=True)


@lru_cache(1)
def _loaded(folder: Path) -> Router:
    return Router.load(folder)
