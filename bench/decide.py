"""How long a decision takes at batch 1 on one core, and how fast a router loads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from bench._data import read
from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.router.router import Router
from routewright.types import Query

MINILM = "ROUTEWRIGHT_MINILM"  # names a folder with model.onnx and tokenizer.json
FEW = 1000  # rows to fit on where reading them takes long; a decision then hardly depends on it


def main() -> None:
    train, dev = read("mmlu_experts", "train"), read("mmlu_experts", "dev")
    if train is None or dev is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, source, rows in _sources(train, Path(folder)):
            path = Path(folder) / name
            began = time.perf_counter()
            fit(train.rows(np.arange(rows)), encoder=f"{source}+surface+domain").save(path)
            spent = time.perf_counter() - began
            print(f"{name}: fit on {rows:,} × {len(train.experts)}: {spent:.1f} s")
            print(f"  load in a new process: {_load_ms(path):.0f} ms (wanted: under 200 ms)")
            router = Router.load(path)
            for domain in (True, False):
                queries = [q if domain else Query(q.messages) for q in dev.queries[:300]]
                wall, cpu = _median_ms(router, queries)
                known = "known" if domain else "unknown"
                print(f"  decision, domain {known}: {wall:.2f} ms median, {cpu:.2f} ms processor")


def _sources(train: Outcomes, folder: Path) -> Iterator[tuple[str, str, int]]:
    """Encoders that can be tried here: name, source, rows to fit on."""
    yield "lexical", "lexical", len(train)
    if static := _random_static(train, folder / "static-model"):
        yield "static", f"static={static}", len(train)
    if not (minilm := os.environ.get(MINILM)):
        print(f"MiniLM: skipped, {MINILM} names no folder with model.onnx and tokenizer.json")
        return
    yield "MiniLM", f"sentence={minilm}", FEW
    yield "MiniLM, 8 bits", f"sentence={_eight_bits(Path(minilm), folder / 'eight')}", FEW


def _random_static(train: Outcomes, folder: Path) -> Path | None:
    """A model2vec model of the usual size with random vectors, whose values take no time."""
    try:
        from model2vec import StaticModel
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        print("static: skipped, pip install 'routewright[static,sentence]'")
        return None
    words = dict.fromkeys(w for q in train.queries for w in re.findall(r"\w+|[^\w\s]", q.text))
    numbers = {word: i for i, word in enumerate(["[UNK]", *list(words)[:29_999]])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(numbers), 256)).astype(np.float32)
    StaticModel(vectors, tokenizer).save_pretrained(folder)
    return folder


def _eight_bits(minilm: Path, folder: Path) -> Path:
    """The same model with weights of eight bits, by ONNX Runtime's own tool."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir()
    shutil.copy(minilm / "tokenizer.json", folder)
    quantize_dynamic(minilm / "model.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    return folder


def _median_ms(router: Router, queries: list[Query]) -> tuple[float, float]:
    """Time on the clock and of the processor, with BLAS on one thread, as the gateway runs it.

    On a machine that is busy otherwise the second is the fairer one, and still too high.
    """
    router.predict(queries[:20])
    times = []
    with threadpool_limits(1, user_api="blas"):
        for query in queries:
            strategy = router.strategy(100.0)
            began = time.perf_counter(), time.thread_time()
            next(strategy.plan(query))
            times.append((time.perf_counter() - began[0], time.thread_time() - began[1]))
    wall, cpu = np.median(times, axis=0) * 1e3
    return float(wall), float(cpu)


def _load_ms(path: Path) -> float:
    """After the interpreter and NumPy are up: our own imports and reading the folder."""
    script = (
        "import time, numpy; t = time.perf_counter();"
        f"from routewright.router.router import Router; Router.load({str(path)!r});"
        "print(1e3 * (time.perf_counter() - t))"
    )
    runs = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True).stdout)
        for _ in range(5)
    ]
    return float(np.median(runs))
