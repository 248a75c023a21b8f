"""A Python function of yours scores each answer."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, cast

from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.grading.graders import Grade, ungraded


@dataclass(frozen=True)
class Function:
    """Calls `function=MODULE:NAME` with the item and the answer; it returns 0..1, or None.

    The module may be in the current folder. None, or anything but a number of 0 to 1, leaves the
    answer ungraded; an error in the function stops the run at once. For example, in `mine.py`:

        def grade(item, answer):
            if not item.references:
                return None
            return float(answer.strip() in item.references)

    and `--grader function=mine:grade`.
    """

    path: str

    by_name_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._function()

    def grade(self, item: Item, answer: str) -> Grade:
        try:
            score = self._function()(item, answer)
            score = math.nan if score is None else float(score)
        except Exception as error:  # the user's code may raise anything
            reason = f"{type(error).__name__}: {error}"
            message = f"function={self.path} failed on query '{item.query.id}': {reason}"
            raise BadInput(message) from error
        if math.isnan(score):
            return ungraded(f"{self.path} gave no score")
        if not 0 <= score <= 1:
            return ungraded(f"{self.path} gave {score:g}, which is not between 0 and 1")
        return Grade(score)

    def _function(self) -> Callable[[Item, str], Any]:
        module, _, name = self.path.partition(":")
        if (folder := os.getcwd()) not in sys.path:
            sys.path.append(folder)
        try:
            function = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise BadInput(f"function={self.path}: {error}; write MODULE:NAME") from error
        if not callable(function):
            raise BadInput(f"function={self.path} is not a function; write MODULE:NAME")
        return cast(Callable[[Item, str], Any], function)
