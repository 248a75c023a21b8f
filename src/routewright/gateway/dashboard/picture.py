"""The places of the lines, dots and labels of a cost–quality chart, in the pixels of its SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from routewright.gateway.dashboard.formats import per_thousand

LETTER, LINE = 6.7, 15.0  # pixels of a label: the mean width of a letter, and the height of a line
LOG_FROM = 12.0  # the ratio of the highest to the lowest cost from which the axis is logarithmic
TICKS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Dot:
    """Something with a cost (US$ per query) and a quality (0..1)."""

    name: str
    cost: float
    quality: float

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.cost) and math.isfinite(self.quality)


class Mark(NamedTuple):
    """A dot in the picture, and its label, which is left out where there is no room."""

    name: str
    title: str
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    has_label: bool


class Tick(NamedTuple):
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One picture; polylines and polygons are texts of points, as SVG writes them."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    experts: list[Mark]
    policies: list[Mark]
    mixes: str
    curve: str
    band: str
    chosen: tuple[float, float, float, float]  # x, y, and the ends of its interval


def chart(
    *,
    experts: Sequence[Dot],
    policies: Sequence[Dot],
    mixes: Sequence[tuple[float, float]],
    curve: Sequence[tuple[float, float, float, float]],
    chosen: tuple[float, float, float, float],
    width: int,
) -> Chart:
    """Lays out a chart; `curve` and `chosen` are cost, quality and the ends of its interval."""
    height = round(width * (0.4 if width > 500 else 0.86))
    left, right, top, bottom = 44.0, width - 12.0, 14.0, height - 42.0
    costs = [1000 * cost for cost, *_ in curve] + [1000 * dot.cost for dot in experts]
    qualities = [value for _, *values in curve for value in values if math.isfinite(value)]
    qualities += [dot.quality for dot in experts]
    low, high = _padded(100 * min(qualities), 100 * max(qualities))
    x_of, x_ticks = _x_axis([cost for cost in costs if math.isfinite(cost)], left, right, width)

    def y_of(quality: float) -> float:
        return bottom - (100 * quality - low) / (high - low) * (bottom - top)

    def line(pairs: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{x_of(1000 * cost):.1f},{y_of(q):.1f}" for cost, q in pairs)

    taken: list[tuple[float, float, float, float]] = []
    edge = (left, top, right, bottom)
    marks = [
        [_mark(dot, x_of(1000 * dot.cost), y_of(dot.quality), taken, edge) for dot in dots]
        for dots in (policies, experts)
    ]
    upper, lower = ([(c, ci[end]) for c, _, *ci in curve] for end in (1, 0))
    cost, quality, *interval = chosen
    return Chart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=x_ticks,
        y_ticks=[Tick(y_of(v / 100), f"{v:g}") for v in _ticks(low, high, 6)],
        experts=marks[1],
        policies=marks[0],
        mixes=line(mixes),
        curve=line((c, q) for c, q, *_ in curve),
        band=line([*upper, *reversed(lower)]),
        chosen=(x_of(1000 * cost), y_of(quality), y_of(interval[0]), y_of(interval[1])),
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = max((high - low) * 0.08, 0.5)
    return max(low - pad, 0.0), min(high + pad, 100.0)


def _x_axis(costs: Sequence[float], left: float, right: float, width: int) -> tuple:  # type: ignore[type-arg]
    """The function from US$ per 1,000 queries to pixels, and its ticks."""
    low, high = min(costs, default=0.0), max(costs, default=1.0)
    if low > 0 and high / low > LOG_FROM:
        begin, end = math.log(low) - 0.15, math.log(high) + 0.15

        def log_scale(cost: float) -> float:
            return left + (math.log(max(cost, low / 2)) - begin) / (end - begin) * (right - left)

        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [f * 10.0**d for d in decades for f in ((1, 3) if width > 500 else (1,))]
        shown = [v for v in values if begin <= math.log(v) <= end]
        return log_scale, [Tick(log_scale(v), f"{v:g}") for v in shown]
    first = min(low, 0.0) if low < 0.4 * high else low - 0.06 * (high - low)
    last = high + 0.06 * max(high - first, 1e-9)

    def scale(cost: float) -> float:
        return left + (cost - first) / (last - first) * (right - left)

    ticks = _ticks(first, last, 7 if width > 500 else 4)
    return scale, [Tick(scale(v), per_thousand(v / 1000) if v else "0") for v in ticks]


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two values, at most so many."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in TICKS if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 12) for n in range(first, math.floor(high / step) + 1)]


def _mark(
    dot: Dot,
    x: float,
    y: float,
    taken: list[tuple[float, float, float, float]],
    edge: tuple[float, float, float, float],
) -> Mark:
    """A dot with its label at the first place that is free."""
    size = LETTER * len(dot.name)
    places = [
        (x + 12, y + 4, "start"),
        (x - 12, y + 4, "end"),
        (x, y - 10, "middle"),
        (x, y + 19, "middle"),
        (x + 9, y + 18, "start"),
        (x - 9, y - 9, "end"),
    ]
    title = f"{dot.name}: US$ {per_thousand(dot.cost)} per 1,000, quality {100 * dot.quality:.1f} %"
    for label_x, label_y, anchor in places:
        begin = label_x - {"start": 0.0, "end": size, "middle": size / 2}[anchor]
        box = (begin, label_y - LINE + 3, begin + size, label_y + 3)
        inside = box[0] >= edge[0] and box[2] <= edge[2] and box[1] >= 0 and box[3] <= edge[3]
        if inside and not any(_overlap(box, other) for other in taken):
            taken += [box, (x - 5, y - 5, x + 5, y + 5)]
            return Mark(dot.name, title, x, y, label_x, label_y, anchor, True)
    taken.append((x - 5, y - 5, x + 5, y + 5))
    return Mark(dot.name, title, x, y, x, y, "start", False)


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
