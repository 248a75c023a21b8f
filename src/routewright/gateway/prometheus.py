"""What the gateway has done since it started, as numbers that Prometheus collects.

No text of a query or an answer, nor anything that a client names, becomes a label.
"""

from __future__ import annotations

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
        for one in spent:
            self.asks.labels(one.expert, one.kind, one.status).inc()
            self.cost.labels(policy, one.expert).inc(max(one.cost, 0.0))
            self.tokens.labels(one.expert, "input").inc(one.input_tokens)
            self.tokens.labels(one.expert, "output").inc(one.output_tokens)
        self.seconds.labels(policy).observe(seconds)
        self.overhead.labels(policy).observe(max(overhead, 0.0))

    def text(self) -> bytes:
        return generate_latest(self.registry)
