"""A Python function of yours says how good the answer is."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Grade, ungraded


@dataclass(frozen=True)
class Function:
    """Calls `function=MODULE:NAME` with the item and the answer; it gives 0..1, or None.

    The module is looked for in the current folder too. What raises, or gives something else,
    stays ungraded.
    """

    path: str

    by_name_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._function()

    def grade(self, item: Item, answer: str) -> Grade:
        try:
            score = self._function()(item, answer)
            score = math.nan if score is None else float(score)
        except Exception as error:  # somebody else's code: whatever it raises, the run goes on
            return ungraded(f"{self.path} failed: {type(error).__name__}: {error}")
        if math.isnan(score):
            return ungraded(f"{self.path} could not tell")
        return Grade(score) if 0 <= score <= 1 else ungraded(f"{self.path} gave {score:g}")

    def _function(self) -> Callable[[Item, str], Any]:
        module, _, name = self.path.partition(":")
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise BadInput(f"function={self.path}: {error}; write MODULE:NAME") from error
        if not callable(found):
            raise BadInput(f"function={self.path}: it cannot be called")
        function: Callable[[Item, str], Any] = found
        return function
