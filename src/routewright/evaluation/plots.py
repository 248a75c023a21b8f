"""Draws the pictures of an evaluation: numbers in, SVG text out.

Colours are CSS variables with a fallback, so a picture follows the light or dark scheme of its
page. The same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from routewright.evaluation import canvas
from routewright.evaluation.canvas import INK, MIX, MUTED, PAGE, ROUTER, RULE, Drawing
from routewright.evaluation.labels import SIZE, Label, annotate, short
from routewright.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG, SHORT = 26, 20  # letters of a name in a wide and a narrow picture
MERGED = 42  # letters of a label of several dots
DECADES = 30.0  # between the costs of experts, from which on the axis is logarithmic
CROWD = 10  # experts; more of them need a higher picture, and a margin for their names
PANELS = 12  # most reliability diagrams in one picture
TITLES = 0.42  # inches above their first row, for name and note

# Okabe and Ito (2008), ordered so that neighbours differ in lightness too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#56b4e9", "#d55e00")
OTHERS = "#8a929e"


@dataclass(frozen=True)
class Mark:
    """A policy in a picture, and what was asked of it: at most a cost or at least a quality."""

    name: str
    cost: float  # US$ per query
    quality: float  # 0..1
    gain: float | None = None  # over the fixed mix at the same cost
    gain_ci: Sequence[float] | None = None
    most: float | None = None  # US$ per query that were asked for
    least: float | None = None  # quality that was asked for

    @property
    def goal(self) -> Array | None:
        """Where the policy would stand if it met the goal exactly: (2, 1), in a picture's units."""
        if self.most is None and self.least is None:
            return None
        cost = self.cost if self.most is None else self.most
        quality = self.quality if self.least is None else self.least
        return _thousands([[cost, quality]])

    @property
    def reach(self) -> Array | None:
        """The line from the policy to its goal, and the short bar there: (2, 4)."""
        if (goal := self.goal) is None:
            return None
        start = _thousands([[self.cost, self.quality]])
        bar = np.array([[0.0, 0.0], [-1.0, 1.0]]) if self.most is not None else np.zeros((2, 2))
        return np.column_stack([start, goal, goal + bar])


@dataclass(frozen=True)
class Panel:
    """One expert's reliability diagram: mean forecast and mean score of every bin, 0..1."""

    title: str
    note: str
    forecast: Array
    score: Array
    reach: Array  # (2, bins) distances to the lower and upper end of the 95 % interval of the score


# --- the pictures --------------------------------------------------------------------------


def curve(figures: Mapping[str, Any], path: Path | str) -> None:
    """Writes the cost–quality picture of the figures of `evaluate --json` to an SVG, PDF or PNG
    file. Raises BadInput for other endings."""
    marks = _gains(figures)
    drawing = cost_quality(figures, marks=marks) if priced(figures) else quality_bars(figures)
    canvas.save(drawing, Path(path))


def _gains(figures: Mapping[str, Any]) -> list[Mark]:
    """The gains at fractions of the most expensive expert's cost, as marks without a name."""
    dearest = max(or_zero(expert["cost"]) for expert in figures["experts"].values())
    return [
        Mark(
            "", float(fraction) * dearest, at["quality"], at["gain_over_zero_router"], at["gain_ci"]
        )
        for fraction, at in figures.get("at_cost_fraction", {}).items()
        if at["gain_over_zero_router"] is not None
    ]


def priced(figures: Mapping[str, Any]) -> bool:
    """Whether any expert has a known cost above zero."""
    return any(or_zero(expert["cost"]) for expert in figures["experts"].values())


def or_zero(number: float | None) -> float:
    """The number, or 0 for None and NaN."""
    return number if number is not None and np.isfinite(number) else 0.0


