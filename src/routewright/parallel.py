"""Where heavy work runs: in this process, or as a Ray Data pipeline on a cluster.

The cluster is the one that RAY_ADDRESS names, else one that is made of this machine's cores. What
goes there is Python: a cluster is trusted like the machine that one works at.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from routewright.errors import BadInput, RoutewrightError

T = TypeVar("T")
R = TypeVar("R")

ENGINES = ("local", "ray")
PARTS_PER_CORE = 4  # so that cores which are done early find more to do
SMALLEST = 16  # rows of a part
SMALL = 100_000  # numbers: handing trees to threads takes longer than growing them


def spread(
    function: Callable[[T], R], parts: Sequence[T], engine: str = "local"
) -> Iterator[tuple[int, R]]:
    """What a function makes of every part, with the part's place, as they are done.

    On a cluster the order is any, and a part whose worker dies is handed to another one: what
    must not happen twice has to be written down by the function itself. Raises what it raises.

    >>> list(spread(sum, [[1, 2], [3]]))
    [(0, 3), (1, 3)]
    """
    if engine == "local":
        yield from ((place, function(part)) for place, part in enumerate(parts))
        return
    ray = cluster(engine)
    packed = [
        {"place": place, "part": ray.cloudpickle.dumps(part)} for place, part in enumerate(parts)
    ]

    here = os.getcwd()

    def work(rows: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # relative paths mean the same where the folder is there
            os.chdir(here)
        found = [_tried(function, ray.cloudpickle.loads(part)) for part in rows["part"]]
        return {"place": rows["place"], "found": [ray.cloudpickle.dumps(one) for one in found]}

    data = ray.data.from_items(packed, override_num_blocks=max(1, len(packed)))
    for row in data.map_batches(work, batch_size=1, batch_format="numpy").iter_rows():
        found = ray.cloudpickle.loads(row["found"])
        if isinstance(found, RoutewrightError):
            raise found
        yield int(row["place"]), found


def _tried(function: Callable[[T], R], part: T) -> R | RoutewrightError:
    """Our mistakes come back as values: Ray would wrap them beyond recognition."""
    try:
        return function(part)
    except RoutewrightError as error:
        return error


def in_parts(rows: Sequence[T], engine: str = "local", size: int | None = None) -> list[list[T]]:
    """Rows in parts for `spread`: as many as keep a cluster busy, or of a given size."""
    if size is None:
        cores = 1 if engine == "local" else int(cluster(engine).cluster_resources().get("CPU", 1))
        size = max(SMALLEST, -(-len(rows) // (cores * PARTS_PER_CORE)))
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def stacked(function: Callable[[list[T]], Any], rows: Sequence[T], engine: str = "local") -> Any:
    """The arrays that a function makes of the rows, (n, …), in the rows' order."""
    if engine == "local":
        return function(list(rows))
    done = dict(spread(function, in_parts(rows, engine), engine))
    return np.concatenate([done[place] for place in sorted(done)])


def jobs(numbers: int) -> int:
    """For how many threads scikit-learn's trees on so many numbers are work enough: one, or one
    for every core (-1)."""
    return 1 if numbers < SMALL else -1


@contextmanager
def one_thread() -> Iterator[None]:
    """Many small matrix products: threads would wait for one another longer than they work."""
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own: limits hold for what is there
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def cluster(engine: str = "ray") -> Any:
    """The library, connected; raises BadInput where it is not installed, or finds no cluster."""
    if engine not in ENGINES:
        raise BadInput(f"no engine is called '{engine}': choose one of {', '.join(ENGINES)}")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BadInput("--engine ray needs: pip install 'routewright[ray]'") from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told about us
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as error:
            raise BadInput(
                f"no Ray cluster lets us in at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: start"
                " it, unset RAY_ADDRESS to use this machine, or set RAY_AUTH_MODE=token where it"
                " wants its token"
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
