"""From queries to vectors, on this machine: one file per encoder, found by the file's name.

An encoder gives float64 arrays of shape (n, width). `blocks` names parts of the width, so
that a predictor can look at one of them alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from routewright import registry
from routewright.types import Array, Query


class Encoder(Protocol):
    """Turns queries into vectors; learns from texts alone, never from scores.

    It reads `query.excerpt`, which is bounded, where `query.text` is not.
    """

    @property
    def blocks(self) -> Mapping[str, slice]: ...

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self: ...

    def encode(self, queries: Sequence[Query]) -> Array: ...

    def options(self) -> dict[str, Any]: ...

    def arrays(self) -> dict[str, Any]: ...

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self: ...


def build(name: str) -> Encoder:
    """An unfitted encoder from its name on the command line; see `registry.build`.

    `lexical`, `static=FOLDER`, and sums such as `lexical+surface+domain` for `concat`.
    """
    parts: list[Encoder] = [registry.build("encoders", part) for part in name.split("+")]
    encoder: Encoder = registry.build("encoders", "concat", parts=parts)
    return parts[0] if len(parts) == 1 else encoder