def cost_quality(
    figures: Mapping[str, Any],
    shuffled: Array | None = None,
    marks: Sequence[Mark] = (),
    gains: Array | None = None,
    *,
    narrow: bool = False,
) -> Drawing:
    """All experts, the references, the router's curve and the policies, over cost; below them the
    paired gain over the fixed mix with its interval.

    `shuffled` (2, k) holds cost (US$ per query) and quality of the shuffled control, `gains` (3, k)
    the gain of every point of the curve and the ends of its interval. A mark without a name stands
    in the lower part only. The cost axis is logarithmic where the experts' costs span decades.
    `narrow` is for telephones.
    """
    experts, references = figures["experts"], figures["references"]
    names = [n for n, e in experts.items() if _known(e["cost"]) and _known(e["quality"])]
    dots = _thousands([[experts[n]["cost"], experts[n]["quality"]] for n in names])
    ideal = references["oracle"]
    is_known = _known(ideal["cost"]) and _known(ideal["quality"])
    oracle = _thousands([[ideal["cost"], ideal["quality"]]] if is_known else [])
    mix = _thousands(references["zero_router"])
    mix = np.column_stack([mix, [float(dots[0].max()), mix[1, -1]]])
    curve = _Curve.of(figures.get("curve", ()), gains)
    every, marks = marks, [mark for mark in marks if mark.name]
    places = [np.array([[1000 * mark.cost], [100 * mark.quality]]) for mark in marks]
    corners = [dots, oracle, *places, *(mark.goal for mark in marks if mark.goal is not None)]
    corners += [] if curve is None else [curve.line, curve.above_mix]
    log = _spans_decades(np.concatenate([dots[0], *(c[0] for c in corners)]), dots[0])
    lines = [_straight(mix, log)]
    if shuffled is not None:
        by_cost = np.argsort(shuffled[0], kind="stable")
        lines.append(_straight(_scaled(shuffled[:, by_cost]), log))
    with canvas.style():
        gainful = gains is not None or any(mark.gain_ci is not None for mark in every)
        figure, axes, below = _two_axes(len(experts), gainful, narrow)
        axes.plot(*lines[0], color=MIX, lw=1.4, ls=(0, (5, 2)), label="fixed experts mixed")
        if shuffled is not None:
            dots_only = {"marker": "x", "ms": 5} if shuffled.shape[1] == 1 else {}
            style: dict[str, Any] = {"color": MUTED, "lw": 1.2, "ls": (0, (1, 1.6)), **dots_only}
            axes.plot(*lines[1], label="choices shuffled", **style)
        if curve is not None:
            lines.append(_straight(curve.line, log))
            _draw_curve(axes, lines[-1], curve, log)
        _draw_marks(axes, marks, places)
        axes.plot(*dots, "o", color=INK, ms=4.5, ls="", zorder=4, label="one expert")
        axes.plot(*oracle, "*", color=INK, ms=9, ls="", zorder=4)
        _limit(axes, np.column_stack(corners), log)
        title = "quality, %" if narrow else "quality, % (mean score × 100)"
        axes.set_title(title, loc="left", color=MUTED, fontsize=SIZE + 1)
        labels = _labels(names, experts, references, dots, narrow)
        labels += [Label(float(x), float(y), _oracle(narrow), INK) for x, y in oracle.T]
        for mark, at in zip(marks, places, strict=True):
            name = short(mark.name, [m.name for m in marks], SHORT if narrow else LONG)
            labels.append(Label(float(at[0, 0]), float(at[1, 0]), name, ROUTER))
        lines += [mark.reach for mark in marks if mark.reach is not None]
        annotate(axes, _merged(labels), lines, MUTED)
        if below is not None:
            _draw_gain(below, curve, every, log=log, narrow=narrow)
        (below or axes).set_xlabel("US$ per 1,000 queries")
        _legend(figure, axes, narrow)
        name = "curve-narrow" if narrow else "curve"
        return canvas.to_svg(
            figure, name, "Quality and gain over cost, with experts and references"
        )


