"""Places the names of dots in a picture, each at its dot and none on top of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import numpy as np

from routewright.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 8.0  # points
LETTER = 0.56  # mean width of a letter, relative to its size
WIDE = 0.8  # width of a capital letter, an m or a w, relative to its size
CLEAR = 30.0  # points that a label goes farther to cover no curve
OWN = 60.0  # points that a label goes farther to be nearer to its own dot than to another one
ORDER = 60.0  # points that a label goes farther to be below the labels of the dots above its own
NEAR = 80.0  # points between dots whose labels are kept in order
LEADER = 14.0  # points between a dot and its label; a thin line joins those that are farther


@dataclass(frozen=True)
class Label:
    """The text beside a dot at (x, y) in the data's units, and its colour."""

    x: float
    y: float
    text: str
    colour: str


def short(name: str, names: Sequence[str], limit: int = 26) -> str:
    """A name for a picture: without the organisation if it stays unique, at most `limit` long, and
    different from the other names where a cut in another place can do that.

    >>> short("mistralai/Mixtral-8x7B-Instruct-v0.1", ["mistralai/Mixtral-8x7B-Instruct-v0.1"])
    'Mixtral-8x7B-Instruct-v0.1'
    >>> short("Llama-3_1-8B-Instruct", ["Llama-3_1-8B-Instruct", "Llama-3-8B-Instruct"], 14)
    'Llama-3_…truct'
    """
    tails = [other.rsplit("/", 1)[-1] for other in names]
    tail = name.rsplit("/", 1)[-1]
    label = tail if tail and tails.count(tail) == 1 else name
    if len(label) <= limit:
        return label
    others = [t if t and tails.count(t) == 1 else n for n, t in zip(names, tails, strict=True)]
    heads = sorted(range(1, limit), key=lambda head: (abs(head - limit // 2), -head))
    cuts = (partial(_cut, head=head, limit=limit) for head in heads)
    labels = ((cut(label), [cut(other) for other in others]) for cut in cuts)
    return next(
        (one for one, all_ in labels if all_.count(one) < 2), _cut(label, limit // 2, limit)
    )


def _cut(name: str, head: int, limit: int) -> str:
    if len(name) <= limit:
        return name
    return f"{name[:head]}…{name[len(name) - (limit - head - 1) :]}"


@dataclass(frozen=True)
class Box:
    """A rectangle in points."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def middle(self) -> float:
        return (self.bottom + self.top) / 2

    def meets(self, other: Box) -> bool:
        separate = self.right <= other.left or other.right <= self.left
        return not (separate or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: Box) -> bool:
        wide = other.left <= self.left and self.right <= other.right
        return wide and other.bottom <= self.bottom and self.top <= other.top

    def distance(self, points: Array) -> Array:
        """The distance of points (2, k), or of one point (2,), from the rectangle."""
        x, y = points
        right = np.maximum(np.maximum(self.left - x, x - self.right), 0.0)
        up = np.maximum(np.maximum(self.bottom - y, y - self.top), 0.0)
        return np.asarray(np.hypot(right, up))

    def holds(self, points: Array) -> bool:
        x, y = points
        inside = (x > self.left) & (x < self.right) & (y > self.bottom) & (y < self.top)
        return bool(inside.any())


def annotate(axes: Axes, labels: Sequence[Label], lines: Sequence[Array], leader: str) -> None:
    """Writes every label at the nearest free spot, on either side of its dot.

    `lines` are polylines (2, k) in the data's units that labels stay off; `leader` is the colour of
    the thin line between a dot and a label that is far from it.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    to_points, scale = axes.transData, 72 / figure.dpi

    def place(points: Array) -> Array:
        return np.asarray(to_points.transform(points.T)).T * scale

    at = place(np.array([[label.x for label in labels], [label.y for label in labels]]))
    curves = np.column_stack([_dense(place(line)) for line in lines])
    area = axes.get_window_extent()
    width = figure.get_figwidth() * 72
    room = Box(area.x0 * scale + 2, area.y0 * scale, width - 2, area.y1 * scale)
    boxes = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in at.T]
    placed: list[tuple[Array, Box]] = []
    for i in np.argsort(-at[1], kind="stable"):
        dot, label = at[:, i], labels[i]
        others = at[:, np.hypot(*(at - dot[:, None])) > 1]
        box = _free_spot(dot, width_of(label.text), boxes, curves, room, others, placed)
        boxes.append(box)
        placed.append((dot, box))
        after = box.left >= dot[0]
        x, y = axes.transData.inverted().transform(
            np.array([box.left if after else box.right, box.middle]) / scale
        )
        end = box.left if after else box.right
        if np.hypot(end - dot[0], box.middle - dot[1]) > LEADER:
            axes.plot([label.x, x], [label.y, y], color=leader, lw=0.5, clip_on=False)
        axes.text(
            x,
            y,
            label.text,
            ha="left" if after else "right",
            va="center_baseline",
            fontsize=SIZE,
            color=label.colour,
            gid=f"label-{i}",
        )


def width_of(text: str) -> float:
    """The width of a text in points, rather too wide than too narrow.

    >>> width_of("small") < width_of("LARGE") < width_of("大大大大大")
    True
    """
    return SIZE * sum(_width(letter) for letter in text)


def _width(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 1.0
    return WIDE if letter.isupper() or letter in "mw…%@" else LETTER


def _free_spot(
    at: Array,
    width: float,
    boxes: Sequence[Box],
    curves: Array,
    room: Box,
    others: Array,
    placed: Sequence[tuple[Array, Box]],
) -> Box:
    """The best box beside `at` that covers no other label; without one, the nearest in the picture.

    A box is the better the nearer it is. It goes farther to cover no curve, to be nearer to its own
    dot than to the `others` (2, k), and to be below the boxes of the dots above it, `placed`.
    """
    height = SIZE * 1.25
    spots = [(_detour(by), _box(at, *by, width, height)) for by in _offsets(height)]
    inside = [(far, box) for far, box in spots if box.within(room)] or spots[:1]
    apart = [(far, box) for far, box in inside if not any(box.meets(other) for other in boxes)]
    above = [box for dot, box in placed if dot[1] > at[1] + 1 and np.hypot(*(dot - at)) < NEAR]
    best, least = inside[0][1], np.inf
    for far, box in apart:
        if far >= least:
            break
        far += CLEAR if box.holds(curves) else 0.0
        far += OWN if others.size and box.distance(others).min() < box.distance(at) else 0.0
        far += ORDER if any(box.middle > other.middle for other in above) else 0.0
        if far < least:
            best, least = box, far
    return best


def _offsets(height: float) -> Iterator[tuple[float, float]]:
    right = (7, 16, 30, 50, 80, 120, 170, 230)
    steps = product((*right, *(-dx for dx in right)), np.arange(-60, 61) * height / 4)
    yield from sorted(((dx, float(dy)) for dx, dy in steps), key=_detour)


def _detour(offset: tuple[float, float]) -> float:
    """The length of an offset. Labels to the left count a little more, so that those of a crowd
    stand on one side."""
    dx, dy = offset
    return float(np.hypot(dx if dx > 0 else 4 - dx, 1.5 * dy))


def _box(at: Array, dx: float, dy: float, width: float, height: float) -> Box:
    """A box that begins dx to the right of `at`, or ends -dx to its left."""
    x, y = float(at[0]) + dx, float(at[1]) + dy
    left = x if dx > 0 else x - width
    return Box(left, y - height / 2, left + width, y + height / 2)


def _dense(line: Array) -> Array:
    """The same polyline with 400 points, so that a box between two corners is not free."""
    if line.shape[1] < 2:
        return line
    steps = np.linspace(0, line.shape[1] - 1, 400)
    knots = np.arange(line.shape[1])
    return np.array([np.interp(steps, knots, line[0]), np.interp(steps, knots, line[1])])
