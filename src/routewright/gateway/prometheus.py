"""What the gateway has done since it started, as numbers that Prometheus collects.

No text of a query or an answer, nor anything that a client names, becomes a label.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from routewright.types import Answer

OWN_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Counters:
    """Of one gateway; `text` is what `GET /metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, labelnames=("policy",), registry=self.registry)
        self.decisions = counter(
            "routewright_decisions",
            "Requests that were decided, by how they ended.",
            ("policy", "status"),
        )
        self.answers = counter(
            "routewright_answers",
            "Answers that clients got, by who gave them.",
            ("policy", "expert"),
        )
        self.asks = counter(
            "routewright_asks",
            "Everything that was asked, verifications and failures too.",
            ("expert", "kind", "outcome"),
        )
        self.cost = counter(
            "routewright_cost_usd", "US$ for everything that was asked.", ("policy", "expert")
        )
        self.tokens = counter(
            "routewright_tokens", "Tokens of everything that was asked.", ("expert", "direction")
        )
        self.seconds = histogram(
            "routewright_request_seconds",
            "From a request to the end of its answer.",
            buckets=SECONDS,
        )
        self.overhead = histogram(
            "routewright_overhead_seconds",
            "The part of that which was not spent waiting for experts.",
            buckets=OWN_SECONDS,
        )
        # Queries that were decided, by every expert that was asked to answer.
        self._queries: collections.Counter[str] = collections.Counter()
        self._deferred: set[str] = set()  # experts that ever have

    def count(
        self,
        policy: str,
        status: str,
        answer: Answer | None,
        spent: Sequence[Answer],
        seconds: float,
        overhead: float,
    ) -> None:
        """One request: `answer` is what the client got, `spent` all that was paid for."""
        self.decisions.labels(policy, status).inc()
        if answer is not None:
            self.answers.labels(policy, answer.expert).inc()
            self._queries.update({one.expert for one in spent if one.kind == "answer"})
            self._deferred |= {one.expert for one in spent if one.status == "deferred"}
        for one in spent:
            self.asks.labels(one.expert, one.kind, one.status).inc()
            self.cost.labels(policy, one.expert).inc(max(one.cost, 0.0))
            self.tokens.labels(one.expert, "input").inc(one.input_tokens)
            self.tokens.labels(one.expert, "output").inc(one.output_tokens)
        self.seconds.labels(policy).observe(seconds)
        self.overhead.labels(policy).observe(max(overhead, 0.0))

    def ownership(self) -> dict[str, dict[str, float]]:
        """For every expert that has ever deferred: how many queries it was asked, and the share
        (0..1) of them that it answered itself."""
        answered: collections.Counter[str] = collections.Counter()
        for metric in self.answers.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    answered[sample.labels["expert"]] += int(sample.value)
        return {
            name: {
                "asked": self._queries[name],
                "ownership": round(answered[name] / self._queries[name], 4),
            }
            for name in sorted(self._deferred)
        }

    def text(self) -> bytes:
        return generate_latest(self.registry)
