"""Draws the pictures of an evaluation: numbers in, SVG text out.

Colours are CSS variables with a fallback, so a picture follows the light or dark scheme of its
page. The same numbers give the same bytes. Only this module imports Matplotlib, when it is used.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from routewright import files
from routewright.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.6  # inches; about 960 px on a page
LABEL = 8.0  # points
PANELS = 12  # most reliability diagrams in one picture
TITLES = 0.42  # inches above their first row, for name and note

# Colour in Matplotlib ▶ CSS variable that a page may set, and its value on a light and on a dark
# background. Colour-blind readers can tell this blue (Okabe and Ito) from grey and orange.
INKS = {
    "#010101": ("ink", "#1c2430", "#e6e9ee"),
    "#020202": ("muted", "#667080", "#98a2b0"),
    "#030303": ("rule", "#d5dae1", "#3a424e"),
    "#040404": ("page", "#ffffff", "#14181e"),
    "#050505": ("router", "#0072b2", "#56b4e9"),
    "#060606": ("mix", "#b35900", "#f0a040"),
}
INK, MUTED, RULE, PAGE, ROUTER, MIX = INKS

# Okabe and Ito (2008), ordered so that neighbours differ in lightness too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#56b4e9", "#d55e00")
OTHERS = "#8a929e"


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
    """Writes the cost–quality picture of the figures of `evaluate --json` to an SVG file."""
    svg = cost_quality(figures) if priced(figures) else quality_bars(figures)
    files.write(Path(path), _standalone(svg))


def priced(figures: Mapping[str, Any]) -> bool:
    """Whether any expert has a known cost above zero."""
    return any(or_zero(expert["cost"]) for expert in figures["experts"].values())


def or_zero(number: float | None) -> float:
    """The number, or 0 for None and NaN."""
    return number if number is not None and np.isfinite(number) else 0.0


def cost_quality(figures: Mapping[str, Any], shuffled: Array | None = None) -> str:
    """The router's curve with its interval, all experts and the references, over cost.

    `shuffled` (2, k) holds cost (US$ per query) and quality of the shuffled control.
    """
    experts, references = figures["experts"], figures["references"]
    height = 5.4 + 0.14 * max(0, len(experts) - 14)
    with _style():
        figure, axes = _axes(height, right=2.6)
        zero = _thousands(references["zero_router"])
        router = _thousands([[p["cost"], p["quality"]] for p in figures["curve"]])
        order = np.lexsort((router[1], router[0]))
        router = router[:, order]
        band = 100 * np.array([p["quality_ci"] for p in figures["curve"]])[order].T
        names = [n for n, e in experts.items() if or_zero(e["cost"]) and or_zero(e["quality"])]
        dots = _thousands([[experts[n]["cost"], experts[n]["quality"]] for n in names])
        oracle = _thousands([[references["oracle"]["cost"], references["oracle"]["quality"]]])
        most_expensive = float(dots[0].max())
        flat = np.column_stack([zero, [most_expensive, zero[1, -1]]])

        axes.plot(*flat, color=MIX, lw=1.4, ls=(0, (5, 2)), label="fixed experts mixed")
        lines = [router, flat]
        if shuffled is not None:
            by_cost = np.argsort(shuffled[0], kind="stable")
            lines.append(shuffled[:, by_cost] * np.array([[1000.0], [100.0]]))
            dots_only = {"marker": "x", "ms": 5} if shuffled.shape[1] == 1 else {}
            style: dict[str, Any] = {"color": MUTED, "lw": 1.2, "ls": (0, (1, 1.6)), **dots_only}
            axes.plot(*lines[-1], label="choices shuffled", **style)
        _draw_router(axes, router, band)
        axes.plot(*dots, "o", color=INK, ms=4.5, ls="", zorder=4, label="one expert")
        axes.plot(*oracle, "*", color=INK, ms=9, ls="", zorder=4)

        _limit(axes, np.column_stack([dots, oracle, router, band_points(router, band)]))
        axes.set_xlabel("US$ per 1,000 queries")
        axes.set_title("quality (mean score × 100)", loc="left", color=MUTED, fontsize=LABEL + 1)
        labels = [_label(n, list(experts), references) for n in names]
        labels.append("oracle: best answer known")
        _annotate(axes, np.column_stack([dots, oracle]), labels, lines)
        _legend(figure, axes)
        return _svg(figure, "curve", "Quality over cost of the router, its experts and references")


def band_points(router: Array, band: Array) -> Array:
    """Corners of the interval band, (2, 2 k), so that the axes include it."""
    return np.column_stack([[router[0], band[0]], [router[0], band[1]]])


def _draw_router(axes: Axes, router: Array, band: Array) -> None:
    if router.shape[1] == 1:
        reach = np.abs(band - router[1])
        style: dict[str, Any] = {"fmt": "D", "color": ROUTER, "ms": 6, "capsize": 3, "zorder": 5}
        axes.errorbar(router[0], router[1], reach, label="router, 95 % interval", **style)
        return
    axes.fill_between(router[0], *band, color=ROUTER, alpha=0.16, lw=0)
    axes.plot(*router, color=ROUTER, lw=2.2, label="router, 95 % interval", zorder=3)


def quality_bars(figures: Mapping[str, Any], shuffled: float | None = None) -> str:
    """Quality of every expert and of the router at λ = 0, for tables without costs."""
    best = min(figures["curve"], key=lambda point: point["lambda"])
    names = list(figures["experts"])
    rows = [(short(n, names), or_zero(e["quality"]), MUTED) for n, e in figures["experts"].items()]
    if shuffled is not None:
        rows.append(("router's choices shuffled", shuffled, RULE))
    rows.append(("oracle: best answer known", figures["references"]["oracle"]["quality"], RULE))
    rows.append(("router", best["quality"], ROUTER))
    rows.sort(key=lambda row: row[1])
    labels, qualities, colours = zip(*rows, strict=True)
    at = colours.index(ROUTER)
    with _style():
        figure, axes = _axes(0.65 + 0.27 * len(rows), left=2.6, right=0.7, top=0.15)
        lengths = [100 * quality for quality in qualities]
        axes.barh(range(len(rows)), lengths, height=0.62, color=colours)
        reach = [[100 * abs(end - best["quality"])] for end in best["quality_ci"]]
        axes.errorbar(lengths[at], at, xerr=reach, color=INK, capsize=3, lw=1.2)
        for row, length in enumerate(lengths):
            end = 100 * best["quality_ci"][1] if row == at else length
            axes.text(end + 1, row, f"{length:.1f}", va="center", fontsize=LABEL)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("quality (mean score × 100)")
        return _svg(figure, "curve", "Quality of the router and of every expert")


def shares(costs: Array, parts: Array, colours: Sequence[str]) -> str:
    """The share of queries that each expert gets along the curve, as stacked areas.

    `costs` (k,) are in US$ per query. The rows of `parts` (k, e) sum to 1; the cheapest expert is
    first.
    """
    order = np.argsort(costs, kind="stable")
    with _style():
        figure, axes = _axes(3.0, right=0.2, top=0.3)
        x, y = costs[order] * 1000, 100 * parts[order].T
        axes.stackplot(x, y, colors=list(colours), edgecolor=PAGE, lw=0.6)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(0, 100)
        axes.set_xlabel("US$ per 1,000 queries")
        axes.set_title("% of queries", loc="left", color=MUTED, fontsize=LABEL + 1)
        return _svg(figure, "shares", "Share of queries that each expert gets, over cost")


def palette(peaks: Sequence[float]) -> list[str]:
    """A colour per expert: the experts with the largest `peaks` get a colour of their own."""
    experts = [m for m, peak in enumerate(peaks) if peak > 0]
    chosen = sorted(sorted(experts, key=lambda m: -peaks[m])[: len(COLOURS)])
    own = dict(zip(chosen, COLOURS, strict=False))
    return [own.get(m, OTHERS) for m in range(len(peaks))]


def reliability(panels: Sequence[Panel]) -> str:
    """Mean score over mean forecast, one small diagram per expert."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with _style():
        height = 2.55 * rows + 0.2
        figure = _figure(height)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        side = min(0.92, 0.23 * columns)
        figure.subplots_adjust(
            left=0.05,
            right=0.05 + side,
            wspace=0.16,
            hspace=0.52,
            bottom=0.13 / rows,
            top=1 - TITLES / height,
        )
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel)
        return _svg(figure, "reliability", "Reliability diagrams of the predictor, per expert")


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
    axes.set_title(panel.title, loc="left", fontsize=LABEL, pad=14)
    axes.text(0, 1.035, panel.note, transform=axes.transAxes, fontsize=LABEL - 1, color=MUTED)


