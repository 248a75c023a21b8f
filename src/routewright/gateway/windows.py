"""What is left of the subscriptions and quotas of experts: so many requests or tokens per window.

A window begins with the first request after the last one has ended. While less is left than time
(half of the requests are used after a tenth of the window), what is left is for the queries to
which it is worth most: an ask then costs as much quality as the least of them gains. So a router
meets no wall. When nothing is left, the expert is not asked until the window ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routewright.types import Answer, Array, Expert, Window

MOST_GAINS = 200  # queries that are remembered
TINY = 1e-9

Change = Callable[[dict[str, Any] | None], dict[str, Any]]


@dataclass
class Use:
    """What was used of a window that began at `since`, in seconds since 1970."""

    since: float
    requests: float = 0.0
    tokens: float = 0.0

    def part(self, window: Window) -> float:
        """The part of the window's requests or tokens that is used, whichever is larger."""
        requests = self.requests / window.requests if window.requests else 0.0
        return max(requests, self.tokens / window.tokens if window.tokens else 0.0)


class Windows:
    """The windows of the experts that have one, as far as this and the other gateways have used
    them. The gateways tell each other every second."""

    def __init__(self, experts: Iterable[Expert] = ()) -> None:
        self.windows: dict[str, Window] = {}
        self._use: dict[str, Use] = {}
        self._news: dict[str, Use] = {}  # what other gateways do not know
        self._gains: dict[str, deque[float]] = {}  # of the last queries, in quality
        self.set(experts)

    def set(self, experts: Iterable[Expert]) -> None:
        """Takes the windows of a config; what was used stays used."""
        self.windows = {e.name: e.window for e in experts if e.window is not None}

    def count(self, spent: Iterable[Answer]) -> None:
        """Counts the asks of a request."""
        for answer in spent:
            if (window := self.windows.get(answer.expert)) is None:
                continue
            now = time.time()
            tokens = answer.input_tokens + answer.output_tokens
            for uses in (self._use, self._news):
                use = uses.get(answer.expert)
                if use is None or now - use.since >= window.seconds:
                    use = uses[answer.expert] = Use(now)
                use.requests += 1
                use.tokens += tokens

    def used(self, expert: str) -> tuple[float, float] | None:
        """The parts (0..1) of an expert's window and of its time that are over; None if there is no
        window."""
        window = self.windows.get(expert)
        if window is None:
            return None
        use, now = self._use.get(expert), time.time()
        if use is None or now - use.since >= window.seconds:
            return 0.0, 0.0
        return use.part(window), (now - use.since) / window.seconds

    def over(self) -> dict[str, float]:
        """The experts of whose windows nothing is left, and the seconds until they begin again."""
        parts = {name: self.used(name) for name in self.windows}
        return {
            name: (1 - part[1]) * self.windows[name].seconds
            for name, part in parts.items()
            if part is not None and part[0] >= 1
        }

    def pressure(self, expert: str) -> float:
        """From 0, while the window lasts, to 1, when nothing is left.

        It is the part that is used beyond the time that is over, in units of the time that is left.
        """
        used, gone = self.used(expert) or (0.0, 0.0)
        return min(1.0, max(0.0, used - gone) / max(1 - gone, 1e-9))

    def worth(self, experts: Sequence[str], utility: Array) -> Array:
        """What an ask of each expert must gain beyond its price, in quality, (e,).

        `utility` (e,) is the predicted quality − λ · cost of the experts for a query. What it gains
        from an expert with a window is remembered. While a part p of the recent queries has to go
        elsewhere, these are the ones that gain least, as far as they are no more than that part.
        """
        must = np.zeros(len(experts))
        for m, name in enumerate(experts):
            if name not in self.windows or len(experts) < 2:
                continue
            gains = self._gains.setdefault(name, deque(maxlen=MOST_GAINS))
            gains.append(float(utility[m] - np.delete(utility, m).max()))
            if pressure := self.pressure(name):
                levels, counts = np.unique(np.array(gains), return_counts=True)
                elsewhere = levels[np.cumsum(counts) <= pressure * len(gains)]
                must[m] = max(0.0, float(elsewhere[-1]) + TINY) if len(elsewhere) else 0.0
        return must

    def exchange(self, update: Callable[[str, Change], dict[str, Any]]) -> None:
        """Tells the other gateways of the store what was used, and learns what they have used.

        For a thread that calls it every second; `update` is that of `records.store`.
        """
        if not self.windows:
            return
        news, self._news = self._news, {}

        def merged(stored: dict[str, Any] | None) -> dict[str, Any]:
            known = {name: Use(*values) for name, values in (stored or {}).items()}
            for name, use in news.items():
                window = self.windows.get(name)
                before = known.get(name)
                if window and before and use.since - before.since < window.seconds:
                    requests, tokens = before.requests + use.requests, before.tokens + use.tokens
                    use = Use(before.since, requests, tokens)
                known[name] = use
            return {name: [u.since, u.requests, u.tokens] for name, u in known.items()}

        try:
            stored = update("windows", merged)
        except BaseException:
            for name, use in news.items():  # told the next time
                self._news.setdefault(name, use)
            raise
        for name, values in stored.items():
            use, late = Use(*values), self._news.get(name)
            if late is not None:
                use = Use(use.since, use.requests + late.requests, use.tokens + late.tokens)
            self._use[name] = use
