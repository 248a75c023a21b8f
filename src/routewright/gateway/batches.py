"""A router that predicts together for the requests that wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Self

import numpy as np

from routewright.router.router import Router
from routewright.types import Prediction, Query


@dataclass
class Request:
    """The queries of one call, and their prediction or its failure."""

    queries: Sequence[Query]
    prediction: Prediction | None = None
    failure: Exception | None = None


@dataclass(frozen=True)
class BatchingRouter(Router):
    """A router for many threads: while one predicts, the queries of the others become a batch.

    A call that finds no other in progress is predicted at once. A row of a batch equals its
    prediction alone up to rounding (about 1e-12).
    """

    _waiting: list[Request] = field(default_factory=list, repr=False, compare=False)
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    @classmethod
    def of(cls, router: Router) -> Self:
        return cls(**{f.name: getattr(router, f.name) for f in fields(Router)})

    def predict(self, queries: Sequence[Query]) -> Prediction:
        request = Request(queries)
        self._waiting.append(request)
        with self._turn:
            if request.prediction is None and request.failure is None:
                batch = self._waiting[:]
                del self._waiting[: len(batch)]  # others append meanwhile
                self._predict_batch(batch)
        if request.failure is not None:
            raise request.failure
        assert request.prediction is not None
        return request.prediction

    def _predict_batch(self, batch: Sequence[Request]) -> None:
        sizes = [len(request.queries) for request in batch]
        try:
            prediction = super().predict([q for request in batch for q in request.queries])
        except Exception as error:
            if len(batch) == 1:
                batch[0].failure = error
                return
            for request in batch:  # the query of one must not fail the others
                self._predict_batch([request])
            return
        ends = np.cumsum(sizes).tolist()
        for request, size, end in zip(batch, sizes, ends, strict=True):
            request.prediction = prediction.take(slice(end - size, end))


@dataclass(frozen=True)
class PredictedRouter(Router):
    """A router that has predicted one query already, so that its strategies need not wait for it
    again."""

    source: Router | None = None
    query: Query | None = None
    prediction: Prediction | None = None

    @classmethod
    def of(cls, source: Router, query: Query, prediction: Prediction) -> Self:
        same = {f.name: getattr(source, f.name) for f in fields(Router)}
        return cls(**same, source=source, query=query, prediction=prediction)

    def predict(self, queries: Sequence[Query]) -> Prediction:
        predicted = None if self.query is None else self.query.messages
        # The query may have got limits meanwhile, which are no part of what is predicted.
        if self.prediction and len(queries) == 1 and queries[0].messages is predicted:
            return self.prediction
        assert self.source is not None
        return self.source.predict(queries)