# --- names and labels ----------------------------------------------------------------------


def short(name: str, names: Sequence[str], limit: int = 26) -> str:
    """A name for a picture: without the organisation if it stays unique, at most `limit` long.

    >>> short("mistralai/Mixtral-8x7B-Instruct-v0.1", ["mistralai/Mixtral-8x7B-Instruct-v0.1"])
    'Mixtral-8x7B-Instruct-v0.1'
    """
    tails = [other.rsplit("/", 1)[-1] for other in names]
    tail = name.rsplit("/", 1)[-1]
    label = tail if tail and tails.count(tail) == 1 else name
    if len(label) <= limit:
        return label
    return f"{label[: limit // 2]}…{label[-(limit // 2 - 1) :]}"


def _label(name: str, names: Sequence[str], references: Mapping[str, Any]) -> str:
    roles = [
        role
        for key, role in (("best_single", "best single"), ("cheapest", "cheapest"))
        if references[key]["name"] == name
    ]
    return " · ".join([short(name, names), *roles])


@dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        separate = self.right <= other.left or other.right <= self.left
        return not (separate or self.top <= other.bottom or other.top <= self.bottom)

    def holds(self, points: Array) -> bool:
        x, y = points
        inside = (x > self.left) & (x < self.right) & (y > self.bottom) & (y < self.top)
        return bool(inside.any())


