"""An answer is right if what a regular expression finds in it equals the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from routewright.data.queries import Item
from routewright.errors import BadInput, needs
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

SECONDS = 1.0  # for one answer: a pattern of yours may take exponential time on some answers


@dataclass(frozen=True)
class Pattern:
    """Searches `pattern=REGEX` in the answer, without regard to case, and compares its groups.

    As in inspect-ai, the answer is right if the first match has a group that equals the reference,
    again without regard to case; a pattern without groups is compared whole. `{"grader": "pattern",
    "match_all": true}` in Python wants every group to equal a reference. An answer on which the
    pattern takes longer than a second stays ungraded. It needs the package regex
    (`pip install routewright[graders]`).
    """

    pattern: str
    match_all: bool = False

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(Query.of("What is the capital of Germany?"), reference="Berlin"),
        "After some thought: ANSWER: berlin.",
        "ANSWER: Bonn",
    )

    def __post_init__(self) -> None:
        with needs("grader 'pattern'"):
            import regex
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            raise BadInput(f"pattern={self.pattern} is no regular expression: {error}") from error

    def grade(self, item: Item, answer: str) -> Grade:
        import regex

        if not item.references:
            return ungraded("no reference")
        try:
            match = regex.search(self.pattern, answer, regex.IGNORECASE, timeout=SECONDS)
        except TimeoutError:
            return ungraded(f"the pattern took longer than {SECONDS:g} s")
        if match is None:
            return Grade(0.0, "the pattern does not match")
        groups = [group for group in match.groups() if group is not None] or [match[0]]
        expected = {reference.strip().casefold() for reference in item.references}
        equal = [group.strip().casefold() in expected for group in groups]
        right = all(equal) if self.match_all else any(equal)
        return Grade(float(right), answer=groups[0])
