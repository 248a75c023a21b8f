"""Router folders in other places: a hub, a bucket, a server, another folder.

The address is one of fsspec: `hf://USER/NAME` (Hugging Face), `s3://BUCKET/NAME`, `gs://…`,
`sftp://…`, or a path. What is fetched is checked as every router of strangers is: it is loaded and
tried before it takes its place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from routewright import files
from routewright.errors import BadInput, needs
from routewright.router.router import ARRAYS, DESCRIPTION, Router, check_folder

PIECE = 1 << 20  # bytes that are copied at a time


def push(folder: Path, address: str, *, replace: bool = False) -> int:
    """Copies a router to an address; returns the bytes.

    The description is written last, so that whoever reads meanwhile finds an old router, a new one
    or none. Raises BadRouter if the folder is no router, BadInput if another router is there and
    `replace` is not given, or if the store refuses.
    """
    Router.load(folder)
    with _store(address) as (system, place):
        target = f"{place}/{DESCRIPTION}"
        if system.exists(target) and not replace:
            raise BadInput(
                f"'{address}' holds a router already: give --replace, or another address"
            )
        system.makedirs(place, exist_ok=True)
        for name in (ARRAYS, DESCRIPTION):
            system.put_file(str(folder / name), f"{place}/{name}")
    return sum((folder / name).stat().st_size for name in (ARRAYS, DESCRIPTION))


def pull(address: str, folder: Path) -> Router:
    """Copies the router at an address to a folder, where an older one is replaced.

    Raises BadInput if there is none or the folder holds something else, and BadRouter if it cannot
    be loaded; the folder is then as it was.
    """
    check_folder(folder)
    most = {DESCRIPTION: files.LONGEST, ARRAYS: files.memory()}
    with tempfile.TemporaryDirectory(prefix="routewright-") as temporary:
        copy = Path(temporary) / "router"
        copy.mkdir()
        with _store(address) as (system, place):
            for name, limit in most.items():
                if not system.exists(f"{place}/{name}"):
                    raise BadInput(f"'{address}' is no router: it has no {name}")
                _fetch(system, f"{place}/{name}", copy / name, limit)
        router = Router.load(copy)
        with files.replacing(folder, folder=True) as partial:
            for name in most:
                files.write(partial / name, (copy / name).read_bytes())
    return router


def _fetch(system: Any, source: str, target: Path, limit: int) -> None:
    """Copies a file of at most `limit` bytes, whatever the store says of its size."""
    left = limit
    with system.open(source, "rb") as stream, target.open("wb") as file:
        while piece := stream.read(PIECE):
            left -= len(piece)
            if left < 0:
                raise BadInput(f"'{source}' is too large for a router: over {limit} bytes")
            file.write(piece)


@contextmanager
def _store(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address, and the place in it; failures become BadInput.

    Messages of stores may hold addresses with keys, so the kind of failure is told, and not they.
    """
    with needs("push and pull"):
        import fsspec
    scheme = address.partition("://")[0] if "://" in address else ""
    try:
        system, place = fsspec.core.url_to_fs(address)
        yield system, place.rstrip("/")
    except ImportError as error:
        package = f"fsspec needs the package of '{scheme}://' addresses"
        raise BadInput(
            f"'{_shown(address)}' cannot be reached: {package} ({error.name})"
        ) from error
    except ValueError as error:
        raise BadInput(f"'{_shown(address)}' is no address: {error}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadInput(f"'{_shown(address)}' cannot be used: {reason}") from error


def _shown(address: str) -> str:
    """The address without a user's name and password."""
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else address