def comparison(
    figures: Mapping[str, Any], curves: Sequence[Array], *, narrow: bool = False
) -> Drawing:
    """Two routers or policies over cost, and below them their paired difference with its interval.

    `figures` is what `compare --json` writes; a curve (2, k) holds cost (US$ per query) and quality
    of the operating points of A and of B.
    """
    experts, references = figures["experts"], figures["references"]
    names = [n for n, e in experts.items() if _known(e["cost"]) and _known(e["quality"])]
    dots = _thousands([[experts[n]["cost"], experts[n]["quality"]] for n in names])
    mix = _thousands(references["zero_router"])
    mix = np.column_stack([mix, [float(dots[0].max()), mix[1, -1]]])
    sides = [_scaled(curve[:, np.lexsort((curve[1], curve[0]))]) for curve in curves]
    corners = np.column_stack([dots, *sides])
    log = _spans_decades(corners[0], dots[0])
    along = [at for at in figures["along"] if at["difference"] is not None]
    lines = [_straight(mix, log), *(_straight(side, log) for side in sides)]
    with canvas.style():
        figure, axes, below = _two_axes(len(experts), bool(along), narrow)
        axes.plot(*lines[0], color=MIX, lw=1.2, ls=(0, (5, 2)), label="fixed experts mixed")
        for key, colour, line in zip("AB", (MUTED, ROUTER), lines[1:], strict=True):
            name = short(figures[key.lower()]["name"], [figures[k]["name"] for k in "ab"], LONG)
            single = line.shape[1] == 1
            style: dict[str, Any] = {"marker": "D", "ms": 8, "ls": ""} if single else {"lw": 2.2}
            axes.plot(*line, color=colour, zorder=3, label=f"{key}: {name}", **style)
        axes.plot(*dots, "o", color=INK, ms=4.5, ls="", zorder=4, label="one expert")
        _limit(axes, corners, log)
        axes.set_title("quality, %", loc="left", color=MUTED, fontsize=SIZE + 1)
        annotate(axes, _labels(names, experts, references, dots, narrow), lines, MUTED)
        if below is not None:
            _draw_difference(below, along, log)
        (below or axes).set_xlabel("US$ per 1,000 queries")
        _legend(figure, axes, narrow, columns=1 if narrow else 4)
        name = "comparison-narrow" if narrow else "comparison"
        return canvas.to_svg(figure, name, "Quality of both over cost, and their difference")


def _draw_difference(axes: Axes, along: Sequence[Mapping[str, Any]], log: bool) -> None:
    cost = np.array([1000 * at["cost"] for at in along])
    rows = np.array([[at["difference"], *at["difference_ci"]] for at in along]).T * 100
    gap, low, high = (_straight(np.array([cost, row]), log) for row in rows)
    axes.axhline(0, color=MUTED, lw=1.4)
    axes.fill_between(gap[0], low[1], high[1], color=ROUTER, alpha=0.16, lw=0)
    axes.plot(*gap, color=ROUTER, lw=2.2)
    title = "B − A at the same cost, percentage points (95 %)"
    axes.set_title(title, loc="left", color=MUTED, fontsize=SIZE + 1)


@dataclass(frozen=True)
class _Curve:
    """A router's operating points, cheapest first; US$ per 1,000 queries, per cent."""

    line: Array  # (2, k) cost and quality
    gain: Array | None  # (3, k) over the fixed mix, and the ends of its interval

    @classmethod
    def of(cls, points: Sequence[Mapping[str, Any]], gains: Array | None) -> _Curve | None:
        if not points:
            return None
        line = _thousands([[p["cost"], p["quality"]] for p in points])
        order = np.lexsort((line[1], line[0]))
        return cls(line[:, order], None if gains is None else 100 * gains[:, order])

    @property
    def above_mix(self) -> Array:
        """Corners of the interval of the gain, drawn from the fixed mix upwards, (2, 2 k)."""
        if self.gain is None:
            return self.line
        low, high = np.clip(self.line[1] - self.gain[0] + self.gain[1:], 0, 100)
        return np.column_stack([[self.line[0], low], [self.line[0], high]])


def _draw_curve(axes: Axes, line: Array, curve: _Curve, log: bool) -> None:
    single = curve.line.shape[1] == 1
    if curve.gain is not None and not single:
        k = curve.line.shape[1]
        low, high = (
            _straight(curve.above_mix[:, part], log) for part in (slice(k), slice(k, None))
        )
        label = "95 % interval of its gain"
        axes.fill_between(low[0], low[1], high[1], color=ROUTER, alpha=0.16, lw=0, label=label)
    style: dict[str, Any] = {"marker": "D", "ms": 5, "ls": ""} if single else {"lw": 2.2}
    axes.plot(*line, color=ROUTER, label="router", zorder=3, **style)


def _draw_marks(axes: Axes, marks: Sequence[Mark], places: Sequence[Array]) -> None:
    """A diamond per policy, and a short bar at the cost or quality that was asked for."""
    for n, (mark, at) in enumerate(zip(marks, places, strict=True)):
        style: dict[str, Any] = {"color": ROUTER, "mec": PAGE, "mew": 0.8, "ms": 8, "ls": ""}
        axes.plot(*at, "D", zorder=6, label=None if n else "policy", **style)
        if mark.goal is None:
            continue
        bar = "|" if mark.most is not None else "_"
        axes.plot(*np.column_stack([at, mark.goal]), color=ROUTER, lw=1, zorder=5)
        axes.plot(*mark.goal, bar, color=ROUTER, ms=13, mew=2, ls="", zorder=5)
    if any(mark.goal is not None for mark in marks):
        axes.plot([], [], "|", color=ROUTER, ms=9, mew=2, ls="", label="asked for")


