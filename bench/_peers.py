"""The gateways that `python -m bench gateway` measures, each started as its users start it.

Peers are installed once, from PyPI and npm, into the folder that ROUTEWRIGHT_PEERS names (default:
build/peers); one that cannot be installed is skipped with a word about it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench._load import Target
from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.types import Query

ROOT = Path(__file__).parent.parent
PEERS = Path(os.environ.get("ROUTEWRIGHT_PEERS", ROOT / "build" / "peers"))
EXPERTS = ("small", "medium", "large", "coder")
ROWS = 1200  # to fit on
TOPICS = {
    "sums": "add subtract multiply total number digits fraction percent equation price".split(),
    "words": "reverse spell letter vowel word rhyme sentence grammar synonym translate".split(),
    "code": "function loop python array index compile error class variable return".split(),
}
FILL = "the of and to in is that for it as with on be at by this have from or please".split()


class Skipped(Exception):
    """A peer that cannot be measured here, and why."""


# --- processes -----------------------------------------------------------------------------


def pin(core: int) -> None:
    """Keeps this process on a core, where there are two."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def process(
    command: Sequence[str | Path], core: int, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            preexec_fn=lambda: pin(core),
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ready_seconds(target: Target, child: subprocess.Popen[bytes], log: Path) -> float:
    """Seconds until a target gives its first answer. Raises Skipped if it ends before that."""
    body = target.body("hello").encode()
    headers = {"content-type": "application/json", **target.headers}
    began, reason = time.perf_counter(), ""
    while time.perf_counter() - began < 120 and child.poll() is None:
        try:
            request = urllib.request.Request(target.url, body, headers)
            urllib.request.urlopen(request, timeout=30).read()
            return time.perf_counter() - began
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.read()[:300]!r}"
        except OSError as error:
            reason = str(error)
        time.sleep(0.01)
    raise Skipped(f"no answer ({reason}): {log.read_text(errors='replace')[-300:]}")


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """The URL (with /v1) of a fast upstream. Raises Skipped without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Skipped("there is no C compiler for bench/upstream.c")
    program = folder / "upstream"
    subprocess.run([compiler, "-O2", "-o", program, ROOT / "bench" / "upstream.c"], check=True)
    log = folder / "upstream.log"
    with process([program], 1, log):
        while not (port := log.read_text().strip()):
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"


# --- ours ----------------------------------------------------------------------------------


def prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of 8 to 120 words on three topics."""
    rng, names = np.random.default_rng(seed), list(TOPICS)
    texts = []
    for i in range(count):
        words = [*TOPICS[names[i % len(names)]], *FILL]
        texts.append(" ".join(rng.choice(words, int(rng.integers(8, 120)))) + f" {i}?")
    return texts


def save_router(folder: Path) -> None:
    """Fits a router of the default kind on outcomes that depend on the topic."""
    rng, texts = np.random.default_rng(1), prompts(ROWS, seed=1)
    chance = np.array([[0.5, 0.6, 0.9, 0.3], [0.3, 0.8, 0.85, 0.2], [0.2, 0.4, 0.8, 0.9]])
    score = (rng.random((ROWS, len(EXPERTS))) < chance[np.arange(ROWS) % 3]).astype(float)
    cost = np.array([1.0, 3.0, 10.0, 4.0]) * 1e-5 * np.ones((ROWS, 1))
    queries = tuple(Query.of(text) for text in texts)
    fit(Outcomes(EXPERTS, queries, {"score": score, "cost": cost})).save(folder)


def _config(folder: Path, behind: str, policy: dict[str, object], store: str) -> Path:
    experts = [
        {"name": name, "base_url": behind, "input_per_mtok": price, "output_per_mtok": 4 * price}
        for name, price in zip(EXPERTS, (0.1, 0.3, 1.0, 0.4), strict=True)
    ]
    config = {
        "version": 1,
        "experts": experts,
        "policies": {"default": policy},
        "server": {"store": store},
    }
    path = folder / f"{'full' if store != 'none' else 'fixed'}.yaml"
    path.write_text(json.dumps(config))
    return path


