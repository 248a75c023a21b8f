"""`routewright push`: copies a router to a hub, a bucket or another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    router: Annotated[Path, typer.Argument(help="Folder of a router.")],
    to: Annotated[str, typer.Argument(help="hf://USER/NAME, s3://BUCKET/NAME, … or a folder.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the router that is there.")
    ] = False,
) -> None:
    """Copy a router to a hub, a bucket or another folder.

    Keys come from where the store's own tools look for them (HF_TOKEN, AWS_ACCESS_KEY_ID, …).
    """
    from routewright import hub

    size = hub.push(router, to, replace=replace)
    typer.echo(f"{size:,} bytes are at {to}: routewright pull {to} --out FOLDER")
