"""What router.json holds: the names, types and ranges that a router is loaded with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from routewright.errors import BadRouter
from routewright.registry import mistake
from routewright.router.frontier import OperatingPoint

Model = TypeVar("Model", bound=BaseModel)
MOST_EXPERTS, MOST_POINTS = 10_000, 10_000


def _number(value: Any) -> Any:
    """Refuses text and truth values, which Pydantic would read as numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


def _unknown(value: Any) -> Any:
    return math.nan if value is None else value  # JSON has no NaN


Number = Annotated[float, BeforeValidator(_number), Field(ge=-1e15, le=1e15)]
NotNegative = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1e15)]
Known = Annotated[float, BeforeValidator(_number)]
MaybeNumber = Annotated[float, BeforeValidator(_number), BeforeValidator(_unknown)]
Name = Annotated[StrictStr, Field(min_length=1)]
Prices = Mapping[StrictStr, NotNegative]


class Section(BaseModel):
    """A part of router.json. Unknown keys are those of a later version, and are ignored."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class StoredPoint(Section):
    """An operating point; see `OperatingPoint`."""

    price: NotNegative
    cost: MaybeNumber
    cost_fraction: MaybeNumber
    quality: MaybeNumber
    quality_ci: tuple[MaybeNumber, MaybeNumber]
    gain: MaybeNumber
    gain_ci: tuple[MaybeNumber, MaybeNumber]
    spec: dict[StrictStr, Any]
    plan: StrictStr
    shares: dict[StrictStr, NotNegative] = {}
    unproven: StrictBool = False

    def point(self) -> OperatingPoint:
        return OperatingPoint(**self.model_dump())


class StoredData(BaseModel):
    """The entry `data` of the card."""

    model_config = ConfigDict(extra="allow")

    sources: list[StrictStr] = []
    split: StrictStr = "all"
    rows: Annotated[StrictInt, Field(ge=0)] = 0


class StoredCard(BaseModel):
    """The card; further entries are taken as they are."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    data: StoredData = StoredData()
    encoder: StrictStr = ""
    predictor: StrictStr = ""
    seed: Annotated[StrictInt, Field(ge=0)] = 0
    gain_over_zero_router: MaybeNumber = math.nan
    newcomers: list[dict[StrictStr, Any]] = []
    experts: dict[StrictStr, dict[StrictStr, MaybeNumber]] = {}


class StoredRouter(Section):
    """The whole file."""

    experts: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_EXPERTS)]
    encoder: dict[StrictStr, Any]
    predictor: dict[StrictStr, Any]
    costs: dict[StrictStr, Any]
    novelty: dict[StrictStr, Any]
    evidence: dict[StrictStr, Any] | None = None
    signal: Number
    newcomers: Annotated[StrictInt, Field(ge=0)] = 0
    verifiers: tuple[Name, ...] = ()
    steady: tuple[Name, ...] = ()
    prices: Mapping[StrictStr, Prices] = {}
    card: dict[StrictStr, Any]
    frontier: Annotated[list[StoredPoint], Field(max_length=MOST_POINTS)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [*self.experts, *self.verifiers]
        if len(set(names)) < len(names):
            raise ValueError("names an expert twice")
        if self.newcomers > len(self.experts):
            raise ValueError("has more newcomers than experts")
        return self

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """Checks the content of router.json. Raises BadRouter with the first wrong value."""
        card = described.get("card")
        if isinstance(card, dict):  # older routers have their verifiers and prices on the card
            card = dict(card)
            older = {name: card.pop(name) for name in ("verifiers", "prices") if name in card}
            described = {**older, **described, "card": card}
        _checked(StoredCard, card, "card")
        return _checked(cls, described)


def _checked(model: type[Model], value: Any, *place: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, (*place, *first["loc"]))) or "it"
        problem = mistake(first)[0].removeprefix("Value error, ")
        raise BadRouter(f"router.json is not complete: {where} {problem}") from error