@contextlib.contextmanager
def ours(folder: Path, behind: str, kind: str) -> Iterator[tuple[Target, float]]:
    """The gateway with everything on (`full`), or with `fixed` and no records."""
    headers = {}
    source = os.environ.get("ROUTEWRIGHT_SOURCE", str(ROOT / "src"))  # to compare two versions
    if kind == "full":
        store = f"sqlite:///{folder}/full.db"
        policy: dict[str, object] = {"strategy": "auto", "router": str(folder / "router")}
        policy |= {"max_cost_fraction": 0.5, "fallback": ["large"]}
        path = _config(folder, behind, policy, store)
        command = [sys.executable, "-m", "routewright", "keys", "create", "bench", "--json"]
        command += ["--budget", "100000/day", "--rpm", "100000000", "--config", str(path)]
        made = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source}
        )
        headers = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    else:
        path = _config(
            folder, behind, {"strategy": "fixed", "options": {"expert": "small"}}, "none"
        )
    port, log = free_port(), folder / f"ours-{kind}.log"
    command = [sys.executable, "-m", "routewright", "serve", str(path)]
    with process([*command, "--port", str(port)], 0, log, PYTHONPATH=source) as child:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        target = Target(f"routewright, {kind}", url, (child.pid,), headers, "auto")
        yield target, ready_seconds(target, child, log)


# --- peers ---------------------------------------------------------------------------------


def _venv(name: str, requirement: str) -> Path:
    """The Python of a virtual environment with a peer. Raises Skipped if pip cannot install it."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", requirement]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if ran.returncode:
            raise Skipped(f"pip install {requirement}: {ran.stderr[-200:]}")
        (folder / "installed").touch()
    return python


TENSORZERO = """
import sys, time
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None,
                              valkey_url=None, async_setup=False)
print(gateway.base_url, flush=True)
time.sleep(1e9)
"""


@contextlib.contextmanager
def tensorzero(folder: Path, behind: str) -> Iterator[tuple[Target, float]]:
    python, log = _venv("tensorzero", "tensorzero"), folder / "tensorzero.log"
    config = folder / "tensorzero.toml"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n"
        '[models.echo]\nrouting = ["up"]\n[models.echo.providers.up]\ntype = "openai"\n'
        f'model_name = "echo"\napi_base = "{behind}/"\napi_key_location = "none"\n'
    )
    began = time.perf_counter()
    with process([python, "-c", TENSORZERO, config], 0, log) as child:
        while "http" not in (text := log.read_text()) and child.poll() is None:
            time.sleep(0.01)
        url = next((word for word in text.split() if word.startswith("http")), "")
        if not url:
            raise Skipped(text[-300:])
        url = url.removesuffix("/").removesuffix("/openai/v1") + "/openai/v1/chat/completions"
        model = "tensorzero::model_name::echo"
        target = Target("TensorZero", url, (child.pid,), {}, model)
        ready_seconds(target, child, log)
        yield target, time.perf_counter() - began


@contextlib.contextmanager
def litellm(folder: Path, behind: str) -> Iterator[tuple[Target, float]]:
    python, log, port = _venv("litellm", "litellm[proxy]"), folder / "litellm.log", free_port()
    config = folder / "litellm.yaml"
    parameters = {"model": "openai/echo", "api_base": behind, "api_key": "none"}
    models = [{"model_name": "echo", "litellm_params": parameters}]
    config.write_text(json.dumps({"model_list": models}))
    command: list[str | Path] = [python, "-c", "from litellm import run_server; run_server()"]
    options = ["--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    environment = {"LITELLM_LOG": "ERROR"}
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    with process([*command, *options], 0, log, **environment) as child:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        target = Target("LiteLLM", url, (child.pid,))
        yield target, ready_seconds(target, child, log)


@contextlib.contextmanager
def portkey(folder: Path, behind: str) -> Iterator[tuple[Target, float]]:
    npm, node, place = shutil.which("npm"), shutil.which("node"), PEERS / "portkey"
    if npm is None or node is None:
        raise Skipped("npm is not installed")
    program = place / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "install", "@portkey-ai/gateway"], cwd=place, timeout=600, capture_output=True
        )
    if not program.exists():
        raise Skipped("npm cannot install @portkey-ai/gateway")
    port, log = free_port(), folder / "portkey.log"
    environment = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    command: list[str | Path] = [node, program, f"--port={port}", "--headless"]
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": behind}
    headers["authorization"] = "Bearer none"
    with process(command, 0, log, **environment) as child:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        target = Target("Portkey", url, (child.pid,), headers)
        yield target, ready_seconds(target, child, log)


def installed_mb(name: str) -> float:
    """Megabytes that a peer's installation takes; NaN if it is not one of `PEERS`."""
    folder = PEERS / name.lower()
    if not folder.is_dir():
        return float("nan")
    files = (path.lstat() for path in folder.rglob("*") if not path.is_dir())
    return sum(stat.st_size for stat in files) / 1e6