def _annotate(axes: Axes, dots: Array, labels: Sequence[str], lines: Sequence[Array]) -> None:
    """Writes every label at the nearest free spot, with a thin line to its dot if that is far."""
    figure = axes.get_figure()
    assert figure is not None, "axes belong to a figure"
    to_points, scale = axes.transData, 72 / figure.dpi

    def place(points: Array) -> Array:
        return np.asarray(to_points.transform(points.T)).T * scale

    at = place(dots)
    curves = np.column_stack([_dense(place(line)) for line in lines])
    area = axes.get_window_extent()
    room = _Box(area.x0 * scale, area.y0 * scale, WIDTH * 72, area.y1 * scale)
    boxes = [_Box(x - 4, y - 4, x + 4, y + 4) for x, y in at.T]
    for i in np.argsort(-at[1], kind="stable"):
        box = _free_spot(at[:, i], len(labels[i]) * LABEL * 0.56, boxes, curves, room)
        boxes.append(box)
        x, y = axes.transData.inverted().transform(
            np.array([box.left, (box.bottom + box.top) / 2]) / scale
        )
        if np.hypot(box.left - at[0, i], (box.bottom + box.top) / 2 - at[1, i]) > 12:
            axes.plot([dots[0, i], x], [dots[1, i], y], color=MUTED, lw=0.5, clip_on=False)
        axes.text(x, y, labels[i], va="center_baseline", fontsize=LABEL, gid=f"label-{i}")


def _free_spot(at: Array, width: float, boxes: Sequence[_Box], curves: Array, area: _Box) -> _Box:
    """The nearest box to the right of `at` that covers nothing; without one, the nearest box."""
    height = LABEL * 1.25
    spots = [_box(at, dx, dy, width, height) for dx, dy in _offsets(height)]
    for box in spots:
        inside = box.right <= area.right and area.bottom <= box.bottom and box.top <= area.top
        if inside and not box.holds(curves) and not any(box.meets(other) for other in boxes):
            return box
    return spots[0]


