"""The books agree: what upstreams counted, what budgets allow, and what the store says."""

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest
from sqlalchemy import func, select

from routewright.records import accounts, keys, schema
from routewright.records.keys import Budget
from routewright.records.store import Store
from upstream import Upstream, asked, running, status

SERVE = "import sys; from routewright.cli.main import run; sys.argv[0] = 'routewright'; run()"
pytestmark = pytest.mark.anyio
PRICE = (1.0, 2.0)  # US$ per million tokens of the upstream's experts


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/books.db"


def store_of(url):
    store = Store(url)
    store.prepare()
    return store


def make(store, name, day=None, month=None, **limits):
    """A key; budgets in US$."""
    with store.begin() as connection:
        return keys.create(connection, name, Budget(day, month), **limits)


def config(folder, url, *experts, policies=None, **server):
    first = {"strategy": "fixed", "options": {"expert": experts[0]["name"]}}
    settings = {
        "version": 1,
        "experts": list(experts),
        "policies": policies or {"default": first},
        "server": {"store": url, "drain_seconds": 5, "linger_seconds": 0, **server},
    }
    path = folder / "routewright.yaml"
    path.write_text(json.dumps(settings))
    return path


class Gateway:
    """`routewright serve` in a process of its own, which may be killed and started again."""

    def __init__(self, path, log="errors"):
        self.path, self.errors = path, path.with_name(log)

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", str(self.path), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=self.errors.open("ab"),
            text=True,
        )
        line = self.process.stdout.readline()
        assert " at " in line, self.errors.read_text()
        self.url = line.split(" at ")[1].strip()
        return self

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=600)


@asynccontextmanager
async def session():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as http:
        yield http


