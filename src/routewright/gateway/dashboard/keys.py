"""The keys: made, limited, given a new secret and revoked, by who holds an admin key."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from routewright.gateway import admin, forecasts
from routewright.gateway.admin import BudgetBody, KeyBody, LimitsBody, RotationBody
from routewright.gateway.body import validated
from routewright.gateway.dashboard.reading import reading
from routewright.gateway.dashboard.signins import Viewer
from routewright.gateway.dashboard.site import page, to
from routewright.gateway.errors import BadRequest
from routewright.types import DATA_CLASSES

LISTS = ("tags", "experts", "policies", "data_classes")
NUMBERS = ("rpm", "tpm", "concurrency", "expires_in_days")
KEPT = {"now": 0.0, "1h": 3600.0, "1d": 86400.0, "7d": 7 * 86400.0}  # seconds of an old secret


async def list_keys(request: Request) -> Response:
    """Lists the keys: all of them for an administrator, else the viewer's own."""
    return await _list(request)


async def create_key(request: Request) -> Response:
    """Makes a key and shows it, once."""
    check_admin(request)
    try:
        body = validated(KeyBody)(_key_body(request.state.form))
        token = await admin.make_key(request, body)
    except BadRequest as error:
        return await _list(request, str(error), error.status)
    return await page(request, "secret.html", name=body.name, secret=token, is_new=True)


class Keys(HTTPEndpoint):
    """The keys: one address with two methods."""

    get = staticmethod(list_keys)
    post = staticmethod(create_key)


async def _list(request: Request, problem: str = "", status: int = 200) -> Response:
    services = request.state.services
    rows = await _rows(request)
    return await page(
        request,
        "keys.html",
        status,
        rows=rows,
        problem=problem,
        fields=getattr(request.state, "form", {}),
        policies=list(services.policies.by_name),
        experts=list(services.experts),
        data_classes=DATA_CLASSES,
        now=time.time(),
    )


async def _rows(request: Request) -> list[dict[str, Any]] | None:
    viewer: Viewer = request.state.viewer
    now = time.time()
    rows = await reading(request, lambda connection: admin.keys_as_rows(connection, now))
    if rows is None or viewer.admin:
        return rows
    return [row for row in rows if viewer.key is not None and row["id"] == viewer.key.id]


async def show(request: Request) -> Response:
    """Shows one key: its limits, its budgets with their forecast, and what can be done with it."""
    return await _show(request)


async def _show(request: Request, problem: str = "", status: int = 200) -> Response:
    name, now = request.path_params["name"], time.time()
    row = next((row for row in await _rows(request) or [] if row["name"] == name), None)
    if row is None:
        raise HTTPException(404)
    key = request.state.services.records.keys.get(row["id"])

    def read(connection: Connection) -> list[forecasts.BudgetForecast]:
        own = not request.state.viewer.admin
        return forecasts.of_budgets(connection, [key] if key else [], now, own)

    budgets = await reading(request, read)
    services = request.state.services
    return await page(
        request,
        "key.html",
        status,
        row=row,
        budgets=budgets,
        problem=problem,
        kept=KEPT,
        now=now,
        names={
            "policies": list(services.policies.by_name),
            "experts": list(services.experts),
            "data_classes": DATA_CLASSES,
        },
    )


async def change(request: Request) -> Response:
    """Sets the budget or the limits of a key, gives it a new secret, or revokes it."""
    check_admin(request)
    name, action = request.path_params["name"], request.path_params["action"]
    fields = request.state.form
    try:
        if action == "budget":
            budget = validated(BudgetBody)(_numbers(fields, ("day", "month")))
            await admin.replace_budget(request, "key", name, budget)
            return to(request, f"/dashboard/keys/{name}")
        if action == "limits":
            await admin.limit_key(request, name, validated(LimitsBody)(_limits(fields)))
            return to(request, f"/dashboard/keys/{name}")
        if action == "rotate":
            seconds = {"keep_old_seconds": KEPT.get(fields.get("keep", ""), 0.0)}
            body = validated(RotationBody)(seconds)
            token = await admin.new_secret(request, name, body.keep_old_seconds)
            return await page(request, "secret.html", name=name, secret=token, is_new=False)
        if action == "revoke":
            if fields.get("name") != name:
                raise BadRequest(f"to revoke it, write its name: {name}")
            await admin.end_key(request, name)
            return to(request, f"/dashboard/keys/{name}")
    except BadRequest as error:
        return await _show(request, str(error), error.status)
    raise HTTPException(404)


def check_admin(request: Request) -> None:
    """Raises BadRequest (403) unless the viewer signed in with an admin key."""
    if not request.state.viewer.admin:
        message = "only an admin key may do that: sign out, and sign in with one"
        raise BadRequest(message, status=403, code="admin_only")


def _key_body(fields: dict[str, str]) -> dict[str, Any]:
    """The body of `POST /admin/keys` that a form means."""
    texts = {name: fields[name] for name in ("owner", "team") if fields.get(name)}
    lists = {name: _names(fields[name]) for name in LISTS if fields.get(name)}
    return {
        "name": fields.get("name", ""),
        "budget": _numbers(fields, ("day", "month")),
        "admin": fields.get("admin") == "yes",
        **texts,
        **lists,
        **_numbers(fields, NUMBERS),
    }


def _limits(fields: dict[str, str]) -> dict[str, Any]:
    """The body of `PATCH /admin/keys/NAME` that a form means: an empty field is no limit."""
    names = ("experts", "policies", "data_classes")
    lists = {name: _names(fields[name]) if fields.get(name) else None for name in names}
    numbers = ("rpm", "tpm", "concurrency")
    return {**lists, **dict.fromkeys(numbers), **_numbers(fields, numbers)}


def _names(text: str) -> list[str]:
    return [name for name in text.replace(",", " ").split() if name]


def _numbers(fields: dict[str, str], names: tuple[str, ...]) -> dict[str, float | int]:
    """The fields that are filled in, as numbers; raises BadRequest."""
    numbers: dict[str, float | int] = {}
    for name in names:
        if text := fields.get(name, ""):
            try:
                number = float(text)
            except ValueError:
                message = f"{name} cannot be '{text[:40]}': write a number"
                raise BadRequest(message, name, status=400) from None
            numbers[name] = int(number) if number.is_integer() else number
    return numbers
