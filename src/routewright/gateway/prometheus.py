"""Counts what the gateway has done since it started, for Prometheus.

No label contains text of a query or an answer, or a name that a client chose.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from routewright.gateway import logs
from routewright.gateway.pacing import Pacer
from routewright.gateway.records import Records
from routewright.types import Answer

# Of one process, by metric: the samples with their names and labels.
Figures: TypeAlias = dict[str, list[tuple[str, dict[str, str], float]]]

# Metrics of the store, which every worker reads by itself.
SHARED = tuple(
    f"routewright_{name}" for name in ("budget_", "account_", "pace_", "store_up", "replicas")
)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Dropped(Collector):
    """The log lines that this process has dropped."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "routewright_log_lines_dropped",
            "Log lines that were dropped because nobody read the log.",
            value=logs.dropped(),
        )


class Paces(Collector):
    """What paced policies aim at, and what they have spent."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters

    def collect(self) -> Iterator[GaugeMetricFamily]:
        texts = {
            "lambda": "The price of quality (per US$) that a paced policy has now.",
            "mean_cost_usd": "US$ per query of a paced policy, since its pacing began.",
            "mean_goal_usd": "US$ per query that it may spend.",
            "queries": "Queries since its pacing began.",
        }
        gauges = {
            key: GaugeMetricFamily(f"routewright_pace_{key}", text, labels=("policy",))
            for key, text in texts.items()
        }
        for policy, pacer in self.counters.pacers.items():
            state = pacer.state
            count = max(state.queries, 1)
            values = pacer.price, state.spent / count, state.goals / count, state.queries
            for gauge, value in zip(gauges.values(), values, strict=True):
                gauge.add_metric((policy,), value)
        yield from gauges.values() if self.counters.pacers else ()


class Kept(Collector):
    """What is spent of every budget, and the state of the store."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        records = self.counters.records
        if records is None or records.store is None:
            return
        spent, limits = (
            GaugeMetricFamily(f"routewright_budget_{name}", text, labels=("budget", "period"))
            for name, text in (
                ("spent_usd", "US$ spent of a budget in this period, by all gateways."),
                ("limit_usd", "US$ that a budget allows in this period."),
            )
        )
        for name, period, limit, usd in records.budgets():
            spent.add_metric((name, period), usd)
            limits.add_metric((name, period), limit)
        accounts = CounterMetricFamily(
            "routewright_account_usd",
            "US$ ever spent by an account, on all gateways.",
            labels=("account",),
        )
        for name, usd in records.accounts():
            accounts.add_metric((name,), usd)
        state = records.state
        yield from (spent, limits, accounts)
        yield GaugeMetricFamily(
            "routewright_store_up", "Whether the store can be used.", value=float(state.is_up)
        )
        yield GaugeMetricFamily(
            "routewright_replicas", "Gateways on the same store.", value=records.replicas
        )
        yield GaugeMetricFamily(
            "routewright_records_waiting", "Records that wait for the store.", value=state.waiting
        )
        yield CounterMetricFamily(
            "routewright_records_dropped",
            "Decisions that were not recorded, because the store could not be used.",
            value=state.dropped,
        )


class Summed(Collector):
    """The metrics of one gateway: its own, to which the figures of its other workers are added."""

    def __init__(self, own: CollectorRegistry, others: Sequence[Figures]) -> None:
        self.own, self.others = own, others

    def collect(self) -> Iterator[Metric]:
        for metric in self.own.collect():
            for figures in self.others:
                if samples := figures.get(metric.name):
                    mine = {metric.name: [(s.name, s.labels, s.value) for s in metric.samples]}
                    both = added(mine, {metric.name: samples})[metric.name]
                    metric.samples = [Sample(*sample) for sample in both]
            yield metric


def added(first: Figures, second: Figures) -> Figures:
    """The sums of figures; of times, when a metric began, the earlier one."""
    sums: Figures = {}
    for name in {**first, **second}:
        values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for sample, labels, value in (*first.get(name, ()), *second.get(name, ())):
            place = sample, tuple(labels.items())
            before = values.get(place)
            if sample.endswith("_created"):
                values[place] = value if before is None else min(before, value)
            else:
                values[place] = value + (before or 0.0)
        sums[name] = [(sample, dict(labels), value) for (sample, labels), value in values.items()]
    return sums