async def ask(http, url, key=None, text="one two three", stream=False, **body):
    """Status, headers and body of a chat completion; status 0 if the connection broke."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"messages": asked(text), "stream": stream, **body}
    try:
        async with http.post(f"{url}/chat/completions", json=body, headers=headers) as reply:
            return reply.status, reply.headers, await reply.text()
    except aiohttp.ClientError:
        return 0, {}, ""


def counted(upstream):
    """US$ of what an upstream has answered to the end."""
    return sum(
        (usage["prompt_tokens"] * PRICE[0] + usage["completion_tokens"] * PRICE[1]) / 1e6
        for usage in upstream.billed
    )


def total(store, table=schema.asks):
    with store.read() as connection:
        return connection.scalar(select(func.coalesce(func.sum(table.c.usd), 0.0)))


def rows(store, table=schema.decisions):
    with store.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(table))]


async def test_a_decision_is_recorded_with_every_ask_and_its_owner(tmp_path, url):
    store = store_of(url)
    key = make(store, "web", team="search", owner="ada")
    weak, strong = Upstream(faults=[status(500)]), Upstream()
    async with running(weak, strong), session() as http:
        experts = weak.expert("weak", retries=0), strong.expert("strong")
        path = config(
            tmp_path,
            url,
            *experts,
            policies={
                "p": {"strategy": "fixed", "options": {"expert": "weak"}, "fallback": ["strong"]}
            },
        )
        gateway = await asyncio.to_thread(Gateway(path).start)
        headers = {"authorization": f"Bearer {key}", "x-routewright-session": "s-1"}
        body = {"messages": asked("my secret plan"), "routewright": {"domain": "maths"}}
        async with http.post(
            f"{gateway.url}/chat/completions", json=body, headers=headers
        ) as reply:
            assert reply.status == 200
            decision = reply.headers["x-routewright-decision-id"]
        await asyncio.to_thread(gateway.stop)
    (row,) = rows(store)
    assert row["id"] == decision
    assert (row["key"], row["team"], row["owner"], row["session"]) == (
        "web",
        "search",
        "ada",
        "s-1",
    )
    assert (row["policy"], row["expert"], row["status"], row["path"]) == (
        *("p", "strong", "ok", "weak:failed>strong"),
    )
    assert row["domain"] == "maths"
    assert row["messages"] is None, "no text is kept unless the config says so"
    assert [expert["propensity"] for expert in row["experts"]] == [1.0, 0.0]
    asks = rows(store, schema.asks)
    assert [(a["expert"], a["status"], a["position"]) for a in asks] == [
        ("weak", "failed", 0),
        ("strong", "ok", 1),
    ]
    assert math.isclose(row["usd"], sum(a["usd"] for a in asks))
    assert b"secret plan" not in (tmp_path / "errors").read_bytes()


@pytest.mark.parametrize("stream", [False, True])
async def test_no_key_exceeds_its_budget_under_64_clients(tmp_path, url, stream):
    """Each answer costs 3 + 2 × 2 = 7 millionths of a US$; the budget allows about 300."""
    store = store_of(url)
    limit = 300 * 7e-6
    key = make(store, "web", day=limit)
    upstream = Upstream(says="hello there", delay=0.001)
    async with running(upstream), session() as http:
        path = config(tmp_path, url, upstream.expert("small"))
        gateway = await asyncio.to_thread(Gateway(path).start)
        statuses = []

        async def client():
            for _ in range(10):
                code, headers, text = await ask(http, gateway.url, key, stream=stream, max_tokens=2)
                statuses.append(code)
                if code == 429:
                    assert "budget of the key 'web'" in text
                    assert int(headers["retry-after"]) > 0

        await asyncio.gather(*(client() for _ in range(64)))
        await asyncio.to_thread(gateway.stop)
    assert set(statuses) == {200, 429}
    assert math.isclose(total(store), counted(upstream), abs_tol=1e-9)
    assert math.isclose(total(store, schema.decisions), counted(upstream), abs_tol=1e-9)
    spent = accounts_of(store)["day"]
    assert math.isclose(spent, counted(upstream), abs_tol=1e-9)
    assert spent <= limit + 1e-12
    assert spent > limit - 100 * 7e-6, "the budget is used, and not only kept"


def accounts_of(store):
    with store.read() as connection:
        (key,) = keys.load(connection).values()
        return accounts.balances(connection, time.time())[key.account]


async def test_a_kill_loses_no_charge_and_leaves_no_half_of_a_decision(tmp_path, url):
    """Whatever a client has got is in the books, over twenty kills at random moments."""
    store = store_of(url)
    key = make(store, "web", month=1.0)
    upstream = Upstream(delay=0.002)
    async with running(upstream), session() as http:
        gateway = Gateway(config(tmp_path, url, upstream.expert("small")))
        seen = set()
        for kill in range(20):
            await asyncio.to_thread(gateway.start)

            async def client(n, gateway=gateway):
                while True:
                    code, headers, text = await ask(
                        http, gateway.url, key, stream=n % 2 == 0, max_tokens=2
                    )
                    if code == 0:
                        return
                    if code == 200 and (n % 2 or "[DONE]" in text):
                        seen.add(headers["x-routewright-decision-id"])

            clients = [asyncio.create_task(client(n)) for n in range(16)]
            await asyncio.sleep(0.2 + 0.037 * kill)
            await asyncio.to_thread(gateway.kill)
            await asyncio.gather(*clients)
        await asyncio.to_thread(gateway.start)
        await asyncio.to_thread(gateway.stop)
    decisions = {row["id"]: row for row in rows(store)}
    asks = rows(store, schema.asks)
    assert len(seen) > 20
    assert seen <= set(decisions), "a client has an answer that nobody has recorded"
    assert {row["decision"] for row in asks} == {i for i, row in decisions.items() if row["usd"]}
    for row in decisions.values():
        paid = [a["usd"] for a in asks if a["decision"] == row["id"]]
        assert math.isclose(row["usd"], sum(paid), abs_tol=1e-12)
    spent = accounts_of(store)
    assert math.isclose(spent["ever"], total(store), abs_tol=1e-9)
    assert rows(store, schema.reservations) == []
    missing = counted(upstream) - total(store)
    assert -1e-9 <= missing <= spent["unsure"] + 1e-9, "what is not sure counts against the budget"
