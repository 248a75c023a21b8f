"""A Python function of yours rates each answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, util
from pathlib import Path
from typing import Any, cast

import numpy as np

from routewright.errors import BadInput
from routewright.grading.rewards import Pair
from routewright.types import Array


@dataclass(frozen=True)
class Function:
    """Calls `name(prompt, answer)` of `FILE.py:name` or `package.module:name`.

    The function returns a number, or None if it has no rating. The file is executed, so name only
    files that you trust.
    """

    path: str

    def rate(self, pairs: Sequence[Pair]) -> Array:
        rewards = [self._call(query.text, answer) for query, answer in pairs]
        return np.array([np.nan if reward is None else reward for reward in rewards])

    @cached_property
    def _function(self) -> Callable[[str, str], Any]:
        source, _, name = self.path.rpartition(":")
        module = _from_file(Path(source)) if source.endswith(".py") else _from_name(source)
        function = getattr(module, name, None)
        if not callable(function):
            raise BadInput(f"'{source}' has no function '{name}'; write FILE.py:NAME")
        return cast(Callable[[str, str], Any], function)

    def _call(self, prompt: str, answer: str) -> float | None:
        reward = self._function(prompt, answer)
        if reward is None:
            return None
        try:
            return float(reward)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"{self.path} gave {reward!r}: the function must return a number or None"
            ) from error


def _from_file(path: Path) -> Any:
    spec = util.spec_from_file_location(f"_reward_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BadInput(f"no file '{path}' for the reward function")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_name(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, ValueError) as error:
        raise BadInput(f"no module '{name}' for the reward function: {error}") from error