class Counters:
    """The counters of one gateway; `text` writes them for `GET /metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, labelnames=("policy",), registry=self.registry)
        self.decisions = counter(
            "routewright_decisions",
            "Requests that were decided, by their status.",
            ("policy", "status"),
        )
        self.answers = counter(
            "routewright_answers",
            "Answers that clients got, by expert.",
            ("policy", "expert"),
        )
        self.asks = counter(
            "routewright_asks",
            "Asks, including verifications and failed asks.",
            ("expert", "kind", "outcome"),
        )
        self.cost = counter("routewright_cost_usd", "US$ for all asks.", ("policy", "expert"))
        self.estimated = counter(
            "routewright_estimated_cost_usd",
            "The part of the US$ that is estimated, because no upstream reported it.",
            ("policy", "expert"),
        )
        self.tokens = counter("routewright_tokens", "Tokens of all asks.", ("expert", "direction"))
        self.seconds = histogram(
            "routewright_request_seconds",
            "Time from a request to the end of its answer.",
            buckets=SECONDS,
        )
        self.overhead = histogram(
            "routewright_overhead_seconds",
            "The part of that time that was not spent waiting for experts.",
            buckets=OVERHEAD_SECONDS,
        )
        self.unlike = counter(
            "routewright_unlike",
            "Requests whose query, or the answers to it, were unlike the training rows, so that the"
            " fixed mix of the same cost decided.",
            ("policy", "what"),
        )
        self.refusals = counter(
            "routewright_refusals",
            "Requests that were refused before they were read, by reason.",
            ("reason",),
        )
        self.registry.register(Dropped())
        self.pacers: Mapping[str, Pacer] = {}  # by policy
        self.registry.register(Paces(self))
        self.records: Records | None = None
        self.registry.register(Kept(self))
        # For each expert the number of decided queries that it was asked to answer.
        self._queries: collections.Counter[str] = collections.Counter()
        self._deferring: set[str] = set()  # experts that have deferred at least once

    def count(
        self,
        policy: str,
        status: str,
        answer: Answer | None,
        spent: Sequence[Answer],
        seconds: float,
        overhead: float,
        unlike: str = "",
    ) -> None:
        """Counts one request: the `answer` that the client got, and all answers paid for (`spent`).

        `seconds` is the time of the whole request, `overhead` the part not spent on experts;
        `unlike` is as in Decision.
        """
        self.decisions.labels(policy, status).inc()
        if answer is not None:
            self.answers.labels(policy, answer.expert).inc()
            self._queries.update({item.expert for item in spent if item.kind == "answer"})
            self._deferring |= {item.expert for item in spent if item.status == "deferred"}
        for item in spent:
            self.asks.labels(item.expert, item.kind, item.status).inc()
            self.cost.labels(policy, item.expert).inc(max(item.cost, 0.0))
            if item.estimated:
                self.estimated.labels(policy, item.expert).inc(max(item.cost, 0.0))
            self.tokens.labels(item.expert, "input").inc(item.input_tokens)
            self.tokens.labels(item.expert, "output").inc(item.output_tokens)
        if unlike:
            self.unlike.labels(policy, unlike).inc()
        self.seconds.labels(policy).observe(seconds)
        self.overhead.labels(policy).observe(max(overhead, 0.0))

    def ownership(self) -> dict[str, dict[str, float]]:
        """For every expert that has deferred: the number of queries that it was asked, and the
        share (0..1) of them that it answered itself."""
        answers: collections.Counter[str] = collections.Counter()
        for metric in self.answers.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    answers[sample.labels["expert"]] += int(sample.value)
        return {
            name: {
                "asked": self._queries[name],
                "ownership": round(answers[name] / self._queries[name], 4),
            }
            for name in sorted(self._deferring)
        }

    def text(self, others: Sequence[Figures] = ()) -> bytes:
        """All counters in the text format of Prometheus, with the figures of other workers."""
        return generate_latest(Summed(self.registry, others))

    def figures(self) -> Figures:
        """What this process counts by itself; budgets, paces and the like are in the store."""
        return {
            metric.name: [(s.name, s.labels, s.value) for s in metric.samples]
            for metric in self.registry.collect()
            if not metric.name.startswith(SHARED)
        }