def _offsets(height: float) -> Iterator[tuple[float, float]]:
    steps = product((7, 16, 30, 50, 80, 120, 170, 230), np.arange(-60, 61) * height / 4)
    yield from sorted(((dx, float(dy)) for dx, dy in steps), key=_detour)


def _detour(offset: tuple[float, float]) -> float:
    """The length of an offset. Upwards counts five times, so that labels keep the order of dots."""
    dx, dy = offset
    return float(np.hypot(dx, dy if dy <= 0 else 5 * dy))


def _box(at: Array, dx: float, dy: float, width: float, height: float) -> _Box:
    x, y = float(at[0]) + dx, float(at[1]) + dy
    return _Box(x, y - height / 2, x + width, y + height / 2)


def _dense(line: Array) -> Array:
    """The same polyline with 400 points, so that a box between two corners is not free."""
    if line.shape[1] < 2:
        return line
    steps = np.linspace(0, line.shape[1] - 1, 400)
    knots = np.arange(line.shape[1])
    return np.array([np.interp(steps, knots, line[0]), np.interp(steps, knots, line[1])])


# --- Matplotlib ----------------------------------------------------------------------------


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "routewright",
            "text.parse_math": False,  # a name may hold dollar signs
            "font.size": LABEL,
            "text.color": INK,
            "axes.edgecolor": RULE,
            "axes.labelcolor": MUTED,
            "axes.labelsize": LABEL + 1,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": RULE,
            "grid.linewidth": 0.5,
            "xtick.color": RULE,
            "ytick.color": RULE,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
        }
    )


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=72, facecolor="none")


def _axes(
    height: float, *, left: float = 0.5, right: float, top: float = 0.55
) -> tuple[Figure, Axes]:
    """A figure and its axes; margins are in inches."""
    figure, bottom = _figure(height), 0.5
    axes = figure.add_axes(
        (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, 1 - (bottom + top) / height)
    )
    return figure, axes


def _limit(axes: Axes, points: Array) -> None:
    (left, bottom), (right, top) = points.min(axis=1), points.max(axis=1)
    span = max(top - bottom, 1.0)
    axes.set_xlim(min(0.0, left), right * 1.02)
    axes.set_ylim(bottom - 0.14 * span, top + 0.06 * span)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper left", ncols=len(labels), frameon=False, borderaxespad=0.2
    )


def _thousands(pairs: Sequence[Sequence[float]]) -> Array:
    """Pairs of cost (US$ per query) and quality ▶ rows of US$ per 1,000 queries and percent."""
    scaled: Array = np.array(pairs, dtype=np.float64).T * np.array([[1000.0], [100.0]])
    return scaled


def _svg(figure: Figure, name: str, title: str) -> str:
    """SVG to include in a page: without prolog and metadata, with the picture's name in its ids."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the fonts lack are no problem
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    head, mark, rest = svg.partition("<metadata>")
    svg = head + rest.partition("</metadata>")[2] if mark else svg
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^<>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^<>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg class="picture" role="img" aria-label="{title}"', 1)
    for ink, (variable, light, _) in INKS.items():
        svg = svg.replace(ink, f"var(--{variable}, {light})")
    return svg.strip()


def _standalone(svg: str) -> str:
    """SVG for a file of its own, which follows the reader's colour scheme."""
    light = "; ".join(f"--{variable}: {colour}" for variable, colour, _ in INKS.values())
    dark = "; ".join(f"--{variable}: {colour}" for variable, _, colour in INKS.values())
    style = (
        f"<style>svg {{ {light}; background: var(--page) }}"
        f" @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
        " text { font-family: system-ui, sans-serif !important }</style>"
    )
    svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return svg.replace(">", f">{style}", 1) + "\n"
