"""`/admin`: keys, budgets and policies over HTTP, for who holds an admin key."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy import Connection
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright import files
from routewright.config.goals import with_goal
from routewright.errors import BadInput
from routewright.gateway.body import NUMBER, read, validated
from routewright.gateway.errors import BadRequest
from routewright.records import accounts, decisions, keys
from routewright.records.keys import Budget, Key
from routewright.records.store import Store

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Usd = Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False), NUMBER]
Limit = Annotated[int, Field(gt=0, lt=2**31), NUMBER]
Name = Annotated[str, Field(pattern=f"^{keys.NAME.pattern}$")]
MAX_BODY = 64 * 1024


class BudgetBody(BaseModel):
    """What an account may spend, in US$; a budget that is left out has no limit."""

    model_config = ConfigDict(extra="forbid")

    day: Usd | None = None
    month: Usd | None = None

    def budget(self) -> Budget:
        return Budget(self.day, self.month)


class KeyBody(BaseModel):
    """A key to be made. What is left out is not limited."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    budget: BudgetBody = BudgetBody()
    owner: Name | None = None
    team: Name | None = None
    tags: list[Name] = []
    experts: list[str] | None = None
    policies: list[str] | None = None
    data_classes: list[Literal["public", "internal", "restricted"]] | None = None
    rpm: Limit | None = None
    tpm: Limit | None = None
    concurrency: Limit | None = None
    expires_in_days: Annotated[float, Field(gt=0, le=36500), NUMBER] | None = None
    admin: StrictBool = False


