"""Remembers which expert made which encrypted reasoning, because no other one can read it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

MOST = 100_000  # pieces of reasoning that are remembered


class Makers:
    """The experts behind pieces of encrypted reasoning, by a hash of each; the newest ones."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._experts: OrderedDict[bytes, str] = OrderedDict()

    def remember(self, pieces: Iterable[str], expert: str) -> None:
        for piece in pieces:
            self._experts[_digest(piece)] = expert
            self._experts.move_to_end(_digest(piece))
        while len(self._experts) > self.most:
            self._experts.popitem(last=False)

    def of(self, piece: str) -> str | None:
        """The expert that made it; None if that is not known."""
        return self._experts.get(_digest(piece))


def _digest(piece: str) -> bytes:
    return hashlib.blake2b(piece.encode("utf-8", "replace"), digest_size=16).digest()
