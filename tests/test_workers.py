"""`serve --workers`: processes that share one port, one store, and their sums."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import ClassVar

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from routewright.records import schema
from test_books import (
    SERVE,
    accounts_of,
    ask,
    config,
    counted,
    make,
    rows,
    session,
    store_of,
    total,
)
from upstream import Upstream, hang, running

pytestmark = pytest.mark.anyio
BUDGET = 300 * 7e-6  # US$; each answer costs 3 + 2 × 2 = 7 millionths


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _none_is_left():
    yield
    for process in Gateway.started:
        process.kill()  # its workers end with it
    Gateway.started.clear()


class Gateway:
    """`routewright serve --workers` as a process, and the workers below it."""

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, path, workers):
        self.path, self.errors = path, path.with_name("errors")
        words = ["serve", str(path), "--port", "0", "--workers", str(workers)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *words],
            stdout=subprocess.PIPE,
            stderr=self.errors.open("ab"),
            text=True,
            env={**os.environ, "ADMIN": "admin-secret"},
        )
        self.started.append(self.process)
        self.line = self.process.stdout.readline()
        self.url = self.line.split(" at ")[1].strip() if " at " in self.line else None

    def workers(self):
        """The workers by their numbers."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it has just ended
                words = child.cmdline()
                if "--as-worker" in words:
                    found[int(words[-1].partition(",")[0])] = child
        return found

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.communicate(timeout=100)
        return self.process.returncode


async def begun(path, workers=3):
    gateway = await asyncio.to_thread(Gateway, path, workers)
    assert gateway.url, gateway.errors.read_text()
    return gateway


async def ended(gateway, number=signal.SIGTERM):
    return await asyncio.to_thread(gateway.end, number)


async def until(condition):
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.02)


async def sums(http, gateway, *names):
    """Metrics of the gateway, each over all labels."""
    async with http.get(gateway.url.removesuffix("/v1") + "/metrics") as reply:
        families = list(text_string_to_metric_families(await reply.text()))
    samples = [sample for family in families for sample in family.samples]
    return [sum(s.value for s in samples if s.name == name) for name in names]


def pid_of(store, decision):
    """The process of the worker that has made a decision."""
    (name,) = [row["replica"] for row in rows(store) if row["id"] == decision]
    return int(name.split(":")[-2])


async def test_64_clients_at_the_edge_of_a_budget_over_three_workers(tmp_path):
    """No answer is lost or paid twice, and no worker spends what another one has spent."""
    url = f"sqlite:///{tmp_path}/books.db"
    store = store_of(url)
    key = make(store, "web", day=BUDGET)
    upstream = Upstream(says="hello there", delay=0.001)
    async with running(upstream), session() as http:
        gateway = await begun(config(tmp_path, url, upstream.expert("small"), api_keys=["open"]))
        assert gateway.process.stdout.readline() == "\n", "the welcome is printed once"
        statuses = []

        async def client():
            for _ in range(6):
                code, _, text = await ask(http, gateway.url, key, max_tokens=2)
                statuses.append(code)
                assert code == 200 or "budget of the key 'web'" in text, text

        await asyncio.gather(*(client() for _ in range(64)))
        http.headers["authorization"] = "Bearer open"
        answers, usd, account, replicas = await sums(
            *(http, gateway, "routewright_answers_total", "routewright_cost_usd_total"),
            *("routewright_account_usd_total", "routewright_replicas"),
        )
        assert await ended(gateway) == 0
    assert set(statuses) == {200, 429}
    assert math.isclose(total(store), counted(upstream), abs_tol=1e-9)
    assert math.isclose(total(store, schema.decisions), counted(upstream), abs_tol=1e-9)
    spent = accounts_of(store)["day"]
    assert math.isclose(spent, counted(upstream), abs_tol=1e-9)
    assert BUDGET - 100 * 7e-6 < spent <= BUDGET + 1e-12
    served = {row["replica"] for row in rows(store)}
    assert len(served) > 1, "several workers have answered"
    assert answers == statuses.count(200) == upstream.finished
    assert math.isclose(usd, counted(upstream), abs_tol=1e-9)
    assert account <= spent + 1e-12, "what the store knows is not added up"
    assert replicas == 3
    assert "lock" not in gateway.errors.read_text()


