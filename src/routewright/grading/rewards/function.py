"""A Python function of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np

from routewright.errors import BadInput
from routewright.grading.rewards import Pair
from routewright.types import Array


@dataclass(frozen=True)
class Function:
    """Calls `name(prompt, answer)` of `FILE.py:name` or `package.module:name`.

    It gives a number, or None where it cannot say. The file is run: name only your own.
    """

    where: str

    def rate(self, pairs: Sequence[Pair]) -> Array:
        rewards = [self._call(query.text, answer) for query, answer in pairs]
        return np.array([np.nan if reward is None else reward for reward in rewards])

    @cached_property
    def _function(self) -> Callable[[str, str], Any]:
        place, _, name = self.where.rpartition(":")
        module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
        found = getattr(module, name, None)
        if not callable(found):
            raise BadInput(f"'{place}' has no function '{name}'; write FILE.py:NAME")
        known: Callable[[str, str], Any] = found
        return known

    def _call(self, prompt: str, answer: str) -> float | None:
        reward = self._function(prompt, answer)
        if reward is None:
            return None
        try:
            return float(reward)
        except (TypeError, ValueError) as error:
            raise BadInput(f"{self.where} gave {reward!r}, which is no number") from error


def _from_file(path: Path) -> Any:
    described = util.spec_from_file_location(f"_reward_{path.stem}", path)
    if described is None or described.loader is None or not path.is_file():
        raise BadInput(f"no file '{path}' for the reward function")
    module = util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def _from_name(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, ValueError) as error:
        raise BadInput(f"no module '{name}' for the reward function: {error}") from error
