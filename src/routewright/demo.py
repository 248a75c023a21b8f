"""Runs the demo: interviews, routes and serves three tiny language models on this machine."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from routewright import files
from routewright.config import Config, load
from routewright.data import outcomes
from routewright.data.queries import Item
from routewright.errors import BadInput
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.figures import Evaluation
from routewright.experts.client import Client
from routewright.fitting.fit import fit
from routewright.grading.graders import Graders
from routewright.interview import interview
from routewright.router.router import Router
from routewright.sandbox.skills import Question, questions
from routewright.types import Query

Result = TypeVar("Result")
LEARN, CHECK = 400, 300  # questions for `train` and for `dev`
ENCODER = "lexical+surface"  # because the gateway's queries have no domain
HALF = "0.5"

CONFIG = """\
# Three tiny language models that run in this process, and a router that chooses among them.
version: 1
experts:
  - name: abacus   # a specialist: sums and units
    provider: sandbox
    input_per_mtok: 0.1
    output_per_mtok: 0.1
    data_classes: [public, internal, restricted]
  - name: lexis    # a specialist: words and dates
    provider: sandbox
    input_per_mtok: 0.1
    output_per_mtok: 0.1
    data_classes: [public, internal, restricted]
  - name: sage     # a generalist at ten times the price; its host sees no restricted text
    provider: sandbox
    input_per_mtok: 1.0
    output_per_mtok: 1.0
    data_classes: [public, internal]
policies:
  thrifty:
    strategy: auto
    router: router
    max_cost_fraction: 0.5
    fallback: [sage]
  best:
    strategy: auto
    router: router
    price: 0
    fallback: [sage]
default_policy: thrifty
"""


@dataclass(frozen=True)
class Folder:
    """The files of the demo."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "routewright.yaml"

    @property
    def table(self) -> Path:
        return self.path / "outcomes.parquet"

    @property
    def router(self) -> Path:
        return self.path / "router"

    def prepare(self) -> None:
        """Writes the config. It is not valid yet, because the router is fitted later."""
        files.write(self.config, CONFIG)


@cache
def example() -> Path:
    """A temporary folder with what `routewright demo` makes, of fewer questions: the config
    `routewright.yaml`, the outcome table `outcomes.parquet` and the folder `router`.

    It takes a few seconds, once, and is deleted when Python ends. Examples use it.
    """
    path = Path(tempfile.mkdtemp(prefix="routewright-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    folder = Folder(path)
    folder.prepare()
    ask_everybody(folder, 0, lambda cell: None, learn=120, check=60)
    rows = outcomes.read(folder.table, split="train")
    fit(rows, encoder=ENCODER, strategy="single").save(folder.router)
    return path


def ask_everybody(
    folder: Folder,
    seed: int,
    on_cell: Callable[[interview.Cell], None],
    learn: int = LEARN,
    check: int = CHECK,
) -> outcomes.Outcomes:
    """Interviews the three models on new questions and writes the outcome table."""
    sample = questions(learn + check, seed=seed)
    items = [_item(q, "train" if n < learn else "dev") for n, q in enumerate(sample)]
    experts = sandbox_experts()

    async def run() -> dict[tuple[str, str], interview.Cell]:
        async with Client(experts) as client:
            graders = Graders(["exact"])
            return await interview.Interview(items, experts, client, graders, on_cell=on_cell).run()

    order = [expert.name for expert in experts]
    interview.write(items, _complete(run()), folder.table, order)
    return outcomes.read(folder.table)


def _complete(work: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns; in a notebook, whose thread has a loop already, by another one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _item(question: Question, split: str) -> Item:
    query = Query.of(question.text, id=question.id, domain=question.skill)
    return Item(query, reference=question.answer, split=split)


def sandbox_experts() -> list[Any]:
    """The experts of the demo's config; they are needed before the router exists."""
    import yaml

    from routewright.config import ExpertConfig

    entries = yaml.safe_load(CONFIG)["experts"]
    return [ExpertConfig.model_validate(entry).expert() for entry in entries]


def learn(folder: Folder, seed: int, progress: Callable[[str, float], None]) -> Evaluation:
    """Fits a router on the training questions, saves it and evaluates it on the others."""
    rows = outcomes.read(folder.table, split="train")
    fit(rows, encoder=ENCODER, seed=seed, progress=progress).save(folder.router)
    return evaluate(Router.load(folder.router), outcomes.read(folder.table, split="dev"))


def pays(figures: dict[str, Any]) -> bool:
    """Whether the router at half of the generalist's cost is better than every single expert."""
    best = max(expert["quality"] for expert in figures["experts"].values())
    return bool(figures["at_cost_fraction"][HALF]["quality"] > best)


@contextmanager
def gateway(folder: Folder, port: int | None) -> Iterator[tuple[str, Config]]:
    """Serves the gateway over HTTP in a thread of this process; yields its URL and config. Without
    a port it takes the usual one, or a free one if that is taken."""
    from routewright.gateway.app import build
    from routewright.gateway.server import Server, url_of

    config = load(folder.config)
    with _listener(port, config.server.port) as listener:
        server = Server(build(config, loopback=True), listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield url_of(listener), config
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def _listener(port: int | None, usual: int) -> socket.socket:
    from routewright.gateway.server import listen

    if port is not None:
        return listen("127.0.0.1", port)
    try:
        return listen("127.0.0.1", usual)
    except BadInput:
        return listen("127.0.0.1", 0)


def show_questions(seed: int) -> list[Question]:
    """New questions, one of each domain."""
    by_domain: dict[str, Question] = {}
    for question in questions(200, seed=seed + 1):
        by_domain.setdefault(question.domain, question)
    return list(by_domain.values())
