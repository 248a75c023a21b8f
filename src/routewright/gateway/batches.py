"""A router that predicts together for the requests that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Any, Self

import numpy as np

from routewright.router.predicted import PredictedRouter
from routewright.router.router import Router
from routewright.strategies.mix import Mix
from routewright.strategies.single import Single
from routewright.types import Prediction, Query, Strategy, changed

SHORT = 4000  # characters of a prompt that is read on the event loop
MOST = 32  # short prompts that are read there at once: a few milliseconds


@dataclass
class Request:
    """The queries of one call, and their prediction or its failure."""

    queries: Sequence[Query]
    prediction: Prediction | None = None
    failure: Exception | None = None

    def result(self) -> Prediction:
        if self.failure is not None:
            raise self.failure
        assert self.prediction is not None
        return self.prediction


@dataclass(frozen=True)
class BatchingRouter(Router):
    """A router for many threads: while one predicts, the queries of the others become a batch.

    A call that finds no other in progress is predicted at once. A row of a batch equals its
    prediction alone up to rounding (about 1e-12).
    """

    _waiting: list[Request] = field(default_factory=list, repr=False, compare=False)
    # The same for short prompts, on the event loop.
    _arrived: list[tuple[Request, asyncio.Future[None]]] = field(
        default_factory=list, repr=False, compare=False
    )
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    @classmethod
    def of(cls, router: Router) -> Self:
        return cls(**{f.name: getattr(router, f.name) for f in fields(Router)})

    async def foresee(self, query: Query, run: Callable[..., Awaitable[Any]]) -> Prediction:
        """The prediction of a query; `run` runs a function in a thread.

        Short prompts are read on the event loop, together with those that have arrived at the same
        time: a thread would cost more than the prediction. Long prompts, and those that a
        pretrained model reads, are read in a thread.
        """
        if self._needs_model or len(query.excerpt) > SHORT:
            return await run(self.predict, [query])  # type: ignore[no-any-return]
        loop, request = asyncio.get_running_loop(), Request([query])
        done = loop.create_future()
        if not self._arrived:
            loop.call_soon(self._predict_arrived, loop)
        self._arrived.append((request, done))
        await done
        return request.result()

    def _predict_arrived(self, loop: asyncio.AbstractEventLoop) -> None:
        arrived = [one for one in self._arrived[:MOST] if not one[1].done()]  # else its client left
        del self._arrived[:MOST]
        if self._arrived:
            loop.call_soon(self._predict_arrived, loop)
        if arrived:
            self._predict_batch([request for request, _ in arrived])
        for _, done in arrived:
            done.set_result(None)

    def predict(self, queries: Sequence[Query]) -> Prediction:
        request = Request(queries)
        self._waiting.append(request)
        with self._turn:
            if request.prediction is None and request.failure is None:
                batch = self._waiting[:]
                del self._waiting[: len(batch)]  # others append meanwhile
                self._predict_batch(batch)
        return request.result()

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


def chooses(strategy: Strategy) -> bool:
    """Whether a strategy, or a part of a mix, chooses one expert by a prediction of the query."""
    if isinstance(strategy, Mix):
        return chooses(strategy.first) or chooses(strategy.second)
    return isinstance(strategy, Single)


def foreseeing(strategy: Strategy, router: PredictedRouter) -> Strategy:
    """A strategy whose choices are by the prediction that a router has made already."""
    if isinstance(strategy, Mix):
        first, second = (foreseeing(part, router) for part in (strategy.first, strategy.second))
        return Mix(first, second, strategy.share)
    return changed(strategy, router=router) if isinstance(strategy, Single) else strategy
