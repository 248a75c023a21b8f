"""A router that knows its predictions of some queries already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from routewright.router.router import Router
from routewright.types import Prediction, Query


@dataclass(frozen=True)
class PredictedRouter(Router):
    """A router that has predicted some queries already, so that its strategies need not wait for it
    again."""

    light: ClassVar[bool] = True  # strategies that choose by it need no thread

    source: Router | None = None
    queries: Sequence[Query] = ()
    prediction: Prediction | None = None  # of `queries`
    places: Mapping[int, int] = field(default_factory=dict)  # of queries, by their messages

    @classmethod
    def of(cls, source: Router, queries: Sequence[Query], prediction: Prediction) -> Self:
        router = object.__new__(cls)  # dozens of fields for every request take their time
        # A query may get limits later, which are no part of what is predicted; its messages stay.
        places = {id(query.messages): place for place, query in enumerate(queries)}
        known = {"queries": queries, "prediction": prediction, "places": places}
        router.__dict__.update(source.__dict__, source=source, **known)
        return router

    def predict(self, queries: Sequence[Query]) -> Prediction:
        place = self.places.get(id(queries[0].messages)) if len(queries) == 1 else None
        if place is None or self.prediction is None:
            assert self.source is not None
            return self.source.predict(queries)
        if len(self.queries) == 1:
            return self.prediction
        return self.prediction.take(slice(place, place + 1))
