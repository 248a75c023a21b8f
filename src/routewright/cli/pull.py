"""`routewright pull`: fetches a router from a hub, a bucket or another folder, and checks it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pull(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="hf://USER/NAME, s3://BUCKET/NAME, … or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the router.")],
) -> None:
    """Fetch a router from a hub, a bucket or another folder, and check it.

    A router is JSON and arrays, without code, and is loaded and tried before it takes its place.
    """
    from routewright import hub

    typer.echo(str(hub.pull(source, out)))
