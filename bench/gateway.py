"""What the gateway costs a request, beside other gateways: in one run, on one core each.

    python -m bench gateway

Upstream (bench/upstream.c) and gateways run as processes of their own on the loopback; the
upstream answers at once, so every difference is the gateway's. The gateways run on one core, the
upstream and the generators on another, where there are two. "full" is ours with all that it does:
a learned decision with the default encoder, a key, its budget, accounting, a record of every
decision in SQLite; "fixed" always asks the same expert, and records nothing. Prompts differ, so
that nobody answers from a cache. Needs wrk (Debian: apt-get install wrk) and a C compiler. The
figures of one run on one machine: compare the ratios, not the absolute numbers.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import _peers as peers
from bench._load import Streams, Target, Whole, streams, whole

ROUNDS, SECONDS = 3, 2.0  # of every measure
CONNECTIONS = (1, 16, 64, 256)
DIRECT, FULL, THEIRS = "direct", "routewright, full", "TensorZero"
console = Console(width=120)


def main() -> None:
    peers.pin(1)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            behind = stack.enter_context(peers.upstream(folder))
        except peers.Skipped as error:
            print(f"skipped: {error}")
            return
        peers.save_router(folder / "router")
        started = list(_start(stack, folder, behind))
        targets = [Target(DIRECT, f"{behind}/chat/completions"), *(t for t, _ in started)]
        idle = {target.name: target.memory() for target, _ in started}
        try:
            wholes = _wholes(targets)
        except FileNotFoundError as error:
            print(f"whole replies: skipped, {error}")
        else:
            _print_wholes(wholes, targets)
        _print_streams(_streams(targets))
        _print_sizes(started, idle)
    _print_start()


def _start(
    stack: contextlib.ExitStack, folder: Path, behind: str
) -> Iterator[tuple[Target, float]]:
    """The gateways that run here, and the seconds that each took to give its first answer."""
    gateways: dict[str, Any] = {
        FULL: peers.ours(folder, behind, "full"),
        "routewright, fixed": peers.ours(folder, behind, "fixed"),
        THEIRS: peers.tensorzero(folder, behind),
        "LiteLLM": peers.litellm(folder, behind),
        "Portkey": peers.portkey(folder, behind),
    }
    for name, gateway in gateways.items():
        try:
            yield stack.enter_context(gateway)
        except (peers.Skipped, OSError, subprocess.SubprocessError) as error:
            print(f"{name}: skipped, {error}")


def _wholes(targets: Sequence[Target]) -> dict[tuple[str, int], list[Whole]]:
    """Measures in turn, so that a busy neighbour disturbs all alike."""
    texts = peers.prompts(64)
    found: dict[tuple[str, int], list[Whole]] = {}
    for target in targets:
        whole(target, texts, 16, 1.0)  # warms it up
    for _ in range(ROUNDS):
        for connections in CONNECTIONS:
            for target in targets:
                measure = whole(target, texts, connections, SECONDS)
                found.setdefault((target.name, connections), []).append(measure)
    return found


def _streams(targets: Sequence[Target]) -> dict[str, list[Streams]]:
    texts = peers.prompts(64)
    found: dict[str, list[Streams]] = {}
    able = list(targets)
    for _ in range(ROUNDS):
        for target in list(able):
            try:
                measure = streams(target, texts)
            except (AssertionError, OSError) as error:
                print(f"{target.name}, streams: skipped, {str(error) or type(error).__name__}")
                able.remove(target)
            else:
                found.setdefault(target.name, []).append(measure)
    return found


# --- tables --------------------------------------------------------------------------------


def _middle(measures: Sequence[Whole | Streams]) -> list[float]:
    return [float(value) for value in np.median([astuple(m) for m in measures], axis=0)]


def _print_wholes(found: dict[tuple[str, int], list[Whole]], targets: Sequence[Target]) -> None:
    heads = ("whole replies", "at once", "requests/s", "of TensorZero's", "least to most")
    table = Table(*heads, "median ms", "added ms", "p99 ms", "CPU µs", "failed")
    for connections in CONNECTIONS:
        bare = _middle(found[DIRECT, connections])
        for target in targets:
            measures = found[target.name, connections]
            rps, p50, p99, cpu, failures = _middle(measures)
            row = [
                target.name,
                str(connections),
                f"{rps:,.0f}",
                *_ratio(found, target, connections),
            ]
            row += [f"{p50:.2f}", f"{p50 - bare[1]:.2f}", f"{p99:.1f}", f"{cpu:.0f}"]
            table.add_row(*row, f"{failures:.0f}")
        table.add_section()
    console.print(table)


def _ratio(
    found: dict[tuple[str, int], list[Whole]], target: Target, connections: int
) -> tuple[str, str]:
    """Requests/s of a target and of TensorZero in the same round: median, and least to most."""
    theirs = found.get((THEIRS, connections))
    if theirs is None:
        return "", ""
    pairs = zip(found[target.name, connections], theirs, strict=True)
    ratios = [own.rps / max(other.rps, 1e-9) for own, other in pairs]
    return f"{np.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"


def _print_streams(found: dict[str, list[Streams]]) -> None:
    heads = ("streams", "first chunk ms", "added ms", "64 live: delay ms", "p99 ms")
    table = Table(*heads, "chunks/s", "CPU µs a chunk")
    bare = _middle(found[DIRECT])
    for name, measures in found.items():
        first, delay, late, rate, cpu = _middle(measures)
        row = [name, f"{first:.2f}", f"{first - bare[0]:.2f}", f"{delay:.2f}", f"{late:.1f}"]
        table.add_row(*row, f"{rate:,.0f}", f"{cpu:.1f}")
    console.print(table)


def _print_sizes(started: Sequence[tuple[Target, float]], idle: dict[str, float]) -> None:
    table = Table("gateway", "ready s", "resident MB", "after the load", "installed MB")
    for target, seconds in started:
        sizes = f"{idle[target.name]:.0f}", f"{target.memory():.0f}"
        installed = f"{peers.installed_mb(target.name):.0f}".replace("nan", "")
        table.add_row(target.name, f"{seconds:.2f}", *sizes, installed)
    console.print(table)


def _print_start() -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "routewright", "--version"], capture_output=True)
        times.append(time.perf_counter() - began)
    print(f"routewright --version: {np.median(times):.2f} s")
