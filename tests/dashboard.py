"""A gateway with a router, keys, budgets and some traffic, for the tests of the dashboard and for
the pictures of the documentation."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import update

from routewright import config, demo
from routewright.gateway.app import build
from routewright.gateway.server import Server, listen, url_of
from routewright.records import keys, schema
from routewright.records.keys import Budget
from routewright.records.store import Store
from routewright.sandbox.skills import grade, questions

ADMIN = "admin-key-of-the-tests"
MORE = """\
  careful:
    strategy: cascade
    options: {ladder: [abacus, sage], trust: 0.6}
    fallback: [sage]
default_policy: thrifty
server:
  admin_key: %s
  records: {prompts: %s}
"""


@dataclass
class Gateway:
    """A running gateway: its folder, its URL, and the keys of its clients by name."""

    folder: Path
    url: str
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "routewright.yaml"

    def post(self, path: str, body: dict, key: str) -> tuple[dict, dict[str, str]]:
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply), dict(reply.headers)

    def ask(self, text: str, key: str, model: str = "auto") -> tuple[str, str]:
        """The answer to a question, and the id of its decision."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        reply, headers = self.post("/v1/chat/completions", body, self.keys[key])
        return reply["choices"][0]["message"]["content"], headers["x-routewright-decision-id"]

    def traffic(self, number: int, scored: bool = True) -> None:
        """Asks so many questions with two keys by three policies, and scores the answers."""
        models = ("auto", "auto", "best", "auto", "careful")
        for place, question in enumerate(questions(number, seed=7)):
            key = ("web", "batch")[place % 3 == 2]
            text, decision = self.ask(question.text, key, models[place % len(models)])
            if scored:
                score = {"decision_id": decision, "score": grade(question, text)}
                self.post("/v1/feedback", score, self.keys[key])

    def spread(self, seconds: float) -> None:
        """Moves the records back in time, so that they cover a period of so many seconds."""
        store = Store("sqlite:///routewright.db", self.folder)
        with store.begin() as connection:
            rows = connection.execute(
                schema.decisions.select().order_by(schema.decisions.c.at)
            ).all()
            for place, row in enumerate(rows):
                share = 1 - (place + 1) / len(rows)
                hour = share * 24 % 24
                back = seconds * share * (1 - 0.12 * (hour % 3))
                for table, name in ((schema.decisions, "id"), (schema.asks, "decision")):
                    match = table.c[name] == row.id
                    connection.execute(update(table).where(match).values(at=table.c.at - back))
        store.close()


@contextmanager
def running(folder: Path, prompts: str = "full") -> Iterator[Gateway]:
    """A gateway in a thread, with the demo's experts and router, in a folder of its own."""
    text = demo.CONFIG.replace("default_policy: thrifty\n", MORE % (ADMIN, prompts))
    path = copied(folder, text)
    store = Store("sqlite:///routewright.db", folder)
    store.prepare()
    with store.begin() as connection:
        tokens = {
            "web": keys.create(
                connection, "web", Budget(day=5.0, month=100.0), team="shop", rpm=600
            ),
            "batch": keys.create(connection, "batch", Budget(month=0.001), owner="ada"),
            "ops": keys.create(connection, "ops", admin=True),
        }
    store.close()
    with serving(path) as url:
        yield Gateway(folder, url, tokens)


def copied(folder: Path, text: str) -> Path:
    """A folder with the demo's router and another config; gives the path of the config."""
    shutil.copytree(demo.example(), folder, dirs_exist_ok=True)
    path = folder / "routewright.yaml"
    path.write_text(text)
    return path


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """Serves a config file on a free port, in a thread; yields the URL."""
    with listen("127.0.0.1", 0) as listener:
        app = build(config.load(path), lambda: config.load(path), loopback=True)
        ready = threading.Event()
        server = Server(app, listener, lambda url: ready.set())
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        assert ready.wait(600)
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join(60)
