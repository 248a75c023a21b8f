"""No answer is graded: the table holds the answers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from routewright.data.queries import Item
from routewright.grading.graders import Ask, Grade, ungraded


@dataclass(frozen=True)
class Unscored:
    """Records answers without grades; asks no expert.

    `fit` then goes by agreement between the answers, and marks its points as unproven.
    """

    by_name_only: ClassVar[bool] = False

    async def judge(self, item: Item, answers: Mapping[str, str], ask: Ask) -> Mapping[str, Grade]:
        return dict.fromkeys(answers, ungraded("recorded only, as --grader unscored says"))
