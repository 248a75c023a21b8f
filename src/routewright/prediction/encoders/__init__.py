"""From queries to vectors, on this machine: one file per encoder, found by the file's name.

An encoder gives float64 arrays of shape (n, width). `blocks` names parts of the width, so
that a predictor can look at one of them alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, Self

from routewright.errors import BadInput
from routewright.registry import find
from routewright.types import Array, Query


class Encoder(Protocol):
    """Turns queries into vectors; learns from texts alone, never from scores."""

    @property
    def blocks(self) -> Mapping[str, slice]: ...

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self: ...

    def encode(self, queries: Sequence[Query]) -> Array: ...

    def options(self) -> dict[str, Any]: ...

    def arrays(self) -> dict[str, Any]: ...

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self: ...


def build(name: str) -> Encoder:
    """An unfitted encoder from its name on the command line.

    `lexical`, `static=FOLDER`, and sums such as `lexical+surface+domain` for `concat`.
    """
    if "+" in name:
        parts = [build(part) for part in name.split("+")]
        encoder: Encoder = find("encoders", "concat")(parts)
        return encoder
    kind, _, source = name.partition("=")
    cls = find("encoders", kind)
    if source and is_dataclass(cls) and "source" not in {field.name for field in fields(cls)}:
        raise BadInput(f"encoder '{kind}' takes no model: write {kind}, not '{name}'")
    built: Encoder = cls(source) if source else cls()
    return built
