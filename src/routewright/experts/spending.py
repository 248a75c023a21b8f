"""What a request may cost: estimates, upper bounds and caps. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from routewright.errors import NotAdmissible
from routewright.experts.providers import input_tokens
from routewright.types import Expert

SPEED = 50  # tokens per second, assumed for an answer that has not arrived
FASTEST = 3000  # tokens per second that no expert exceeds
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


def bound(body: Mapping[str, Any], expert: Expert, seconds: float = math.inf) -> float:
    """The upper bound of a request's cost in US$; infinite if nothing limits its output.

    The input is counted as in `capped`. `seconds` is the time in which the expert may have written.
    """
    written = min(output_limit(body), seconds * FASTEST)
    if math.isinf(written):
        return math.inf if expert.output_per_mtok else expert.highest_price(input_bound(body), 0)
    return expert.highest_price(input_bound(body), math.ceil(written) * (body.get("n") or 1))


def capped(body: Mapping[str, Any], expert: Expert, dollars: float) -> dict[str, Any]:
    """The request with its output limited to the tokens that `dollars` (US$) cover.

    The input is counted at its upper bound, one token per byte, because only the upstream knows
    its tokeniser. Raises NotAdmissible if the money does not cover a single token.
    """
    input_cost = expert.highest_price(input_bound(body), 0)
    left, per_token = dollars - input_cost, expert.price(0, body.get("n") or 1)
    rounding = 1e-9 * dollars  # of floats, so that money for exactly one token covers it
    if left + rounding < per_token or left + rounding < 0:
        raise NotAdmissible(
            expert.name,
            f"max_cost ${dollars:.2g} is too low: the input alone may cost ${input_cost:.2g}",
        )
    if per_token == 0:
        return dict(body)
    affordable = max(1, int(left / per_token * (1 - 1e-9)))
    keys = [key for key in LIMITS if body.get(key) is not None] or [LIMITS[0]]
    caps = {key: min(body.get(key) or affordable, affordable) for key in keys}
    return {**body, **caps}


def input_bound(body: Mapping[str, Any]) -> int:
    """The upper bound of a request's input tokens: one per byte, plus those between messages."""
    messages, images = _without_images(body["messages"])
    rest = {key: value for key, value in body.items() if key not in UNREAD}
    raw = json.dumps([messages, rest], ensure_ascii=False).encode(errors="surrogatepass")
    return len(raw) + 8 * len(messages) + IMAGE_TOKENS * images


def _without_images(messages: Iterable[Mapping[str, Any]]) -> tuple[list[Any], int]:
    """The messages without their images, and the number of images."""
    stripped: list[Any] = []
    images = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [part for part in content if part.get("type") != "image_url"]
            images += len(content) - len(parts)
            message = {**message, "content": parts}
        stripped.append(message)
    return stripped, images
