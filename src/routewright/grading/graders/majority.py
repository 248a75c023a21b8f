"""The experts vote: the answer that most of them give counts as right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from routewright.answers.equivalence import UNKNOWN, Kind, group
from routewright.data.queries import Item
from routewright.grading.graders import Ask, Grade, ungraded


@dataclass(frozen=True)
class Majority:
    """Grades queries without a reference; asks no expert.

    More than half of all answers must be the same (`majority=letter`, `number` or `text`; by
    default the kind is guessed for each query). Without such a majority, or with fewer than three
    answers, the query stays ungraded. Experts that make the same mistakes raise one another's
    scores, so use a reference if you have one.
    """

    kind: Kind = "auto"

    by_name_only: ClassVar[bool] = False

    async def judge(self, item: Item, answers: Mapping[str, str], ask: Ask) -> Mapping[str, Grade]:
        labels = group(self.kind, list(answers.values()))
        votes = Counter(label for label in labels if label != UNKNOWN)
        winner, count = votes.most_common(1)[0] if votes else (UNKNOWN, 0)
        if len(answers) < 3 or 2 * count <= len(answers):
            return dict.fromkeys(answers, ungraded("no majority"))
        return {
            name: Grade(float(label == winner)) for name, label in zip(answers, labels, strict=True)
        }
