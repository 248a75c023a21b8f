"""`routewright experts`: controls the servers of experts that Routewright runs itself."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.experts.launch import Server, Status


class Action(StrEnum):
    """What the command does with the servers."""

    status = "status"
    start = "start"
    stop = "stop"


def experts(
    action: Annotated[
        Action,
        typer.Argument(help="status, start or stop."),
    ],
    config: Annotated[Path, typer.Argument(help="The config, e.g. routewright.yaml.")],
    names: Annotated[
        list[str] | None, typer.Argument(help="Experts with `launch:`; default: all of them.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="For start: wait until they can answer.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Start, stop and list the servers of experts that have `launch:` in the config.

    To start a server that runs already changes nothing. Servers keep running after this command
    ends. `stop` without names also stops servers of experts that are no longer in the config. The
    exit code is 2 if a server cannot start.
    """
    from routewright.config import experts as read_experts
    from routewright.experts.launch import Server

    launched = {name: e for name, e in read_experts(config).items() if e.launch is not None}
    if unknown := [name for name in names or () if name not in launched]:
        others = ", ".join(launched) or "none: give an expert `launch:`"
        raise BadInput(f"no expert '{unknown[0]}' with `launch:` in the config: it has {others}")
    servers = [Server(launched[name]) for name in names or launched]
    if not servers and action is Action.start:
        raise BadInput("no server to start: give an expert `launch:`")
    console = Console(stderr=True)
    failures: list[str] = []
    if action is Action.start:
        failures = _start(servers, wait, console)
    elif action is Action.stop:
        _stop(servers, console)
        if not names:
            _sweep(config, servers, console)
    statuses = asyncio.run(_statuses(servers))
    if json:
        typer.echo(dumps({"experts": [_row(status) for status in statuses]}, indent=2))
    else:
        Console().print(_table(statuses))
    if failures:
        raise BadInput("\n".join(failures))


def _start(servers: list[Server], wait: bool, console: Console) -> list[str]:
    """Starts all servers concurrently and returns the messages of those that failed."""

    async def start(server: Server) -> None:
        await asyncio.to_thread(server.start, "user")
        if wait:
            await server.until_ready()

    async def start_all() -> list[Any]:
        return await asyncio.gather(*map(start, servers), return_exceptions=True)

    with console.status(f"starting {', '.join(server.name for server in servers)}"):
        results = asyncio.run(start_all())
    for error in results:
        if isinstance(error, BaseException) and not isinstance(error, BadInput):
            raise error
    return [str(error) for error in results if error is not None]


def _stop(servers: list[Server], console: Console) -> None:
    async def stop_all() -> None:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))

    with console.status(f"stopping {', '.join(server.name for server in servers)}"):
        asyncio.run(stop_all())
    for server in servers:
        if server.foreign and server.alive():
            console.print(f"{server.name} runs on: {server.foreign} started it", markup=False)


def _sweep(config: Path, servers: list[Server], console: Console) -> None:
    """Stops the servers of experts that are no longer in the config."""
    from routewright.experts.launch import end, orphans

    for record in orphans(config, {server.folder for server in servers}):
        if end(record, grace=10):
            console.print(f"stopped {record.name}, which is no longer in the config", markup=False)


async def _statuses(servers: list[Server]) -> list[Status]:
    return list(await asyncio.gather(*(server.status() for server in servers)))


def _row(status: Status) -> dict[str, Any]:
    record = status.record
    running = record is not None and record.ended is None
    return {
        "name": status.name,
        "state": status.state,
        "pid": record.pid if record and running else None,
        "seconds": round(time.time() - record.began, 1) if record and running else None,
        "started_by": record.owner if record and running else None,
        "why": record.why if record else "",
    }


def _table(statuses: list[Status]) -> Table:
    table = Table("expert", "state", "pid", "up for", "started by")
    table.add_column("why", overflow="fold")
    for row in map(_row, statuses):
        up = "" if row["seconds"] is None else f"{row['seconds']:g} s"
        cells = [row["pid"] or "", up, row["started_by"] or "", row["why"]]
        table.add_row(Text(row["name"]), row["state"], *(Text(str(cell)) for cell in cells))
    return table
