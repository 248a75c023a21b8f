"""What a request may cost: estimates, upper bounds and caps. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from routewright.errors import NotAdmissible
from routewright.experts.providers import input_tokens
from routewright.types import Expert

SPEED = 50  # tokens per second, assumed for an answer that has not arrived
FASTEST = 3000  # tokens per second that no expert exceeds
IMAGES = ("image_url", "image", "input_image")  # types of parts of messages
IMAGE_TOKENS = 2000  # upper bound of the tokens of an image, as the common vendors count them
LIMITS = ("max_tokens", "max_completion_tokens")
# Fields that no model reads as input; the input of embeddings stands in the messages too.
UNREAD = ("messages", "metadata", "input", *LIMITS)


def output_limit(body: Mapping[str, Any]) -> float:
    """The tokens that a request allows for one answer; infinite without a limit."""
    return min((body[key] for key in LIMITS if body.get(key) is not None), default=math.inf)


def estimate(body: Mapping[str, Any], seconds: float) -> tuple[int, int]:
    """The input and output tokens of a request in whose `seconds` nothing has arrived."""
    received = min(int(seconds * SPEED), output_limit(body))
    return input_tokens(body), int(received) * (body.get("n") or 1)


def bound(
    body: Mapping[str, Any],
    expert: Expert,
    seconds: float = math.inf,
    native: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> float:
    """The upper bound of a request's cost in US$; infinite if nothing limits its output.

    The input is counted as in `capped`, unless its `size` in tokens is given. `seconds` is the time
    in which the expert may have written.
    """
    written = min(output_limit(body), seconds * FASTEST)
    size = input_bound(body, native) if size is None else size
    if math.isinf(written):
        return math.inf if expert.output_per_mtok else expert.highest_price(size, 0)
    return expert.highest_price(size, math.ceil(written) * (body.get("n") or 1))


def capped(
    body: Mapping[str, Any],
    expert: Expert,
    dollars: float,
    native: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The request with its output limited to the tokens that `dollars` (US$) cover.

    The input is counted at its upper bound, one token per byte, because only the upstream knows
    its tokeniser. Raises NotAdmissible if the money does not cover a single token.
    """
    input_cost = expert.highest_price(input_bound(body, native), 0)
    left, per_token = dollars - input_cost, expert.price(0, body.get("n") or 1)
    rounding = 1e-9 * dollars  # of floats, so that money for exactly so many tokens covers them
    if left + rounding < per_token or left + rounding < 0:
        raise NotAdmissible(
            expert.name,
            f"max_cost ${dollars:.2g} is too low: the input alone may cost ${input_cost:.2g}",
        )
    if per_token == 0:
        return dict(body)
    affordable = max(1, int((left + rounding) / per_token))
    keys = [key for key in LIMITS if body.get(key) is not None] or [LIMITS[0]]
    caps = {key: min(body.get(key) or affordable, affordable) for key in keys}
    return {**body, **caps}


def input_bound(body: Mapping[str, Any], native: Mapping[str, Any] | None = None) -> int:
    """The upper bound of a request's input tokens: one per byte, plus those between messages.

    `native` is what is sent instead of `body`, which lacks what chat cannot carry.
    """
    size = _size(body["messages"], body, UNREAD)
    if native is None:
        return size
    items = native.get("input", native.get("messages"))
    return max(size, _size(items if isinstance(items, list) else [], native, UNREAD))


def _size(items: Sequence[Any], body: Mapping[str, Any], unread: Iterable[str]) -> int:
    stripped, images = _without_images(items)
    rest = {key: value for key, value in body.items() if key not in unread}
    raw = json.dumps([stripped, rest], ensure_ascii=False).encode(errors="surrogatepass")
    return len(raw) + 8 * len(items) + IMAGE_TOKENS * images


def _without_images(items: Iterable[Any]) -> tuple[list[Any], int]:
    """Messages, or blocks of one, without the images in them, and the number of these."""
    stripped: list[Any] = []
    images = 0
    for item in items:
        for field in ("content", "output"):
            if isinstance(item, Mapping) and isinstance(item.get(field), list):
                parts = [part for part in item[field] if not _is_image(part)]
                images += len(item[field]) - len(parts)
                parts, more = _without_images(parts)
                images, item = images + more, {**item, field: parts}
        stripped.append(item)
    return stripped, images


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in IMAGES
