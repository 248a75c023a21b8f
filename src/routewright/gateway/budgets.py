"""Makes the budget of a day or a month last until it ends, instead of running into a wall.

The requests that are still to come are forecast from those of the last weeks. What is left of the
budget, divided by them, is the mean cost that a request may have; a policy with a router then
serves the operating point of that cost, if its own costs more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from routewright.errors import BadInput
from routewright.gateway.policies import Policy
from routewright.router.frontier import OperatingPoint
from routewright.types import Array, Indices

HOUR, DAY = 3600, 86400  # seconds
PROFILE_DAYS = 7  # from which the requests at an hour of the day are forecast
HISTORY_DAYS = 28  # from which those of a weekday are
WEEKDAY_PRIOR = 0.5  # days like the mean that are added to those of each weekday
HALF_LIFE = DAY  # of what a request cost, in seconds


class Hour(NamedTuple):
    """What the requests under a budget were in one hour."""

    at: float  # its begin, in seconds since the epoch: a multiple of 3600
    queries: int
    usd: float


@dataclass(frozen=True)
class Outlook:
    """What is to be expected until a period ends."""

    queries: float  # that are still to come
    mean_cost: float  # US$ per query, lately; NaN without any
    allowed: float  # US$ per query that makes the budget last; inf if none is to come
    forecast: float  # US$ for the whole period, at the present pace


def outlook(
    budget: float, ends: float, now: float, spent: float, history: Sequence[Hour]
) -> Outlook:
    """The outlook for a budget of which `spent` is used, both in US$.

    `now` and the end of the period are in seconds since the epoch. `history` is of the last weeks,
    in any order, in earlier periods too; hours without requests may be absent.

    >>> morning = [Hour(hour * 3600.0, 10, 0.10) for hour in range(12)]  # and nothing before
    >>> outlook(4.0, ends=31 * 86400.0, now=43200.0, spent=1.2, history=morning)
    Outlook(queries=3600.0, mean_cost=0.01, allowed=0.0007777777777777777, forecast=37.2)
    """
    queries = expected_queries(history, now, ends)
    mean_cost = _mean_cost(history, now)
    left = max(budget - spent, 0.0)
    # Less than one query to come is still one that may come, and may cost no more than is left.
    allowed = left / max(queries, 1.0) if queries > 0 else math.inf
    to_come = queries * mean_cost if queries > 0 else 0.0
    return Outlook(queries, mean_cost, allowed, spent + to_come)


def expected_queries(history: Sequence[Hour], now: float, ends: float) -> float:
    """The queries to be expected from `now` until `ends`, both in seconds since the epoch.

    An hour gets what that hour of the day had in the last week, times what is usual for the
    weekday. For a key that is younger than a day, the hours so far count as a whole day: a busy
    morning does not promise a busy night.
    """
    this_hour = math.floor(now / HOUR)
    counts = _counts(history, this_hour)
    hours = np.arange(this_hour - len(counts), this_hour)
    factor = _weekday_factors(counts, hours)
    recent = hours >= this_hour - PROFILE_DAYS * 24
    usual = np.bincount(hours[recent] % 24, factor[_weekday(hours[recent])], 24)
    of_hour = np.bincount(hours[recent] % 24, counts[recent], 24) / usual

    future = np.arange(this_hour, math.ceil(ends / HOUR))
    begin, end = np.maximum(future * HOUR, now), np.minimum((future + 1) * HOUR, ends)
    part = np.maximum(end - begin, 0) / HOUR
    return float((part * of_hour[future % 24] * factor[_weekday(future)]).sum())


def _counts(history: Sequence[Hour], this_hour: int) -> Array:
    """The queries of each complete hour: of the last HISTORY_DAYS, or of as many whole days as
    there have been queries, but at least of one."""
    ages = np.array([this_hour - 1 - math.floor(hour.at / HOUR) for hour in history], int)
    queries = np.array([hour.queries for hour in history], float)
    valid = (ages >= 0) & (ages < HISTORY_DAYS * 24)
    days = max(math.ceil((ages[valid].max(initial=0) + 1) / 24), 1)
    counts = np.bincount(ages[valid], weights=queries[valid], minlength=days * 24)
    return counts[::-1].astype(float)


def _weekday(hours: Indices) -> Indices:
    return np.asarray((hours // 24 + 3) % 7)  # the epoch began on a Thursday; Monday is 0


def _weekday_factors(counts: Array, hours: Indices) -> Array:
    """What each weekday has, relative to the same hours of the mean day; shape (7,)."""
    mean_day = np.bincount(hours % 24, weights=counts, minlength=24) / (len(hours) / 24)
    if not mean_day.any():
        return np.ones(7)
    weekday, prior = _weekday(hours), WEEKDAY_PRIOR * mean_day.sum()
    totals = np.bincount(weekday, weights=counts, minlength=7)
    usual = np.bincount(weekday, weights=mean_day[hours % 24], minlength=7)
    return np.asarray((totals + prior) / (usual + prior))


def _mean_cost(history: Sequence[Hour], now: float) -> float:
    weights = [0.5 ** (max(now - hour.at, 0.0) / HALF_LIFE) for hour in history]
    queries = sum(w * hour.queries for w, hour in zip(weights, history, strict=True))
    usd = sum(w * hour.usd for w, hour in zip(weights, history, strict=True))
    return usd / queries if queries > 0 else math.nan


def point_within(policy: Policy, allowed: float) -> OperatingPoint | None:
    """The point that a policy serves if a query may cost `allowed` US$ on average; None if it goes
    on as it is, because it costs no more, or has no router that could make it cheaper.

    It takes about a millisecond: call it when `allowed` has changed, and not for every request.
    """
    router = policy.router
    if router is None or policy.point is None:
        return None
    own = policy.point.cost
    if policy.pacer is not None:
        own = policy.pacer.multiplier * policy.pacer.goal
    if allowed >= own:
        return None
    try:
        point = router.within(max_cost=allowed)
    except BadInput:  # even the cheapest costs more
        point = min(router.frontier, key=lambda point: point.cost)
    return point if point.cost < policy.point.cost else None
