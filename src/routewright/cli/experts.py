"""`routewright experts`: the servers of the experts that we run ourselves."""

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
    """What to do with them."""

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
    wait: Annotated[bool, typer.Option(help="Start: come back once they can answer.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Start, stop and look at the servers of experts that have `launch:` in the config.

    Starting one that runs changes nothing. What is started here goes on when this command ends;
    `stop` without names also ends what experts left behind that are no longer in the config.
    Exit code 2 if one cannot start.
    """
    from routewright.config import experts as read_experts
    from routewright.experts.launch import Server

    known = {name: e for name, e in read_experts(config).items() if e.launch is not None}
    if unknown := [name for name in names or () if name not in known]:
        there = ", ".join(known) or "none: give an expert `launch:`"
        raise BadInput(f"no expert '{unknown[0]}' that is launched here: there are {there}")
    chosen = [known[name] for name in names or known]
    servers = [Server(expert) for expert in chosen]
    if not servers and action is Action.start:
        raise BadInput("nothing to start here: give an expert `launch:`")
    console = Console(stderr=True)
    troubles: list[str] = []
    if action is Action.start:
        troubles = _start(servers, wait, console)
    elif action is Action.stop:
        _stop(servers, console)
        if not names:
            _sweep(config.parent, set(known), console)
    found = asyncio.run(_statuses(servers))
    if json:
        typer.echo(dumps({"experts": [_row(status) for status in found]}, indent=2))
    else:
        Console().print(_table(found))
    if troubles:
        raise BadInput("\n".join(troubles))


def _start(servers: list[Server], wait: bool, console: Console) -> list[str]:
    """Starts all of them side by side; what went wrong with any."""

    async def one(server: Server) -> None:
        await asyncio.to_thread(server.start, "user")
        if wait:
            await server.until_ready()

    async def everybody() -> list[Any]:
        return await asyncio.gather(*map(one, servers), return_exceptions=True)

    with console.status(f"starting {', '.join(server.name for server in servers)}"):
        ended = asyncio.run(everybody())
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, BadInput):
            raise error
    return [str(error) for error in ended if error is not None]


def _stop(servers: list[Server], console: Console) -> None:
    async def everybody() -> None:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))

    with console.status(f"stopping {', '.join(server.name for server in servers)}"):
        asyncio.run(everybody())


def _sweep(folder: Path, names: set[str], console: Console) -> None:
    """Ends the servers of experts that the config no longer has."""
    from routewright.experts.launch import end, left_behind

    for _, record in left_behind(folder, names):
        if end(record, grace=10):
            console.print(f"stopped {record.name}, which is no longer in the config", markup=False)


async def _statuses(servers: list[Server]) -> list[Status]:
    return list(await asyncio.gather(*(server.status() for server in servers)))


def _row(status: Status) -> dict[str, Any]:
    record = status.record
    up = record is not None and record.ended is None
    return {
        "name": status.name,
        "state": status.state,
        "pid": record.pid if record and up else None,
        "seconds": round(time.time() - record.began, 1) if record and up else None,
        "started_by": record.owner if record and up else None,
        "why": record.why if record else "",
    }


def _table(found: list[Status]) -> Table:
    table = Table("expert", "state", "pid", "up for", "started by")
    table.add_column("why", overflow="fold")
    for row in map(_row, found):
        up = "" if row["seconds"] is None else f"{row['seconds']:g} s"
        cells = [row["pid"] or "", up, row["started_by"] or "", row["why"]]
        table.add_row(Text(row["name"]), row["state"], *(Text(str(cell)) for cell in cells))
    return table
