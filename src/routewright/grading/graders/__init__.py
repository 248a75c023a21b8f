"""How good is an answer? One file per grader, found by the file's name.

Most graders look at one answer and know the right one: `grade(item, answer)`. Judges ask experts,
and see all answers to a query at once: `judge(item, answers, ask)`. What a grader cannot tell has
the score NaN and says why: nothing is guessed. An answer that says nothing of the kind that was
asked for (no number, no option) is wrong, not ungraded: else whoever keeps silent looks good.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeGuard

from routewright import registry
from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.types import Answer, Query


class Grade(NamedTuple):
    """What an answer is worth."""

    score: float  # 0..1, NaN if it could not be told
    why: str = ""  # why it could not, or what was wrong
    answer: str | None = None  # the part of the answer that was graded: a letter, a number


class Example(NamedTuple):
    """An item with an answer that is right and one that is wrong, for the contract and the docs."""

    item: Item
    right: str
    wrong: str


class Grader(Protocol):
    """Grades one answer; may take its time, and run a process, but asks nobody.

    `by_name_only` graders run code or load models: a query set may ask for them only if the
    command line names them too.
    """

    by_name_only: ClassVar[bool]

    def grade(self, item: Item, answer: str) -> Grade: ...


Ask: TypeAlias = Callable[[str, Query], Awaitable[Answer]]  # an expert's name, and what to ask it


class Judge(Protocol):
    """Grades the answers (expert ▶ text) to one query together, with the help of experts."""

    by_name_only: ClassVar[bool]

    async def judge(
        self, item: Item, answers: Mapping[str, str], ask: Ask
    ) -> Mapping[str, Grade]: ...


Gradable: TypeAlias = Grader | Judge


def is_judge(grader: Gradable) -> TypeGuard[Judge]:
    return hasattr(grader, "judge")


def ungraded(why: str) -> Grade:
    return Grade(math.nan, why)


def build(name: str) -> Any:
    """A grader from its name on the command line, such as `f1`, `numeric=0.01` or `judge=EXPERT`;
    see `registry.build`.

    >>> build("exact").grade(Item(Query.of("2 + 2?"), reference="4"), " 4 ").score
    1.0
    """
    return registry.build("graders", name)


class Graders:
    """The graders of a run: the first is for every item that does not name another.

    With `auto` as the first, each item gets the grader for its reference, and a judge that is named
    too gets those that no other grader can grade.

    >>> graders = Graders(["auto", "f1"])
    >>> [graders.name_of(Item(Query.of("Who?"), reference=text)) for text in ("4", "Ada")]
    ['numeric', 'match']
    >>> type(graders.of(Item(Query.of("Who?"), grader="f1"))).__name__
    'F1'
    """

    def __init__(self, names: list[str]) -> None:
        self.specs = {name.partition("=")[0]: name for name in names}
        self.named = {name: build(spec) for name, spec in self.specs.items()}
        self.default = next(iter(self.named))

    def name_of(self, item: Item) -> str | None:
        """The name of an item's grader; None if none of the run can grade it."""
        name = item.grader or self.default
        if name != "auto":
            return name
        chosen: str | None = self._choose(item)
        if chosen is None:
            return next((name for name, grader in self.named.items() if is_judge(grader)), None)
        return chosen

    def _choose(self, item: Item) -> str | None:
        from routewright.grading.graders.auto import choose

        return choose(item, code="code" in self.named)

    def of(self, item: Item) -> Any:
        """Raises BadInput where a query set asks for more than it may."""
        name = self.name_of(item) or "auto"
        if name not in self.named:
            grader = build(name)
            if grader.by_name_only and item.grader is not None:
                raise BadInput(
                    f"query '{item.query.id}' wants grader '{item.grader}', which runs code, loads"
                    f" a model or asks experts: allow it with --grader {item.grader}"
                )
            self.named[name] = grader
        return self.named[name]

    def check(self, items: Sequence[Item]) -> dict[str, int]:
        """The number of items that each grader takes; "none" are those that nobody can grade.

        Raises BadInput if no item can be graded, before anybody is asked."""
        counts = Counter(self._name_or_none(item) for item in items)
        if items and counts["none"] == len(items):
            raise BadInput(
                "no query has what a grader needs: give them a `reference` (the right answer),"
                " `tests` or a `schema`, or name a judge: --grader judge=EXPERT; --grader unscored"
                " records answers only, and `fit` then goes by agreement between them"
            )
        return dict(counts.most_common())

    def _name_or_none(self, item: Item) -> str:
        name = self.name_of(item)
        if name is None:
            return "none"
        grader = self.of(item)
        if is_judge(grader) or item.references or any(item.facts.get(f) for f in _ENOUGH):
            return name
        return name if grader.by_name_only else "none"


_ENOUGH = ("tests", "schema")  # facts that can be graded without a reference
