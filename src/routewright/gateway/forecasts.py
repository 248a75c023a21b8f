"""What a month costs, and what budgets will have been used, by their end at the present pace."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from routewright.gateway.budgets import DAY, HISTORY_DAYS, Hour, outlook
from routewright.records import accounts, decisions
from routewright.records.keys import Key


@dataclass(frozen=True)
class Forecast:
    """What this month (UTC) costs in US$: so far, and by its end at the present pace."""

    month: str
    usd: float
    forecast_usd: float


@dataclass(frozen=True)
class BudgetForecast:
    """A budget, and what will have been used of it by its end at the present pace, in US$."""

    name: str  # `key 'web'`, `team 'search'`
    period: str  # day or month
    limit: float
    spent: float
    forecast: float
    ends: float  # seconds since 1970


def of_month(connection: Connection, now: float) -> Forecast:
    """The month's cost, from the usual requests of each hour and weekday and what they cost."""
    month = accounts.periods_of(now)[1]
    start = datetime.datetime.fromisoformat(f"{month}-01T00:00:00Z").timestamp()
    spent = decisions.total(connection, start)
    hours = decisions.hours(connection, now - HISTORY_DAYS * DAY).get(None, [])
    history = [Hour(*hour) for hour in hours]
    end = accounts.end_of("month", now)
    return Forecast(month, spent, outlook(math.inf, end, now, spent, history).forecast)


def of_budgets(
    connection: Connection, keys: Iterable[Key], now: float, own: bool = False
) -> list[BudgetForecast]:
    """The budgets of keys, their teams and their owners, or (with `own`) of the keys alone."""
    spent = accounts.spent_by_account(connection, now)
    histories: dict[str, dict[str | None, list[tuple[float, int, float]]]] = {}
    rows: dict[tuple[str, str], BudgetForecast] = {}
    for key in keys:
        for account, period, name, limit in accounts.budgets_of(key, now):
            if (account, name) in rows or (own and account != key.account):
                continue
            kind, _, member = account.partition(":")
            if kind not in histories:
                start = now - HISTORY_DAYS * DAY
                histories[kind] = decisions.hours(connection, start, kind)
            hours = histories[kind].get(key.name if kind == "key" else member, [])
            used, ends = spent.get((account, period), 0.0), accounts.end_of(name, now)
            forecast = outlook(limit, ends, now, used, [Hour(*hour) for hour in hours]).forecast
            title = accounts.name_of(key, account)
            rows[account, name] = BudgetForecast(title, name, limit, used, forecast, ends)
    return list(rows.values())
