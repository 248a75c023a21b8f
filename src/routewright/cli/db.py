"""`routewright db`: upgrades, checks and prunes the store."""

from __future__ import annotations

import json as json_module
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from routewright.cli.records import (
    CONFIG,
    ConfigFile,
    Json,
    existing,
    minute_of,
    nothing,
    seconds,
    time_of,
)
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.config import Config
    from routewright.records.store import Store

PAGES = 2000  # of SQLite that are given back in one transaction
INCREMENTAL = 2  # the value of SQLite's auto_vacuum

app = typer.Typer(
    name="db",
    help="Upgrade, check and prune the store of keys, budgets and decisions.",
    no_args_is_help=True,
)


@app.command()
def upgrade(config: ConfigFile = CONFIG) -> None:
    """Bring the tables of the store to this version of routewright; make a backup before.

    Stop the gateways first, and start them again with this version.
    """
    from routewright.cli.records import url_of
    from routewright.config import load
    from routewright.records.store import Store

    settings = load(config)
    store = Store(url_of(settings), settings.folder)
    try:
        with store.explained():
            before = store.revision()
        store.upgrade()
        with store.explained():
            after = store.revision()
    finally:
        store.close()
    typer.echo(
        f"The store {store.label} is of revision {after}."
        if before == after
        else f"The store {store.label} was of revision {before or 'none'} and is of {after} now."
    )


@app.command()
def check(config: ConfigFile = CONFIG, json: Json = False) -> None:
    """Check the store: whether it can be reached, its revision, its size, and its sums.

    Balances, which budgets go by, must be the sums of the recorded asks. The exit code is 1 if
    there is a problem.
    """
    from routewright.config import load

    settings = load(config)
    facts: dict[str, Any] = {}
    problems: list[str] = []
    try:
        with existing(settings) as store:
            if store is None:
                raise nothing(settings)
            facts, problems = _facts(store)
    except BadInput as error:
        problems = [str(error)]
    if json:
        typer.echo(json_module.dumps({**facts, "problems": problems}, indent=2))
    else:
        for name, value in facts.items():
            typer.echo(f"{name.replace('_', ' ')}: {_said(value)}")
        for problem in problems:
            Console(stderr=True, soft_wrap=True).print(
                f"Problem: {problem}", markup=False, highlight=False
            )
        if not problems:
            typer.echo("Nothing is wrong.")
    if problems:
        raise typer.Exit(1)


def _facts(store: Store) -> tuple[dict[str, Any], list[str]]:
    from routewright.records import decisions

    with store.read() as connection:
        oldest = decisions.oldest(connection)
        facts = {
            "store": store.label,
            "revision": store.revision(),
            "bytes": decisions.size(connection),
            "oldest_decision": time_of(oldest),
            "rows": decisions.sizes(connection),
        }
        damage = [f"the file is damaged: {line}" for line in decisions.damage(connection)]
        differences = [
            f"on {one.day} the balance of the {one.account} is US$ {one.balance:.6f}, and its asks"
            f" cost US$ {one.asks:.6f}"
            for one in decisions.differences(connection)
        ]
    return facts, damage + differences


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value or "none")


@app.command()
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            help="Age from which records are deleted, as in 90d; default:"
            " `server.records.retention_days` of the config."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many records would be deleted.")
    ] = False,
    config: ConfigFile = CONFIG,
    json: Json = False,
) -> None:
    """Delete old decisions, with their texts, asks and scores. Balances and keys stay.

    Gateways may run meanwhile: it works in small portions. SQLite gives the space back to the disk
    by an incremental vacuum; PostgreSQL keeps it for new rows.
    """
    from routewright.config import load
    from routewright.records import decisions, responses

    settings = load(config)
    now = time.time()
    before = now - _age(settings, older_than)
    kept_since = -math.inf if older_than is None else before
    with existing(settings) as store:
        if store is None:
            raise nothing(settings)
        if dry_run:
            with store.read() as connection:
                counts = Counter(decisions.prunable(connection, before))
                counts.update(responses.prunable(connection, kept_since, now))
        else:
            counts = decisions.prune_all(store, before)
            counts.update(responses.prune_all(store, kept_since, now))
            if store.is_sqlite and counts.total():
                _give_back(store)
    if json:
        summary = {"before": time_of(before), "dry_run": dry_run, **counts}
        typer.echo(json_module.dumps(summary))
        return
    said = ", ".join(
        f"{counts[name]:,} {name}" for name in ("decisions", "asks", "scores", "responses")
    )
    verb = "would be deleted" if dry_run else "deleted"
    typer.echo(f"{said} from before {minute_of(before)} UTC {verb}.")


def _age(config: Config, older_than: str | None) -> float:
    if older_than is not None:
        return seconds(older_than, "--older-than")
    return config.server.records.retention_days * 86400


def _give_back(store: Store) -> None:
    """Gives the empty pages of SQLite's file back, in portions; a file that was made elsewhere is
    written anew (VACUUM)."""
    connection = store.engine.raw_connection()
    try:
        file: Any = connection.driver_connection  # SQLAlchemy cannot step such a PRAGMA to its end

        def number(pragma: str) -> int:
            return int(file.execute(f"PRAGMA {pragma}").fetchone()[0])

        if number("auto_vacuum") != INCREMENTAL:
            file.execute("VACUUM")
        free = number("freelist_count")
        while free:
            file.executescript(f"PRAGMA incremental_vacuum({PAGES})")
            before, free = free, number("freelist_count")
            if free >= before:  # a gateway deletes, too
                break
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()
