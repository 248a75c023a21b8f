"""An answer is right if it is JSON that a schema allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from routewright import apart
from routewright.data.queries import Item
from routewright.errors import needs
from routewright.grading.graders import Example, Grade, ungraded
from routewright.grading.graders.json import FENCE
from routewright.types import Query


@dataclass(frozen=True)
class JsonSchema:
    """Validates JSON, alone or in one code fence, against the item's `schema`.

    It needs jsonschema (`pip install routewright[graders]`). References to other schemas are
    never fetched. A check that takes more than 2 s of processor time, as a pattern may, gives no
    grade.
    """

    by_name_only: ClassVar[bool] = False
    example: ClassVar[Example] = Example(
        Item(
            Query.of("Give the name and age of Ada, 36, as JSON."),
            facts={
                "schema": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                    "required": ["name", "age"],
                }
            },
        ),
        '```json\n{"name": "Ada", "age": 36}\n```',
        '{"name": "Ada", "age": "thirty-six"}',
    )

    def __post_init__(self) -> None:
        with needs("grader 'json_schema'"):
            import jsonschema  # noqa: F401

    def grade(self, item: Item, answer: str) -> Grade:
        schema = item.facts.get("schema")
        if not isinstance(schema, Mapping):
            return ungraded("no schema")
        try:
            score, why = apart.call(f"{__name__}:check", schema, answer)
        except apart.TooLong:
            return ungraded("the schema takes too long to check")
        except ValueError as error:
            return ungraded(f"the schema cannot be checked: {error}")
        return ungraded(why) if score is None else Grade(score, why)


def prepare() -> None:
    """Loads the library before the time of the first check counts."""
    from jsonschema import validators

    validators.Draft202012Validator.check_schema({})


def check(schema: Mapping[str, Any], answer: str) -> tuple[float | None, str]:
    """The score of an answer, None for no grade, and the reason.

    It runs in a process of its own, because a schema may hold any pattern.
    """
    from jsonschema import exceptions, validators
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        validator.check_schema(schema)
        value = _json(answer)
        checker = validator(schema, registry=Registry())
        violation = exceptions.best_match(checker.iter_errors(value))
    except exceptions.SchemaError as error:
        return None, f"the schema is invalid: {error.message}"
    except Unresolvable as error:
        return None, f"the schema refers to something outside itself: {error}"
    except (ValueError, RecursionError):
        return 0.0, "is not JSON"
    return (1.0, "") if violation is None else (0.0, violation.message[:200])


def _json(text: str) -> Any:
    fenced = FENCE.findall(text)
    return json.loads(fenced[0] if len(fenced) == 1 else text)