def _draw_gain(
    axes: Axes,
    curve: _Curve | None,
    marks: Sequence[Mark],
    *,
    log: bool,
    narrow: bool,
) -> None:
    axes.axhline(0, color=MIX, lw=1.4, ls=(0, (5, 2)))
    heights = [0.0]
    if curve is not None and curve.gain is not None:
        cost, (gain, low, high) = curve.line[0], curve.gain
        heights += [low.min(), high.max()]
        if len(cost) == 1:
            reach = [gain - low, high - gain]
            axes.errorbar(cost, gain, reach, fmt="D", color=ROUTER, ms=5, capsize=3)
        else:
            dense = [_straight(np.array([cost, y]), log) for y in (gain, low, high)]
            axes.fill_between(dense[1][0], dense[1][1], dense[2][1], color=ROUTER, alpha=0.16, lw=0)
            axes.plot(*dense[0], color=ROUTER, lw=2.2)
    for mark in marks:
        if mark.gain is None or mark.gain_ci is None:
            continue
        low, high = (100 * end for end in mark.gain_ci)
        heights += [low, high]
        reach = [[max(100 * mark.gain - low, 0)], [max(high - 100 * mark.gain, 0)]]
        style: dict[str, Any] = {"fmt": "D", "color": ROUTER, "mec": PAGE, "mew": 0.8, "ms": 7}
        axes.errorbar(
            [1000 * mark.cost], [100 * mark.gain], reach, capsize=4, elinewidth=1.6, **style
        )
    span = max(max(heights) - min(heights), 1.0)
    axes.set_ylim(min(heights) - 0.08 * span, max(heights) + 0.08 * span)
    title = "gain over the fixed mix at the same cost, percentage points"
    short_title = "gain over the fixed mix, percentage points"
    title = short_title if narrow else f"{title} (95 % interval)"
    axes.set_title(title, loc="left", color=MUTED, fontsize=SIZE + 1)


def _labels(
    names: Sequence[str],
    experts: Mapping[str, Any],
    references: Mapping[str, Any],
    dots: Array,
    narrow: bool,
) -> list[Label]:
    roles = {} if narrow else {"best_single": "best single", "cheapest": "cheapest"}
    return [
        Label(
            float(at[0]),
            float(at[1]),
            " · ".join(
                [
                    short(name, list(experts), SHORT if narrow else LONG),
                    *(role for key, role in roles.items() if references[key]["name"] == name),
                ]
            ),
            INK,
        )
        for name, at in zip(names, dots.T, strict=True)
    ]


def _merged(labels: Sequence[Label]) -> list[Label]:
    """One label for dots at one place, such as an expert and the policy that always asks it, unless
    it gets longer than MERGED letters."""
    merged: list[Label] = []
    for label in labels:
        for n, other in enumerate(merged):
            same = np.allclose((label.x, label.y), (other.x, other.y), rtol=1e-6, atol=1e-9)
            text = f"{other.text} · {label.text}"
            if same and len(text) <= MERGED:
                merged[n] = replace(other, text=text)
                break
        else:
            merged.append(label)
    return merged


def _oracle(narrow: bool) -> str:
    return "oracle" if narrow else "oracle: best answer known"


def _spans_decades(costs: Array, experts: Array) -> bool:
    """Whether a logarithmic axis shows costs better: all are above 0, and those of the experts
    differ by a factor of DECADES or more."""
    return bool((costs > 0).all() and experts.max() >= DECADES * experts.min())


def _straight(line: Array, log: bool) -> Array:
    """A polyline (2, k) that is straight in cost, with corners between for a logarithmic axis."""
    if not log or line.shape[1] < 2:
        return line
    cost = np.union1d(line[0], np.geomspace(line[0].min(), line[0].max(), 200))
    return np.array([cost, np.interp(cost, *line)])


class _Bar(NamedTuple):
    name: str
    quality: float  # 0..1
    interval: Sequence[float] | None
    colour: str


