"""Runs heavy work in this process, or as a Ray Data pipeline on a cluster.

The cluster is the one that RAY_ADDRESS names, or else a local one on this machine's cores. Pickled
Python objects travel to and from it, so use only a cluster that you trust like this machine.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from routewright.errors import BadInput, RoutewrightError, needs

T = TypeVar("T")
R = TypeVar("R")

ENGINES = ("local", "ray")
PARTS_PER_CORE = 4  # so that cores which finish early have more work
MIN_ROWS = 16  # of a part
SMALL_TABLE = 100_000  # cells; below, threads cost more time than they save


def spread(
    function: Callable[[T], R], parts: Sequence[T], engine: str = "local"
) -> Iterator[tuple[int, R]]:
    """Calls a function on every part and yields (place of the part, result) as parts finish.

    On a cluster, parts finish in any order. If a worker dies, another one repeats its part: a
    function with effects that must not happen twice has to record them. Raises what the function
    raises.

    >>> list(spread(sum, [[1, 2], [3]]))
    [(0, 3), (1, 3)]
    """
    if engine == "local":
        yield from ((place, function(part)) for place, part in enumerate(parts))
        return
    ray = cluster(engine)
    blocks = [
        {"place": place, "part": ray.cloudpickle.dumps(part)} for place, part in enumerate(parts)
    ]

    folder = os.getcwd()

    def work(rows: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(OSError):  # relative paths work if the node has the folder
            os.chdir(folder)
        results = [_attempt(function, ray.cloudpickle.loads(part)) for part in rows["part"]]
        return {"place": rows["place"], "result": [ray.cloudpickle.dumps(r) for r in results]}

    data = ray.data.from_items(blocks, override_num_blocks=max(1, len(blocks)))
    for row in data.map_batches(work, batch_size=1, batch_format="numpy").iter_rows():
        result = ray.cloudpickle.loads(row["result"])
        if isinstance(result, RoutewrightError):
            raise result
        yield int(row["place"]), result


def in_order(function: Callable[[T], R], parts: Iterable[T], engine: str = "local") -> Iterator[R]:
    """The results of a function on parts, in their order, made by processes on all cores.

    On this machine, memory holds a few parts at a time, so that there may be any number; a
    single part stays in this process. The function must be importable. Raises what it raises.
    """
    if engine != "local":
        results = dict(spread(function, list(parts), engine))
        yield from (results[place] for place in sorted(results))
        return
    parts = iter(parts)
    first = list(islice(parts, 2))
    cores = os.cpu_count() or 1
    if len(first) < 2 or cores == 1:
        yield from map(function, chain(first, parts))
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    with ProcessPoolExecutor(cores, context, initializer=_begin_process) as pool:
        running: deque[Future[R]] = deque()
        try:
            for part in chain(first, parts):
                running.append(pool.submit(function, part))
                if len(running) > 2 * cores:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _begin_process() -> None:
    """Leaves Ctrl-C to the process that started this one, and the other cores to its others."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)


def batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """The rows in lists of a size, the last one perhaps shorter.

    >>> list(batches(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


def _attempt(function: Callable[[T], R], part: T) -> R | RoutewrightError:
    """Returns a RoutewrightError as a value, because Ray would wrap it in an error of its own."""
    try:
        return function(part)
    except RoutewrightError as error:
        return error


def in_parts(rows: Sequence[T], engine: str = "local", size: int | None = None) -> list[list[T]]:
    """Splits rows into parts for `spread`: of `size` rows, or enough to keep a cluster busy."""
    if size is None:
        cores = 1 if engine == "local" else int(cluster(engine).cluster_resources().get("CPU", 1))
        size = max(MIN_ROWS, -(-len(rows) // (cores * PARTS_PER_CORE)))
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def stacked(function: Callable[[list[T]], Any], rows: Sequence[T], engine: str = "local") -> Any:
    """Calls a function on parts of the rows and joins its arrays, (n, …), in the rows' order."""
    if engine == "local":
        return function(list(rows))
    results = dict(spread(function, in_parts(rows, engine), engine))
    return np.concatenate([results[place] for place in sorted(results)])


def n_jobs(cells: int) -> int:
    """Threads for scikit-learn's trees: one for small tables, all cores (-1) for large ones."""
    return 1 if cells < SMALL_TABLE else -1


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits BLAS to one thread: for many small matrix products, threads mostly wait."""
    import scipy.linalg  # noqa: F401  # has a BLAS of its own; limits apply to loaded libraries
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def cluster(engine: str = "ray") -> Any:
    """The `ray` module, connected to a cluster.

    Raises BadInput if there is no such engine, Ray is not installed, or the connection fails.
    """
    if engine not in ENGINES:
        raise BadInput(f"no engine is called '{engine}': choose one of {', '.join(ENGINES)}")
    with needs("--engine ray"):
        import ray
        import ray.data
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # by default, Ray sends statistics
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as error:
            raise BadInput(
                f"cannot connect to the Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}:"
                " start it, unset RAY_ADDRESS to use this machine, or set RAY_AUTH_MODE=token if"
                " the cluster requires a token"
            ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