async def test_a_killed_worker_comes_back_and_no_request_of_others_fails(tmp_path):
    upstream = Upstream(says="hello there", delay=0.001)
    url = f"sqlite:///{tmp_path}/books.db"
    store = store_of(url)
    async with running(upstream), session() as http:
        gateway = await begun(config(tmp_path, url, upstream.expert("small")), 2)
        end = asyncio.Event()
        results = [[] for _ in range(8)]

        async def client(got):
            async with session() as own:  # it stays with one worker, as its connection does
                while not end.is_set() and (not got or got[-1][0]):
                    code, headers, _ = await ask(own, gateway.url)
                    got.append((code, headers.get("x-routewright-decision-id")))

        clients = [asyncio.create_task(client(got)) for got in results]
        await until(lambda: all(len(got) > 2 for got in results))
        (before,) = await sums(http, gateway, "routewright_answers_total")
        numbers = {w.pid: n for n, w in gateway.workers().items()}
        pid = pid_of(store, results[0][0][1])
        victim, number = psutil.Process(pid), numbers[pid]
        victim.kill()
        await until(lambda: gateway.workers().get(number, victim) != victim)
        async with session() as new:
            assert [(await ask(new, gateway.url))[0] for _ in range(5)] == [200] * 5
        end.set()
        await asyncio.gather(*clients)
        async with session() as new:
            (after,) = await sums(new, gateway, "routewright_answers_total")
        assert after >= before >= 24, "a sum never falls"
        assert (
            f"worker {number} was killed by signal 9; it is started" in gateway.errors.read_text()
        )
        upstream.faults, before = [hang], upstream.requests
        late = asyncio.create_task(ask(http, gateway.url))
        await until(lambda: upstream.requests > before)
        gateway.process.send_signal(signal.SIGINT)
        await until(lambda: gateway.errors.read_text().count("stopping: ") == 2)
        assert await ended(gateway, signal.SIGINT) == 0, "the second one cuts what is in progress"
        assert (await late)[0] != 200
    for got in results:
        assert {code for code, _ in got} <= {200, 0}
        assert got[-1][0] or pid_of(store, got[-2][1]) == pid, "it was another worker's"
    assert results[0][-1][0] == 0, "its connection has ended with the worker"


async def test_sigterm_lets_requests_of_all_workers_finish(tmp_path):
    release = asyncio.Event()

    async def late(upstream, request, body):
        await release.wait()
        return await upstream.answer(request, body)

    upstream = Upstream(faults=[late, late])
    async with running(upstream), session() as http:
        server = {"drain_seconds": 60, "linger_seconds": 0}
        gateway = await begun(
            config(tmp_path, "none", upstream.expert("small", timeout=60), **server), 2
        )
        asked = [asyncio.create_task(ask(http, gateway.url)) for _ in range(2)]
        await until(lambda: upstream.requests == 2)
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: gateway.errors.read_text().count("stopping: ") == 2)
        release.set()
        assert [(await task)[0] for task in asked] == [200, 200]
        assert await asyncio.to_thread(gateway.process.wait, 100) == 0


async def test_a_reload_reaches_all_workers_and_a_killed_parent_leaves_none(tmp_path):
    weak, strong = Upstream(says="weak"), Upstream(says="strong")
    async with running(weak, strong), session() as http:
        path = config(tmp_path, "none", weak.expert("small"), admin_key="admin-secret")
        gateway = await begun(path)
        config(tmp_path, "none", strong.expert("large"), admin_key="admin-secret")
        base = gateway.url.removesuffix("/v1")
        headers = {"authorization": "Bearer admin-secret"}
        async with http.post(f"{base}/admin/reload", headers=headers) as reply:
            assert reply.status == 200
        for _ in range(12):  # each on a connection of its own
            async with session() as other:
                code, _, text = await ask(other, gateway.url)
            assert (code, json.loads(text)["choices"][0]["message"]["content"]) == (200, "strong")
        config(tmp_path, "none", weak.expert("small"), admin_key="admin-secret")
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: gateway.errors.read_text().count("was read again") == 6)
        workers = list(gateway.workers().values())
        assert len(workers) == 3
        await ended(gateway, signal.SIGKILL)
        await until(lambda: not any(worker.is_running() for worker in workers))


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ({"feedback": "scores.jsonl"}, "only one process can write server.feedback"),
        ({"store": "none", "window": True}, "the window of expert 'small' through the store"),
        ({"port": "x"}, "port"),
        ({"store": "sqlite:///routewright.yaml"}, "cannot be used"),
    ],
)
async def test_mistakes_are_told_once_and_no_worker_is_left(tmp_path, server, reason):
    window = {"window": {"requests": 5, "per": "5h"}} if server.pop("window", False) else {}
    expert = {**Upstream(url="http://127.0.0.1:9/v1").expert("small"), **window}
    path = config(tmp_path, server.pop("store", "none"), expert, **server)
    gateway = await asyncio.to_thread(Gateway, path, 2)
    assert await asyncio.to_thread(gateway.process.wait, 100) == 2
    told = gateway.errors.read_text()
    assert " ".join(told.split()).count(reason) == 1, told
    assert (gateway.line, gateway.process.stdout.read()) == ("", "")


async def test_a_launched_expert_is_started_once_and_ends_with_the_last_worker(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = {
        "command": f"{sys.executable} -m http.server {port} --bind 127.0.0.1",
        "ready": "/",
        "start": "serve",
    }
    expert = {**Upstream(url=f"http://127.0.0.1:{port}/v1").expert("small"), "launch": launch}
    gateway = await begun(config(tmp_path, "none", expert), 2)
    ready = gateway.url.removesuffix("/v1") + "/ready"
    for _ in range(6):  # each on a connection of its own

        async def is_ready():
            async with session() as http, http.get(ready) as reply:
                return reply.status == 200

        async with asyncio.timeout(100):
            while not await is_ready():
                await asyncio.sleep(0.05)
    workers = gateway.workers()
    servers = {n: [p for p in w.children() if str(port) in p.cmdline()] for n, w in workers.items()}
    assert [len(servers[n]) for n in (0, 1)] == [1, 0]
    assert await ended(gateway) == 0
    assert not servers[0][0].is_running()
    log = (tmp_path / ".routewright/experts/small/log").read_text()
    assert log.count("--- ") == 1, "it was started once"
