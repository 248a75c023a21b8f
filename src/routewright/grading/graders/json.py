"""An answer is right if it is the JSON of the reference, whatever its spaces and order of keys."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from routewright.data.queries import Item
from routewright.grading.graders import Example, Grade, ungraded
from routewright.types import Query

FENCE = re.compile(r"```(?:json)?+[^\S\n]*+\n(.*?)```", re.DOTALL | re.IGNORECASE)
LONGEST = 100_000  # characters of an answer that are read


@dataclass(frozen=True)
class Json:
    """Compares the JSON of an answer with that of the reference.

    The answer's JSON is all of it, the only code fence, or what stands from its first bracket to
    its last. The order of keys does not count, the order of lists does, and 1 equals 1.0.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(
            Query.of("Ada is 36. Give name and age as JSON."), reference='{"name":"Ada","age":36}'
        ),
        'Here it is:\n```json\n{"age": 36, "name": "Ada"}\n```',
        '{"name": "Ada", "age": "36"}',
    )

    def grade(self, item: Item, answer: str) -> Grade:
        expected = [value for value in map(as_json, item.references) if value is not None]
        if not expected:
            return ungraded("the reference is no JSON" if item.references else "no reference")
        value = as_json(answer)
        if value is None:
            return Grade(0.0, "is not JSON")
        return Grade(float(any(_equal(value, reference) for reference in expected)))


def as_json(text: str) -> Any:
    """The object or list that a text holds; None if it holds none.

    >>> as_json('Here: {"a": 1}.'), as_json("[sic]"), as_json("7")
    ({'a': 1}, None, None)
    """
    text = text[:LONGEST].strip()
    fences = FENCE.findall(text)
    brackets = text[min(_places(text, "{["), default=0) : max(_places(text, "}]"), default=-1) + 1]
    for part in (text, *(fences if len(fences) == 1 else ()), brackets):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return value
    return None


def _places(text: str, signs: str) -> list[int]:
    find = text.find if "{" in signs else text.rfind
    return [place for sign in signs if (place := find(sign)) >= 0]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