def quality_bars(
    figures: Mapping[str, Any], shuffled: float | None = None, *, narrow: bool = False
) -> Drawing:
    """Quality of every expert, of the router at λ = 0 and of every policy, for tables without
    costs."""
    names = list(figures["experts"])
    limit = SHORT if narrow else LONG
    bars = [
        _Bar(short(n, names, limit), or_zero(e["quality"]), None, MUTED)
        for n, e in figures["experts"].items()
    ]
    if shuffled is not None:
        bars.append(_Bar("choices shuffled", shuffled, None, RULE))
    if _known(ideal := figures["references"]["oracle"]["quality"]):
        bars.append(_Bar(_oracle(narrow), ideal, None, RULE))
    if "curve" in figures:
        best = min(figures["curve"], key=lambda point: point["lambda"])
        bars.append(_Bar("router", best["quality"], best["quality_ci"], ROUTER))
    for name, facts in figures.get("policies", {}).items():
        policy = short(name, list(figures["policies"]), limit)
        bars.append(_Bar(policy, facts["quality"], facts["quality_ci"], ROUTER))
    bars.sort(key=lambda bar: bar.quality)
    left = 1.45 if narrow else 2.6
    with canvas.style():
        width = _width(narrow)
        figure, axes = canvas.axes(
            0.65 + 0.27 * len(bars), left=left, right=0.5, top=0.15, width=width
        )
        lengths = [100 * bar.quality for bar in bars]
        axes.barh(range(len(bars)), lengths, height=0.62, color=[bar.colour for bar in bars])
        for row, bar in enumerate(bars):
            end = 100 * bar.quality
            if bar.interval is not None:
                reach = [[max(100 * abs(edge - bar.quality), 0)] for edge in bar.interval]
                axes.errorbar(end, row, xerr=reach, color=INK, capsize=3, lw=1.2)
                end = 100 * bar.interval[1]
            axes.text(end + 1, row, f"{100 * bar.quality:.1f}", va="center", fontsize=SIZE)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("quality, % (mean score × 100)")
        name = "curve-narrow" if narrow else "curve"
        return canvas.to_svg(figure, name, "Quality of every expert and of what is served")


def shares(costs: Array, parts: Array, colours: Sequence[str], *, narrow: bool = False) -> Drawing:
    """The share of queries that each expert gets along the curve, as stacked areas.

    `costs` (k,) are in US$ per query. The rows of `parts` (k, e) sum to 1; the cheapest expert is
    first.
    """
    order = np.argsort(costs, kind="stable")
    x, y = costs[order] * 1000, 100 * parts[order].T
    log = _spans_decades(x, x)
    dense = [_straight(np.array([x, row]), log) for row in y]
    with canvas.style():
        right = 0.2 if narrow else 1.75
        figure, axes = canvas.axes(
            2.4 if narrow else 3.0, right=right, top=0.3, width=_width(narrow)
        )
        rows = np.array([row[1] for row in dense])
        axes.stackplot(dense[0][0], rows, colors=list(colours), edgecolor=PAGE, lw=0.6)
        canvas.cost_axis(axes, log)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(0, 100)
        axes.set_xlabel("US$ per 1,000 queries")
        axes.set_title("% of queries", loc="left", color=MUTED, fontsize=SIZE + 1)
        name = "shares-narrow" if narrow else "shares"
        return canvas.to_svg(figure, name, "Share of queries that each expert gets, over cost")


def rounds(
    numbers: Sequence[int],
    quality: Array,
    interval: Array,
    kept: int,
    *,
    narrow: bool = False,
) -> Drawing:
    """The quality of the router of every round of a self-play, with its interval.

    `quality` (k,) and `interval` (2, k) are 0..1; round `kept` is the one that is handed over.
    """
    reach = 100 * np.maximum(np.abs(interval - quality), 0.0)
    with canvas.style():
        figure, axes = canvas.axes(2.6, right=0.3, top=0.35, width=_width(narrow))
        style: dict[str, Any] = {"color": ROUTER, "capsize": 4, "lw": 1.6, "elinewidth": 1.2}
        axes.errorbar(numbers, 100 * quality, reach, fmt="o-", ms=4, **style)
        place = list(numbers).index(kept)
        axes.plot(kept, 100 * quality[place], "D", color=ROUTER, mec=PAGE, mew=0.8, ms=9, zorder=5)
        axes.annotate(
            "kept", (kept, 100 * quality[place]), (8, 6), textcoords="offset points", color=ROUTER
        )
        axes.set_xticks(numbers, ["start" if n == 0 else str(n) for n in numbers])
        axes.set_xlim(min(numbers) - 0.4, max(numbers) + 0.6)
        axes.set_xlabel("round")
        title = "quality on the held-out table, % (95 %)"
        axes.set_title(title, loc="left", color=MUTED, fontsize=SIZE + 1)
        name = "rounds-narrow" if narrow else "rounds"
        return canvas.to_svg(figure, name, "Quality of the router of every round")