class LimitsBody(BaseModel):
    """The limits of a key that change: null takes a limit away, and what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    budget: BudgetBody | None = None
    experts: list[str] | None = None
    policies: list[str] | None = None
    data_classes: list[Literal["public", "internal", "restricted"]] | None = None
    rpm: Limit | None = None
    tpm: Limit | None = None
    concurrency: Limit | None = None
    expires_in_days: Annotated[float, Field(gt=0, le=36500), NUMBER] | None = None


class RotationBody(BaseModel):
    """For how long the old secret stays valid."""

    model_config = ConfigDict(extra="forbid")

    keep_old_seconds: Annotated[float, Field(ge=0, le=30 * 86400), NUMBER] = 0.0


class GoalBody(BaseModel):
    """What a policy must reach: at most US$ a query, at most a share of the cost of the most
    expensive expert, or at least a quality."""

    model_config = ConfigDict(extra="forbid")

    goal: Literal["max_cost", "max_cost_fraction", "min_quality"]
    value: Annotated[float, Field(gt=0, lt=1e12, allow_inf_nan=False), NUMBER]


class Period(BaseModel):
    """Which decisions are listed."""

    model_config = ConfigDict(extra="forbid")

    since_seconds: Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)] = 3600.0
    key: Name | None = None
    limit: Annotated[int, Field(gt=0, le=10_000)] = 100


class Sums(BaseModel):
    """What is summed, and by what."""

    model_config = ConfigDict(extra="forbid")

    since_seconds: Annotated[float, Field(gt=0, le=1e10, allow_inf_nan=False)] = 7 * 86400.0
    by: Literal["key", "team", "owner", "expert", "policy", "day"] = "key"


async def list_keys(request: Request) -> Response:
    """Lists the keys, without their secrets, with what they have spent."""
    rows = await _reading(request, lambda connection: keys_as_rows(connection, time.time()))
    return JSONResponse({"object": "list", "data": rows})


async def create_key(request: Request) -> Response:
    """Makes a key. Its reply is the only place where the key is shown."""
    body = await read(request, MAX_BODY, validated(KeyBody))
    token = await make_key(request, body)
    return JSONResponse({"object": "key", "name": body.name, "key": token})


async def make_key(request: Request, body: KeyBody) -> str:
    """Stores a key and returns it; raises BadRequest."""
    _check_members(request, body)
    days = body.expires_in_days
    limits = {
        **body.model_dump(include={"owner", "team", "rpm", "tpm", "concurrency", "admin"}),
        **{name: _tuples(getattr(body, name)) for name in ("experts", "policies", "data_classes")},
        "tags": tuple(body.tags),
        "expires_at": None if days is None else time.time() + days * 86400,
    }
    budget = body.budget.budget()
    return await _writing(
        request, lambda connection: keys.create(connection, body.name, budget, **limits)
    )


def _check_members(request: Request, body: KeyBody | LimitsBody) -> None:
    """Raises BadRequest (422) for an expert or a policy that does not exist."""
    services = request.state.services
    try:
        keys.check_members("expert", body.experts, list(services.experts))
        keys.check_members("policy", body.policies, list(services.policies.by_name))
    except BadInput as error:
        raise BadRequest(str(error), status=422, code="no_such_member") from error


async def change_key(request: Request) -> Response:
    """Changes limits of a key, on every gateway of the store within two seconds."""
    body = await read(request, MAX_BODY, validated(LimitsBody))
    name = request.path_params["name"]
    await limit_key(request, name, body)
    now = time.time()
    rows = await _reading(request, lambda connection: keys_as_rows(connection, now))
    return JSONResponse(next(row for row in rows if row["name"] == name))


async def limit_key(request: Request, name: str, body: LimitsBody) -> None:
    """Changes the limits that a body names; raises BadRequest."""
    _check_members(request, body)
    given = body.model_fields_set
    limits = {limit: _tuples(getattr(body, limit)) for limit in given & set(keys.CHANGEABLE)}
    if "expires_in_days" in given:
        days = body.expires_in_days
        limits["expires_at"] = None if days is None else time.time() + days * 86400

    def write(connection: Connection) -> None:
        keys.change(connection, name, **limits)
        if "budget" in given:
            budget = Budget() if body.budget is None else body.budget.budget()
            keys.set_budget(connection, keys.named(connection, name).account, budget)

    await _writing(request, write)


async def rotate_key(request: Request) -> Response:
    """Gives a key a new secret, which its reply shows once."""
    body = await read(request, MAX_BODY, validated(RotationBody))
    name = request.path_params["name"]
    token = await new_secret(request, name, body.keep_old_seconds)
    return JSONResponse({"object": "key", "name": name, "key": token})


async def new_secret(request: Request, name: str, keep_old: float) -> str:
    """Gives a key a new secret and returns it; the old one is valid for `keep_old` seconds more."""
    return await _writing(request, lambda connection: keys.rotate(connection, name, keep_old))


async def revoke_key(request: Request) -> Response:
    """Makes a key invalid for ever, on every gateway of the store within two seconds."""
    name = request.path_params["name"]
    await end_key(request, name)
    return JSONResponse({"object": "key", "name": name, "revoked": True})


async def end_key(request: Request, name: str) -> None:
    """Revokes a key; raises BadRequest if there is none of that name."""
    await _writing(request, lambda connection: keys.revoke(connection, name))


class Keys(HTTPEndpoint):
    """The keys: one address with two methods."""

    get = staticmethod(list_keys)
    post = staticmethod(create_key)


class OneKey(HTTPEndpoint):
    """A key: one address with two methods."""

    patch = staticmethod(change_key)
    delete = staticmethod(revoke_key)


async def list_budgets(request: Request) -> Response:
    """Lists all budgets with what was spent of them."""
    records = request.state.services.records
    rows = [
        {"budget": name, "period": period, "limit_usd": limit, "spent_usd": spent}
        for name, period, limit, spent in records.budgets()
    ]
    return JSONResponse({"object": "list", "data": rows})


async def set_budget(request: Request) -> Response:
    """Replaces the budget of a key, a team or an owner, as in /admin/budgets/team/search."""
    body = await read(request, MAX_BODY, validated(BudgetBody))
    kind, name = request.path_params["kind"], request.path_params["name"]
    await replace_budget(request, kind, name, body)
    return JSONResponse({"object": "budget", kind: name, **body.model_dump()})


async def replace_budget(request: Request, kind: str, name: str, body: BudgetBody) -> None:
    """Replaces the budget of an account; raises BadRequest."""
    if kind not in keys.KINDS or not keys.NAME.fullmatch(name):
        message = f"'{kind[:40]}/{name[:80]}' has no budget: use key, team or owner, and its name"
        raise BadRequest(message, status=404, code="not_found")

    def write(connection: Connection) -> None:
        account = name if kind != "key" else keys.named(connection, name).id
        keys.set_budget(connection, f"{kind}:{account}", body.budget())

    await _writing(request, write)


async def list_policies(request: Request) -> Response:
    """Lists the policies with the operating point that each has now."""
    services = request.state.services
    rows = []
    for name, policy in services.policies.by_name.items():
        point = policy.point
        rows.append(
            {
                "name": name,
                "strategy": type(policy.strategy).__name__.lower(),
                "router": policy.version,
                "fallback": list(policy.fallback),
                "operating_point": None
                if point is None
                else {"lambda": point.price, "usd": point.cost, "quality": point.quality},
                "pace": None if policy.pacer is None else {"lambda": policy.pacer.price},
            }
        )
    return JSONResponse({"object": "list", "data": rows})


async def set_goal(request: Request) -> Response:
    """Writes the goal of a policy into the config, and reads the config again."""
    body = await read(request, MAX_BODY, validated(GoalBody))
    name, policies = request.path_params["name"], request.state.services.policies
    if name not in policies.by_name or policies.by_name[name].router is None:
        message = f"no policy '{name[:80]}' has a router: there are {', '.join(policies.by_name)}"
        raise BadRequest(message, status=404, code="policy_not_found")
    await write_goal(request, name, body.goal, body.value)
    return JSONResponse({"object": "policy", "name": name, **body.model_dump()})


async def write_goal(request: Request, policy: str, goal: str, value: float) -> None:
    """Writes a goal into the config's file and reloads it; raises BadRequest (409) if that cannot
    be served, and leaves the file as it was."""
    path = request.state.services.config.file
    if path is None:
        raise BadRequest("this gateway's config is no file to write into", status=409)
    before = await asyncio.to_thread(path.read_text, "utf-8")
    try:
        text = with_goal(before, policy, goal, value)
        await asyncio.to_thread(files.write, path, text)
        await request.app.state.lifecycle.reload_all()
    except BadInput as error:
        if await asyncio.to_thread(path.read_text, "utf-8") != before:
            await asyncio.to_thread(files.write, path, before)
        raise BadRequest(f"{path.name} stays as it was: {error}", status=409) from error


async def list_decisions(request: Request) -> Response:
    """Lists decisions without their texts, newest first, those of a key if it is named."""
    period = _query(request, Period)
    since, key, most = time.time() - period.since_seconds, period.key, period.limit

    def rows(connection: Connection) -> list[dict[str, Any]]:
        return list(islice(decisions.recent(connection, since, key), most))

    return JSONResponse({"object": "list", "data": await _reading(request, rows)})


async def show_spend(request: Request) -> Response:
    """Shows what was spent in a period, in US$, by key, team, owner, expert, policy or day."""
    sums = _query(request, Sums)
    since = time.time() - sums.since_seconds
    rows = await _reading(request, lambda found: decisions.spend(found, sums.by, since))
    total = math.fsum(row["usd"] for row in rows)
    return JSONResponse({"object": "spend", "total_usd": total, "rows": rows})


def keys_as_rows(connection: Connection, now: float) -> list[dict[str, Any]]:
    """Every key as plain data, without its secret, with what it has spent in US$."""
    balances = accounts.balances(connection, now)
    return [_row(key, balances.get(key.account, {})) for key in keys.load(connection).values()]


def _row(key: Key, spent: dict[str, float]) -> dict[str, Any]:
    budget = key.budgets.get(key.account, Budget())
    limits = ("owner", "team", "experts", "policies", "data_classes", "rpm", "tpm", "concurrency")
    return {
        "name": key.name,
        "id": key.id,
        "budget": {"day": budget.day, "month": budget.month},
        "spent_usd": spent.get("ever", 0.0),
        "spent_today_usd": spent.get("day", 0.0),
        "spent_this_month_usd": spent.get("month", 0.0),
        "unsure_usd": spent.get("unsure", 0.0),
        "requests": int(spent.get("requests", 0)),
        **{name: _list(getattr(key, name)) for name in limits},
        "tags": list(key.tags),
        "admin": key.admin,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked": key.revoked_at is not None,
    }


def _tuples(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _query(request: Request, model: type[M]) -> M:
    """The parameters after the `?` of an address; raises BadRequest."""
    return validated(model)(dict(request.query_params))


def _store(request: Request) -> Store:
    store: Store | None = request.state.services.records.store
    if store is None:
        message = "this gateway keeps nothing: set `server.store` in the config"
        raise BadRequest(message, status=404, code="no_store")
    if not request.state.services.records.state.is_up:  # a thread would wait for it
        message = "the gateway's store cannot be used at the moment: try again later"
        raise BadRequest(message, status=503, code="store_unavailable")
    return store


async def _reading(request: Request, function: Callable[[Connection], T]) -> T:
    return await _on(_store(request), Store.read, function)


async def _writing(request: Request, function: Callable[[Connection], T]) -> T:
    result = await _on(_store(request), Store.begin, function)
    await asyncio.to_thread(request.state.services.records.read_keys)
    return result


async def _on(
    store: Store,
    transaction: Callable[[Store], AbstractContextManager[Connection]],
    function: Callable[[Connection], T],
) -> T:
    """The result of a function on a connection, in a thread; raises BadRequest."""

    def run() -> T:
        with store.explained(), transaction(store) as connection:
            return function(connection)

    try:
        return await asyncio.to_thread(run)
    except BadRequest:
        raise
    except keys.NoSuchKey as error:
        raise BadRequest(str(error), status=404, code="key_not_found") from error
    except keys.Revoked as error:
        raise BadRequest(str(error), status=409, code="key_revoked") from error
    except keys.NameTaken as error:
        raise BadRequest(str(error), status=409, code="name_taken") from error
    except BadInput as error:
        raise BadRequest(str(error)) from error
