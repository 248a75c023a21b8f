"""What is left of the subscriptions and quotas of experts: so many requests or tokens per window.

A window begins with the first request after the last one has ended. While less is left than time
(half of the requests are used after a tenth of the window), what is left has a price, which rises
to that of the dearest other expert as it runs out. So a router keeps it for the queries that need
it, instead of meeting a wall. When nothing is left, the expert is not asked until the window ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from routewright.types import Answer, Array, Expert, Prediction, Window

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

    def prices(self, belief: Prediction) -> Array:
        """What an ask of each expert costs beyond its price, in US$, (e,)."""
        shadow = np.zeros(len(belief.experts))
        for m, name in enumerate(belief.experts):
            if pressure := self.pressure(name) if name in self.windows else 0.0:
                others = np.delete(belief.cost, m)
                dearest = float(np.nanmax(others, initial=0.0))
                shadow[m] = pressure * max(0.0, dearest - float(belief.cost[m]))
        return shadow

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


def is_pressed(windows: Windows, experts: Iterable[str]) -> bool:
    """Whether the window of one of these experts runs out faster than its time."""
    return any(windows.pressure(name) > 0 for name in experts if name in windows.windows)
