"""`routewright keys`: the keys of clients, with what each may ask and spend."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routewright.cli.records import (
    CONFIG,
    ConfigFile,
    Json,
    budget,
    dollars,
    existing,
    minute_of,
    names,
    nothing,
    opened,
    say_nothing,
    seconds,
    time_of,
)
from routewright.errors import BadInput

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from routewright.config import Config
    from routewright.records.keys import Budget

app = typer.Typer(
    name="keys",
    help="Make, list and revoke the keys of clients, and limit what they may ask and spend.",
    no_args_is_help=True,
)

NONE = "none"  # takes a limit away
Name = Annotated[str, typer.Argument(help="The name of the key.")]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="A name of up to 64 letters, digits and any of . @ : + - _")
    ],
    budget_: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", help="US$ that it may spend, as in 5/day or 100/month; may be repeated."
        ),
    ] = None,
    rpm: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Requests per minute.")
    ] = None,
    tpm: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Tokens per minute.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Requests at once.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="Experts that may answer, between commas; default: all.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Policies that it may name, between commas; default: all.")
    ] = None,
    data_classes: Annotated[
        str | None,
        typer.Option(help="Data classes that it may send, as in public,internal; default: all."),
    ] = None,
    team: Annotated[
        str | None, typer.Option(help="The team that pays; see `keys budget --team`.")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="The person who pays; see `keys budget --owner`.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, as in 90d; default: for ever.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It also opens /admin.")] = False,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Make a key, and show it this once.

    As soon as there is a key, the gateway answers only requests that carry one. A running gateway
    knows it within two seconds. With --json it prints `{"name": …, "key": …}`.
    """
    from routewright.config import load
    from routewright.records import keys

    settings = load(config)
    limits: dict[str, Any] = {
        "rpm": rpm,
        "tpm": tpm,
        "concurrency": concurrency,
        "experts": names(experts, "--experts"),
        "policies": names(policies, "--policies"),
        "data_classes": names(data_classes, "--data-classes"),
        "team": team,
        "owner": owner,
        "tags": tuple(keys.checked_name(one, "tag") for one in tag or ()),
        "expires_at": time.time() + seconds(expires, "--expires") if expires else None,
        "admin": admin,
    }
    keys.check_members("expert", limits["experts"], [entry.name for entry in settings.experts])
    keys.check_members("policy", limits["policies"], list(settings.policies))
    money = budget(budget_ or ())
    keys.check(keys.Key("", name, "", 0.0, **limits))
    with opened(settings) as store, store.begin() as connection:
        is_first = not keys.load(connection) and not settings.server.api_keys
        token = keys.create(connection, name, money, **limits)
    _show(name, token, json)
    if is_first and not json:
        typer.echo("It is the first key: from now on the gateway refuses requests without a key.")


def _show(name: str, token: str, json: bool) -> None:
    if json:
        typer.echo(json_module.dumps({"name": name, "key": token}))
        return
    typer.echo(f"The key '{name}', which is shown only now:\n\n  {token}\n")
    typer.echo(
        "The client sends it as its API key: as OPENAI_API_KEY or ANTHROPIC_API_KEY in its"
        " environment,\nor in the header `Authorization: Bearer KEY`. The store has only its hash."
    )


