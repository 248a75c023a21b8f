"""Matplotlib's figures as SVG text that follows the light or dark scheme of its page, and as files
for a paper.

Only this module imports Matplotlib, when it is used. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routewright import files
from routewright.errors import BadInput
from routewright.evaluation.labels import SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 9.6, 3.75  # inches; about 960 and 350 px on a page

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


ENDINGS = (".svg", ".pdf", ".png")  # of pictures on request
PRINT_DPI = 300  # of PNG


class Drawing(str):
    """A figure as SVG text to include in a page."""

    figure: Figure


def style() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "routewright",
            "text.parse_math": False,  # a name may hold dollar signs
            "font.size": SIZE,
            "text.color": INK,
            "axes.edgecolor": RULE,
            "axes.labelcolor": MUTED,
            "axes.labelsize": SIZE + 1,
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


def figure(height: float, width: float = WIDE) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=72, facecolor="none")


def axes(
    height: float,
    *,
    left: float = 0.5,
    right: float,
    top: float = 0.55,
    bottom: float = 0.5,
    width: float = WIDE,
) -> tuple[Figure, Axes]:
    """A figure and its axes; margins are in inches."""
    made = figure(height, width)
    return made, made.add_axes(
        (left / width, bottom / height, (width - left - right) / width, 1 - (bottom + top) / height)
    )


def cost_axis(axes: Axes, log: bool) -> None:
    """Ticks at 1 and 3 of every decade on a logarithmic axis, without exponents."""
    if not log:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,.6g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def to_svg(figure: Figure, name: str, title: str) -> Drawing:
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
    drawing = Drawing(svg.strip())
    drawing.figure = figure
    return drawing


def check_ending(path: Path) -> None:
    """Raises BadInput for a picture of a kind that cannot be drawn."""
    if path.suffix.lower() not in ENDINGS:
        raise BadInput(f"'{path}' must end in {', '.join(ENDINGS)}")


def save(drawing: Drawing, path: Path) -> None:
    """Writes a drawing as the kind of picture that the file's ending names: SVG follows the
    reader's colour scheme, PDF and PNG are in the light one. Raises BadInput."""
    check_ending(path)
    if path.suffix.lower() == ".svg":
        files.write(path, standalone(drawing))
        return
    _print_inks(drawing.figure)
    content = io.BytesIO()
    kind = path.suffix.lower().removeprefix(".")
    no_date = {"CreationDate": None} if kind == "pdf" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the fonts lack are no problem
        drawing.figure.savefig(
            content, format=kind, dpi=PRINT_DPI, facecolor="white", metadata=no_date
        )
    files.write(path, content.getvalue())


def _print_inks(figure: Figure) -> None:
    """Gives everything in a figure the colours of a light page."""
    from matplotlib.colors import to_hex, to_rgba_array

    for artist in figure.findobj():
        for name in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            ask, tell = (getattr(artist, f"{verb}_{name}", None) for verb in ("get", "set"))
            if ask is None or tell is None:
                continue
            colours = to_rgba_array(ask())
            inks = [INKS.get(to_hex(colour)) for colour in colours]
            if len(inks) == 1 and inks[0] is not None and colours[0, 3]:
                tell((inks[0][1], colours[0, 3]))


def standalone(svg: str) -> str:
    """SVG for a file of its own, which follows the reader's colour scheme."""
    light = "; ".join(f"--{variable}: {colour}" for variable, colour, _ in INKS.values())
    dark = "; ".join(f"--{variable}: {colour}" for variable, _, colour in INKS.values())
    style = (
        f"<style>svg {{ {light}; background: var(--page) }}"
        f" @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
        " text { font-family: system-ui, sans-serif !important }"
        " g[id*='label-'] text { paint-order: stroke; stroke: var(--page); stroke-width: 2.5px }"
        "</style>"
    )
    svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return svg.replace(">", f">{style}", 1) + "\n"
