"""How good is an answer? One file per grader, found by the file's name.

Most graders look at one answer and know the right one: `grade(item, answer)`. Judges ask experts,
and see all answers to a query at once: `judge(item, answers, ask)`. What a grader cannot tell has
the score NaN and says why: nothing is guessed. An answer that says nothing of the kind that was
asked for (no number, no option) is wrong, not ungraded: else whoever keeps silent looks good.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
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

    >>> chosen = Graders(["exact", "f1"])
    >>> type(chosen.of(Item(Query.of("Who?"), grader="f1"))).__name__
    'F1'
    """

    def __init__(self, names: list[str]) -> None:
        self.named = {name.partition("=")[0]: build(name) for name in names}

    def of(self, item: Item) -> Any:
        """Raises BadInput where a query set asks for more than it may."""
        if item.grader is None:
            return next(iter(self.named.values()))
        if item.grader not in self.named:
            grader = build(item.grader)
            if grader.by_name_only:
                raise BadInput(
                    f"query '{item.query.id}' wants grader '{item.grader}', which runs code, loads"
                    f" a model or asks experts: allow it with --grader {item.grader}"
                )
            self.named[item.grader] = grader
        return self.named[item.grader]