@app.command("list")
def list_(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """List the keys, without their secrets, with what they may spend and have spent in US$."""
    from routewright.config import load
    from routewright.gateway.admin import keys_as_rows

    settings, now = load(config), time.time()
    with existing(settings) as store:
        if store is None:
            return typer.echo("[]") if json else say_nothing(settings)
        with store.read() as connection:
            rows = keys_as_rows(connection, now)
    if json:
        times = ("created_at", "expires_at")
        plain = [{**row, **{name: time_of(row[name]) for name in times}} for row in rows]
        typer.echo(json_module.dumps(plain, indent=2))
        return
    if not rows:
        typer.echo("There is no key yet: `routewright keys create NAME` makes one.")
        return
    Console(soft_wrap=True).print(_table(rows, now))
    for row in rows:
        if limits := _limits(row):
            typer.echo(f"{row['name']}: {limits}")


def _table(rows: list[dict[str, Any]], now: float) -> Table:
    table = Table("key", "state", "team", "owner", "budget")
    for heading in ("today", "month", "ever", "requests"):
        table.add_column(heading, justify="right")
    table.caption = "US$; days and months are UTC"
    for row in rows:
        spent = (row[f"spent_{period}usd"] for period in ("today_", "this_month_", ""))
        names = (Text(row["team"] or ""), Text(row["owner"] or ""))
        table.add_row(
            Text(row["name"]),
            _state(row, now),
            *names,
            _budget_text(row["budget"]),
            *map(dollars, spent),
            f"{row['requests']:,}",
        )
    return table


def _state(row: dict[str, Any], now: float) -> str:
    if row["revoked"]:
        return "revoked"
    if row["expires_at"] is not None and row["expires_at"] <= now:
        return "expired"
    return "admin" if row["admin"] else "valid"


def _budget_text(limits: dict[str, float | None]) -> str:
    return ", ".join(f"{usd:g}/{period}" for period, usd in limits.items() if usd is not None)


def _limits(row: dict[str, Any]) -> str:
    parts = [f"{name} {row[name]:,}" for name in ("rpm", "tpm", "concurrency") if row[name]]
    for name in ("experts", "policies", "data_classes", "tags"):
        if row[name]:
            parts.append(f"{name.replace('_', ' ')} {','.join(row[name])}")
    if row["expires_at"] is not None:
        parts.append(f"until {minute_of(row['expires_at'])} UTC")
    return "; ".join(parts)


Amount = Annotated[str | None, typer.Option(help="A whole number, or `none` for no limit.")]
Members = Annotated[str | None, typer.Option(help="Names between commas, or `none` to allow all.")]


@app.command()
def change(
    name: Name,
    rpm: Amount = None,
    tpm: Amount = None,
    concurrency: Amount = None,
    experts: Members = None,
    policies: Members = None,
    data_classes: Members = None,
    expires: Annotated[
        str | None,
        typer.Option(help="How long it is valid from now on, as in 90d; `none`: for ever."),
    ] = None,
    config: ConfigFile = CONFIG,
) -> None:
    """Change limits of a key; those that are left out stay, and so does its secret.

    Running gateways know them within two seconds. `keys budget` changes what it may spend.
    """
    from routewright.config import load
    from routewright.records import keys

    amounts = {"rpm": rpm, "tpm": tpm, "concurrency": concurrency}
    members = {"experts": experts, "policies": policies, "data_classes": data_classes}
    limits: dict[str, Any] = {
        **{limit: _amount(text, limit) for limit, text in amounts.items() if text is not None},
        **{
            limit: None if text == NONE else names(text, f"--{limit.replace('_', '-')}")
            for limit, text in members.items()
            if text is not None
        },
    }
    if expires is not None:
        end = None if expires == NONE else time.time() + seconds(expires, "--expires")
        limits["expires_at"] = end
    if not limits:
        raise BadInput("name a limit to change, such as --rpm 120")
    settings = load(config)
    keys.check_members("expert", limits.get("experts"), [e.name for e in settings.experts])
    keys.check_members("policy", limits.get("policies"), list(settings.policies))
    with _writing(config) as connection:
        keys.change(connection, name, **limits)
    typer.echo(f"The limits of the key '{name}' are changed.")


def _amount(text: str, limit: str) -> int | None:
    """A limit; None if it is taken away. Raises BadInput."""
    if text == NONE:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 10:
        raise BadInput(f"--{limit} cannot be '{text[:40]}': give a whole number, or none")
    return int(text)


@app.command()
def revoke(name: Name, config: ConfigFile = CONFIG) -> None:
    """Make a key invalid for ever. Running gateways refuse it within two seconds.

    It stays in the list, because records name it; its name cannot be used again.
    """
    from routewright.records import keys

    with _writing(config) as connection:
        keys.revoke(connection, name)
    typer.echo(f"The key '{name}' is revoked.")


@app.command()
def rotate(
    name: Name,
    keep_old: Annotated[
        str | None,
        typer.Option(
            help="How long the old secret stays valid too, as in 1h; default: not at all."
        ),
    ] = None,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Give a key a new secret, and show it this once. Limits, budgets and records stay.

    Running gateways know it within two seconds. With --json it prints `{"name": …, "key": …}`.
    """
    from routewright.records import keys

    rest = seconds(keep_old, "--keep-old") if keep_old else 0.0
    with _writing(config) as connection:
        token = keys.rotate(connection, name, rest)
    _show(name, token, json)
    if not json:
        until = f"until {minute_of(time.time() + rest)} UTC" if rest else "no longer"
        typer.echo(f"The old secret is valid {until}.")


@app.command("budget")
def set_budget(
    budgets: Annotated[
        list[str],
        typer.Argument(help="US$, as in 5/day 100/month; `none` removes the budget."),
    ],
    key: Annotated[str | None, typer.Option(help="The key whose budget it is.")] = None,
    team: Annotated[str | None, typer.Option(help="The team whose budget it is.")] = None,
    owner: Annotated[str | None, typer.Option(help="The owner whose budget it is.")] = None,
    config: ConfigFile = CONFIG,
) -> None:
    """Replace the budget of a key, a team or an owner.

    A request must fit into all budgets that concern it: those of its key, its team and its owner.
    Days and months begin at midnight UTC.
    """
    from routewright.records import keys

    accounts = {"key": key, "team": team, "owner": owner}
    given = {kind: name for kind, name in accounts.items() if name is not None}
    if len(given) != 1:
        raise BadInput("name whose budget it is: one of --key, --team and --owner")
    [(kind, name)] = given.items()
    money = keys.Budget() if budgets == ["none"] else budget(budgets, "the budget")
    keys.checked_name(name, kind)
    with _writing(config) as connection:
        account = keys.named(connection, name).id if kind == "key" else name
        keys.set_budget(connection, f"{kind}:{account}", money)
        members = [one for one in keys.load(connection).values() if getattr(one, kind, "") == name]
    typer.echo(_budget_said(f"{kind} '{name}'", money))
    if kind != "key" and not members:
        typer.echo(f"No key names the {kind} yet: `routewright keys create NAME --{kind} {name}`.")


def _budget_said(label: str, money: Budget) -> str:
    limits = {"day": money.day, "month": money.month}
    parts = [f"US$ {usd:g} per {period}" for period, usd in limits.items() if usd is not None]
    return f"The {label} may spend {' and '.join(parts) or 'any amount'}."


@contextmanager
def _writing(path: Path) -> Iterator[Connection]:
    """A transaction on the store of a config, which must exist."""
    from routewright.config import load

    settings: Config = load(path)
    with existing(settings) as store:
        if store is None:
            raise nothing(settings)
        with store.begin() as connection:
            yield connection