def palette(peaks: Sequence[float]) -> list[str]:
    """A colour per expert: the experts with the largest `peaks` get a colour of their own."""
    experts = [m for m, peak in enumerate(peaks) if peak > 0]
    chosen = sorted(sorted(experts, key=lambda m: -peaks[m])[: len(COLOURS)])
    own = dict(zip(chosen, COLOURS, strict=False))
    return [own.get(m, OTHERS) for m in range(len(peaks))]


def reliability(panels: Sequence[Panel], *, narrow: bool = False) -> Drawing:
    """Mean score over mean forecast, one small diagram per expert."""
    most = 2 if narrow else 4
    columns = min(most, len(panels))
    rows = -(-len(panels) // columns)
    with canvas.style():
        height = (2.0 if narrow else 2.55) * rows + 0.2
        figure = canvas.figure(height, _width(narrow))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        left = 0.09 if narrow else 0.05
        figure.subplots_adjust(
            left=left,
            right=left + 0.88 * columns / most,
            wspace=0.2 if narrow else 0.16,
            hspace=0.52,
            bottom=0.13 / rows,
            top=1 - TITLES / height,
        )
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel)
        name = "reliability-narrow" if narrow else "reliability"
        return canvas.to_svg(figure, name, "Reliability diagrams of the predictor, per expert")


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.plot([0, 100], [0, 100], color=MUTED, lw=0.8, ls=(0, (4, 3)))
    axes.errorbar(
        100 * panel.forecast,
        100 * panel.score,
        yerr=100 * panel.reach,
        color=ROUTER,
        fmt="o-",
        ms=3,
        lw=1.1,
        elinewidth=0.7,
    )
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xticks([0, 50, 100])
    axes.set_yticks([0, 50, 100])
    axes.tick_params(labelbottom=True)
    axes.set_title(panel.title, loc="left", fontsize=SIZE, pad=14)
    axes.text(0, 1.035, panel.note, transform=axes.transAxes, fontsize=SIZE, color=MUTED)


# --- axes ----------------------------------------------------------------------------------


def _width(narrow: bool) -> float:
    return canvas.NARROW if narrow else canvas.WIDE


def _two_axes(experts: int, gainful: bool, narrow: bool) -> tuple[Figure, Axes, Axes | None]:
    """The axes of quality, and below them those of the gain where it is known."""
    crowd = max(0, experts - CROWD)
    right, top, gap = (0.15, 0.95, 0.62) if narrow else (1.75 if crowd else 0.3, 0.6, 0.7)
    above = (3.3 if narrow else 4.3) + 0.14 * crowd
    if not gainful:
        height = above + top + 0.5
        return *canvas.axes(height, right=right, top=top, width=_width(narrow)), None
    panel = 1.25 if narrow else 1.6
    height = above + top + gap + panel + 0.5
    figure, axes = canvas.axes(
        height, right=right, top=top, bottom=0.5 + panel + gap, width=_width(narrow)
    )
    width = _width(narrow)
    edges = (0.5 / width, 0.5 / height, (width - 0.5 - right) / width, panel / height)
    return figure, axes, figure.add_axes(edges, sharex=axes)


def _limit(axes: Axes, points: Array, log: bool) -> None:
    (left, bottom), (right, top) = points.min(axis=1), points.max(axis=1)
    span = max(top - bottom, 1.0)
    axes.set_ylim(bottom - 0.14 * span, top + 0.06 * span)
    canvas.cost_axis(axes, log)
    axes.set_xlim(*((0.75 * left, 1.2 * right) if log else (min(0.0, left), 1.02 * right or 1.0)))


def _legend(figure: Figure, axes: Axes, narrow: bool, columns: int = 0) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or (2 if narrow else len(labels))
    figure.legend(
        handles,
        labels,
        loc="upper left",
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
        handlelength=1.6,
    )


def _known(number: float | None) -> bool:
    return number is not None and bool(np.isfinite(number))


def _scaled(points: Array) -> Array:
    """Cost (US$ per query) and quality (0..1) in a picture's units."""
    scaled: Array = points * np.array([[1000.0], [100.0]])
    return scaled


def _thousands(pairs: Sequence[Sequence[float]]) -> Array:
    """Pairs of cost (US$ per query) and quality ▶ rows of US$ per 1,000 queries and percent."""
    return _scaled(np.array(pairs, dtype=np.float64).reshape(-1, 2).T)
