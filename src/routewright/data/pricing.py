"""Adds costs to an outcome table: from token counts, from texts, or a price per call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import polars as pl

from routewright.data import outcomes
from routewright.errors import BadInput, DataWarning

PRICE_NAMES = (  # US$ per million input and output tokens, by the names of these projects
    ("input_per_mtok", "output_per_mtok"),  # routewright.yaml
    ("input_token_price_per_million", "output_token_price_per_million"),  # RouterArena
    ("input_price", "output_price"),  # LLMRouter
)
EXAMPLE = "{input_per_mtok: 2.5, output_per_mtok: 10}"
CHARACTERS = 4  # of a token, where no tokens were counted


def priced(frame: pl.DataFrame, prices: Mapping[str, Any]) -> pl.DataFrame:
    """Adds costs in US$ where no cost was recorded; unknown costs stay null.

    `prices` gives each expert's US$ per million tokens under one of PRICE_NAMES. The tokens are
    those of the table. An expert without any token counts but with answers gets an estimate from
    the texts, at four characters per token. A warning says what the prices were used for. Raises
    BadInput if the table has none of their experts, for an expert without a valid price, and if
    costs are missing but no row could use the prices.
    """
    experts = experts_of(frame)
    if not set(experts) & set(prices):
        raise BadInput(
            f"the prices are of {', '.join(list(prices)[:8])}, the table's experts are"
            f" {', '.join(experts[:8])}: use the same names in both"
        )
    uses, missing = [], 0
    for expert in (expert for expert in experts if expert in prices):
        pair = _pair(expert, prices[expert])
        unknown = _without_cost(frame, expert)
        tokens, source = _tokens(frame, expert)
        cost = sum(t * p for t, p in zip(tokens, pair, strict=True)) / 1e6 if tokens else None
        frame = frame if cost is None else _filled(frame, expert, cost)
        left = _without_cost(frame, expert)
        missing += left
        if unknown > left:
            uses.append(f"{unknown - left} of '{expert}' from {source}")
    if not uses and missing:
        raise BadInput(
            f"the prices are of no use: {missing} answers without a cost have neither token counts"
            " nor texts to estimate them from; give --price-per-call EXPERT=US$"
        )
    names = ", ".join(f"'{expert}'" for expert in experts if expert not in prices)
    sentence = (
        f"the prices gave costs: {'; '.join(uses)}"
        if uses
        else "--prices gave no cost: all are recorded"
    )
    sentence += f"; {missing} stay unknown" if missing else ""
    sentence += f"; they have no price for {names}" if names else ""
    warnings.warn(sentence, DataWarning, stacklevel=2)
    return frame


def priced_per_call(frame: pl.DataFrame, prices: Mapping[str, float]) -> pl.DataFrame:
    """Gives every scored answer without a cost the price of a call of its expert, in US$.

    A warning says how many. Raises BadInput for an expert that the table lacks.
    """
    outcomes.check_names(list(prices), experts_of(frame))
    uses = []
    for expert, dollars in prices.items():
        unknown = _without_cost(frame, expert)
        scored = pl.col(f"score::{expert}").is_not_null()
        frame = _filled(frame, expert, pl.when(scored).then(pl.lit(dollars)))
        uses.append(f"{unknown} answers of '{expert}'")
    sentence = f"the prices per call gave costs to {', '.join(uses)}"
    warnings.warn(sentence, DataWarning, stacklevel=2)
    return frame


def experts_of(frame: pl.DataFrame) -> list[str]:
    return [c.removeprefix("score::") for c in frame.columns if c.startswith("score::")]


def _without_cost(frame: pl.DataFrame, expert: str) -> int:
    """The number of scored answers of an expert whose cost is unknown."""
    unknown = pl.col(f"score::{expert}").is_not_null()
    if f"cost::{expert}" in frame.columns:
        unknown = unknown & pl.col(f"cost::{expert}").is_null()
    return len(frame.filter(unknown))


def _filled(frame: pl.DataFrame, expert: str, cost: pl.Expr | pl.Series) -> pl.DataFrame:
    name = f"cost::{expert}"
    recorded = [pl.col(name)] if name in frame.columns else []
    return frame.with_columns(pl.coalesce(*recorded, cost).alias(name))


def _tokens(frame: pl.DataFrame, expert: str) -> tuple[tuple[Any, ...], str]:
    """The input and output tokens of an expert's answers, and where they are from."""
    counted = [f"{kind}::{expert}" for kind in ("in_tokens", "out_tokens")]
    if all(name in frame.columns and frame[name].count() for name in counted):
        return tuple(pl.col(name) for name in counted), "token counts"
    texts = [c for c in (f"text::{expert}", f"answer::{expert}") if c in frame.columns]
    if not texts:
        return (), ""
    written = frame.select(pl.coalesce(texts).str.len_chars() / CHARACTERS).to_series().ceil()
    asked = [float(query.input_tokens) for query in outcomes.queries_of(frame)]
    return (pl.Series(asked), written), f"texts, at {CHARACTERS} characters a token"


def _pair(expert: str, entry: Any) -> tuple[float, float]:
    for names in PRICE_NAMES:
        match [entry.get(name) for name in names] if isinstance(entry, dict) else ():
            case [int() | float() as input_price, int() | float() as output_price] if (
                min(input_price, output_price) >= 0
                and math.isfinite(input_price)
                and math.isfinite(output_price)
            ):
                return input_price, output_price
    raise BadInput(f"the price of '{expert}' must be {EXAMPLE}, in US$ per million tokens")
