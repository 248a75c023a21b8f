"""The books agree: what upstreams counted, what budgets allow, and what the store says."""

import asyncio
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress

import aiohttp
import polars
import pytest
from sqlalchemy import func, select

from routewright.gateway.admin import keys_as_rows
from routewright.records import accounts, keys, schema
from routewright.records.keys import Budget
from routewright.records.replicas import recover
from routewright.records.store import Store
from test_openapi import sandbox
from upstream import Upstream, asked, hang, running, status
from upstream import gateway as gateway_of

KILLS = 4 * int(os.environ.get("ROUTEWRIGHT_KILLS", "2"))  # on SQLite; a quarter on PostgreSQL
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

    def start(self, limit=resource.RLIM_INFINITY):
        """Starts it; no file of it may become larger than `limit` bytes."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", str(self.path), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=self.errors.open("ab"),
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
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


def bill(usage):
    """US$ of one answer of an upstream."""
    tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return sum(count * price / 1e6 for count, price in zip(tokens, PRICE, strict=True))


def counted(*upstreams):
    """US$ of what upstreams have answered to the end."""
    return math.fsum(bill(usage) for upstream in upstreams for usage in upstream.billed)


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
    """Whatever a client has got is in the books, over kills at several moments."""
    store = store_of(url)
    key = make(store, "web", month=1.0)
    upstream = Upstream(delay=0.002)
    async with running(upstream), session() as http, asyncio.timeout(600):
        gateway = Gateway(config(tmp_path, url, upstream.expert("small")))
        seen = set()
        for kill in range(KILLS if url.startswith("sqlite") else KILLS // 4):
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

            before = len(seen)
            clients = [asyncio.create_task(client(n)) for n in range(16)]
            while len(seen) == before:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.037 * kill)
            await asyncio.to_thread(gateway.kill)
            await asyncio.gather(*clients)
        await asyncio.to_thread(gateway.start)
        await asyncio.to_thread(gateway.stop)
    decisions = {row["id"]: row for row in rows(store)}
    asks = rows(store, schema.asks)
    assert seen
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


# --- several gateways on one PostgreSQL ----------------------------------------------------


def replicas(folder, url, count, *experts, **server):
    """So many gateways on one store, each with a folder of its own."""
    gateways = []
    for n in range(count):
        place = folder / f"replica{n}"
        place.mkdir()
        gateways.append(Gateway(config(place, url, *experts, **server)))
    return gateways


async def started(gateways):
    await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in gateways))


async def stopped(gateways):
    await asyncio.gather(*(asyncio.to_thread(gateway.stop) for gateway in gateways))


async def test_three_gateways_share_a_budget_through_a_kill_and_a_restart(
    tmp_path, postgres, postgres_url
):
    """2,000 requests at a budget's edge; one gateway is killed and the database is restarted."""
    store = store_of(postgres_url)
    limit = 1_200 * 7e-6
    key = make(store, "web", day=limit)
    upstream = Upstream(says="hello there", delay=0.001)
    async with running(upstream), session() as http:
        gateways = replicas(tmp_path, postgres_url, 3, upstream.expert("small"))
        await started(gateways)
        results, asked_for = [], iter(range(2_000))
        half = asyncio.Event()

        async def client(n):
            for i in asked_for:
                if i == 700:
                    half.set()
                gateway = gateways[n % len(gateways)]
                code, headers, text = await ask(
                    http, gateway.url, key, stream=bool(n % 2), max_tokens=2
                )
                results.append((code, headers.get("x-routewright-decision-id"), text))

        clients = [asyncio.create_task(client(n)) for n in range(64)]
        await half.wait()
        await asyncio.to_thread(gateways[2].kill)
        del gateways[2]
        await asyncio.to_thread(postgres.restart)
        await asyncio.gather(*clients)
        await stopped(gateways)
    codes = {code for code, _, _ in results}
    assert codes <= {200, 429, 0}, [text for code, _, text in results if code >= 500][:3]
    whole = {i for code, i, text in results if code == 200 and '"error"' not in text}
    decisions = {row["id"] for row in rows(store)}
    assert {i for i in whole if i} - decisions == set()
    paid = total(store)
    assert paid <= counted(upstream) + 1e-9
    spent = accounts_of(store)
    assert math.isclose(spent["ever"], paid, abs_tol=1e-9)
    assert counted(upstream) - paid <= spent["unsure"] + 1e-9
    assert paid <= limit + 3 * 7e-6 + 1e-12, "at most one request per gateway too many"
    assert paid > limit / 2


async def test_without_its_store_a_gateway_goes_on_for_a_while_and_then_fails_closed(
    tmp_path, postgres, postgres_url
):
    store = store_of(postgres_url)
    limited, free = make(store, "limited", day=1.0, rpm=100_000), make(store, "free")
    upstream = Upstream()
    async with running(upstream), session() as http:
        (gateway,) = replicas(tmp_path, postgres_url, 1, upstream.expert("small"), grace_seconds=3)
        await started([gateway])
        assert (await ask(http, gateway.url, limited))[0] == 200
        store.close()
        await asyncio.to_thread(postgres.stop)
        for key in (limited, free):
            code, _, text = await ask(http, gateway.url, key)
            assert code == 200, text
        while (await ask(http, gateway.url, limited))[0] == 200:
            await asyncio.sleep(0.1)
        code, headers, text = await ask(http, gateway.url, limited)
        assert (code, json.loads(text)["error"]["code"]) == (503, "store_unavailable")
        assert "retry-after" in headers
        assert (await ask(http, gateway.url, free))[0] == 200, "nothing limits this key"
        assert (await ask(http, gateway.url, "rw-000000000000-" + "x" * 43))[0] == 401
        await asyncio.to_thread(postgres.start)
        while (await ask(http, gateway.url, limited))[0] == 503:
            await asyncio.sleep(0.1)
        await stopped([gateway])
    assert math.isclose(total(store), counted(upstream), abs_tol=1e-9)
    assert len(rows(store)) == upstream.finished
    assert "can be used again" in gateway.errors.read_text()


async def test_a_database_that_does_not_reply_counts_as_down(tmp_path, postgres, postgres_url):
    """Its process is stopped: its connections stay open and no statement fails."""
    store = store_of(postgres_url)
    limited = make(store, "limited", day=1.0, rpm=100_000)
    upstream = Upstream()
    server = {"grace_seconds": 1, "api_keys": ["open"]}
    async with running(upstream), session() as http, asyncio.timeout(600):
        (gateway,) = replicas(tmp_path, postgres_url, 1, upstream.expert("small"), **server)
        await started([gateway])
        assert (await ask(http, gateway.url, limited))[0] == 200
        with postgres.paused():
            while (code := (await ask(http, gateway.url, limited))[0]) == 200:
                await asyncio.sleep(0.1)
            assert code == 503
            for _ in range(100):
                assert (await ask(http, gateway.url, "open"))[0] == 200, "nothing limits it"
        while (await ask(http, gateway.url, limited))[0] == 503:
            await asyncio.sleep(0.1)
        await stopped([gateway])
    assert math.isclose(total(store), counted(upstream), abs_tol=1e-9)
    assert [row["status"] for row in rows(store)].count("ok") == upstream.finished


async def test_a_store_whose_file_is_gone_counts_as_down(tmp_path):
    """Otherwise keys would be limited, and money counted, in a file that nobody finds again."""
    path = tmp_path / "books.db"
    store = store_of(f"sqlite:///{path}")
    limited = make(store, "limited", day=1.0)
    upstream = Upstream()
    async with running(upstream), session() as http, asyncio.timeout(600):
        server = {"grace_seconds": 1, "api_keys": ["open"]}
        gateway = Gateway(config(tmp_path, f"sqlite:///{path}", upstream.expert("small"), **server))
        await started([gateway])
        assert (await ask(http, gateway.url, limited))[0] == 200
        path.rename(tmp_path / "elsewhere.db")
        while (code := (await ask(http, gateway.url, limited))[0]) == 200:
            await asyncio.sleep(0.1)
        assert code == 503
        assert (await ask(http, gateway.url, "open"))[0] == 200
        assert "its file was deleted" in gateway.errors.read_text()
        (tmp_path / "elsewhere.db").rename(path)
        while (await ask(http, gateway.url, limited))[0] == 503:
            await asyncio.sleep(0.1)
        await stopped([gateway])
    assert math.isclose(total(store), counted(upstream), abs_tol=1e-9)
    assert [row["status"] for row in rows(store)].count("ok") == upstream.finished


async def test_two_gateways_that_notice_a_death_count_its_asks_once(postgres_url):
    store = store_of(postgres_url)
    make(store, "web", day=1.0)
    with store.begin() as connection:
        (key,) = keys.load(connection).values()
        held = {"id": "a", "account": key.account, "replica": "dead", "usd": 0.25}
        connection.execute(schema.reservations.insert().values(held))

    def notice():
        with store.begin() as connection:
            recover(connection, ["dead"], time.time())

    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(600):
        with store.begin() as connection:
            recover(connection, ["dead"], time.time())
            other = asyncio.create_task(asyncio.to_thread(notice))
            with store.engine.connect() as watcher:
                while not watcher.exec_driver_sql(blocked).scalar():
                    watcher.rollback()
                    await asyncio.sleep(0.01)
        await other
    assert accounts_of(store)["unsure"] == 0.25


async def test_a_revoked_key_stops_on_every_gateway_within_two_seconds(tmp_path, postgres_url):
    store = store_of(postgres_url)
    key, other = make(store, "web"), make(store, "other")
    upstream = Upstream()
    async with running(upstream), session() as http:
        gateways = replicas(tmp_path, postgres_url, 3, upstream.expert("small"))
        await started(gateways)
        for gateway in gateways:
            assert (await ask(http, gateway.url, key))[0] == 200
        with store.begin() as connection:
            keys.revoke(connection, "web")
        revoked = time.monotonic()
        for gateway in gateways:
            while (await ask(http, gateway.url, key))[0] == 200:
                assert time.monotonic() - revoked < 60
            assert (await ask(http, gateway.url, other))[0] == 200
        code, _, text = await ask(http, gateways[0].url, key)
        assert (code, "was revoked" in text) == (401, True)
        await stopped(gateways)


async def test_a_failing_expert_is_skipped_by_every_gateway(tmp_path, postgres_url):
    broken = Upstream(faults=[status(500)] * 1_000)
    async with running(broken), session() as http:
        gateways = replicas(tmp_path, postgres_url, 2, broken.expert("small", retries=0))
        await started(gateways)
        while "is skipped" not in (await ask(http, gateways[0].url))[2]:
            pass
        for _ in range(6_000):
            async with http.get(gateways[1].url.removesuffix("/v1") + "/health") as reply:
                if (await reply.json()).get("left_alone") == ["small"]:
                    break
            await asyncio.sleep(0.1)
        requests = broken.requests
        assert "is skipped" in (await ask(http, gateways[1].url))[2]
        assert broken.requests == requests
        await stopped(gateways)


# --- limits of keys ------------------------------------------------------------------------


async def test_limits_of_keys_hold_and_are_told(tmp_path, url):
    store = store_of(url)
    slow = make(store, "slow", rpm=3)
    small = make(store, "small-words", tpm=10)
    single = make(store, "single", concurrency=1)
    upstream = Upstream()
    async with running(upstream), session() as http:
        gateway = Gateway(config(tmp_path, url, upstream.expert("small")))
        await started([gateway])
        codes = []
        for _ in range(8):
            code, headers, text = await ask(http, gateway.url, slow)
            codes.append(code)
            assert headers["x-ratelimit-limit-requests"] == "3"
        assert codes.count(200) in (3, 4), "a window slides over two minutes"
        assert json.loads(text)["error"]["code"] == "rpm_reached"
        assert 0 < int(headers["retry-after"]) <= 120
        assert headers["x-ratelimit-remaining-requests"] == "0"
        codes = [(await ask(http, gateway.url, small))[0] for _ in range(4)]
        assert codes[0] == 200
        assert codes[-1] == 429
        upstream.faults = [hang]
        waiting = asyncio.create_task(ask(http, gateway.url, single))
        while not upstream.bodies or upstream.faults:
            await asyncio.sleep(0.01)
        code, _, text = await ask(http, gateway.url, single)
        assert (code, json.loads(text)["error"]["code"]) == (429, "concurrency_reached")
        waiting.cancel()
        while (await ask(http, gateway.url, single))[0] == 429:
            await asyncio.sleep(0.05)
        await stopped([gateway])


async def test_clients_that_leave_leave_no_request_behind(tmp_path, url):
    """They leave at every moment; afterwards none is in progress, and nothing is reserved."""
    store = store_of(url)
    key = make(store, "web", concurrency=4, day=1.0)
    upstream = Upstream(delay=0.01)
    async with running(upstream), session() as http, asyncio.timeout(600):
        gateway = Gateway(config(tmp_path, url, upstream.expert("small")))
        await started([gateway])

        async def leave(n):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.003 * n):
                    await ask(http, gateway.url, key, stream=bool(n % 2))

        for _ in range(12):
            await asyncio.gather(*(leave(n) for n in range(16)))
        while rows(store, schema.running) or rows(store, schema.reservations):
            await asyncio.sleep(0.05)
        assert (await ask(http, gateway.url, key))[0] == 200
        await stopped([gateway])
    assert math.isclose(total(store, schema.decisions), total(store), abs_tol=1e-9)


async def test_a_fallback_that_the_budget_does_not_cover_is_refused_by_name(tmp_path):
    store = store_of(f"sqlite:///{tmp_path}/books.db")
    key = make(store, "web", day=0.001)
    broken, dear = Upstream(faults=[status(500)]), Upstream()
    policies = {
        "p": {"strategy": "fixed", "options": {"expert": "broken"}, "fallback": ["dear"]},
    }
    async with running(broken, dear), session() as http:
        experts = broken.expert("broken", retries=0), dear.expert("dear", output_per_mtok=1e6)
        path = config(tmp_path, f"sqlite:///{tmp_path}/books.db", *experts, policies=policies)
        gateway = Gateway(path)
        await started([gateway])
        code, _, text = await ask(http, gateway.url, key)
        await stopped([gateway])
    assert (code, json.loads(text)["error"]["code"]) == (429, "budget_used_up"), text
    assert "budget of the key 'web'" in text
    assert dear.requests == 0


async def test_a_key_opens_only_what_it_names(tmp_path, url):
    store = store_of(url)
    narrow = make(
        store, "narrow", experts=("small",), policies=("cheap",), data_classes=("internal",)
    )
    upstream = Upstream()
    policies = {
        "cheap": {"strategy": "fixed", "options": {"expert": "small"}},
        "best": {"strategy": "fixed", "options": {"expert": "large"}},
        "wide": {"strategy": "fixed", "options": {"expert": "large"}, "fallback": ["small"]},
    }
    async with running(upstream), session() as http:
        classes = {"data_classes": ["public", "internal", "restricted"]}
        experts = [upstream.expert(name, **classes) for name in ("small", "large")]
        gateway = Gateway(config(tmp_path, url, *experts, policies=policies))
        await started([gateway])
        codes = {
            model: (await ask(http, gateway.url, narrow, model=model))[0]
            for model in ("cheap", "best", "small", "large")
        }
        assert codes == {"cheap": 200, "best": 403, "small": 200, "large": 403}
        bearer = {"authorization": f"Bearer {narrow}"}
        async with http.get(f"{gateway.url}/models", headers=bearer) as reply:
            names = [model["id"] for model in (await reply.json())["data"]]
        assert names == ["auto", "routewright/cheap", "small"]
        body = {"model": "best", "messages": asked()}
        async with http.post(f"{gateway.url}/route", json=body, headers=bearer) as reply:
            assert reply.status == 403
        for data_class, code in {"internal": 200, "public": 403, "restricted": 403}.items():
            limits = {"routewright": {"data_class": data_class}}
            assert (await ask(http, gateway.url, narrow, **limits))[0] == code
        await stopped([gateway])
    classes = {row["data_class"] for row in rows(store)}
    assert classes == {"internal"}, "what is not stated gets the strictest class of the key"


async def test_a_decision_is_scored_at_any_gateway_by_who_asked(tmp_path, postgres_url):
    store = store_of(postgres_url)
    mine, yours = make(store, "mine"), make(store, "yours")
    upstream = Upstream()
    async with running(upstream), session() as http:
        gateways = replicas(tmp_path, postgres_url, 2, upstream.expert("small"))
        await started(gateways)
        _, headers, _ = await ask(http, gateways[0].url, mine)
        body = {"decision_id": headers["x-routewright-decision-id"], "score": 0.5}

        async def score(key, **changes):
            address = f"{gateways[1].url}/feedback"
            bearer = {"authorization": f"Bearer {key}"}
            async with http.post(address, json={**body, **changes}, headers=bearer) as reply:
                return reply.status

        assert await score(yours) == 404
        assert await score(mine, decision_id="unknown") == 404
        assert await score(mine) == 200
        assert await score(mine) == 409
        await stopped(gateways)
    assert [row["score"] for row in rows(store, schema.scores)] == [0.5]


async def test_keys_are_made_and_revoked_over_http(tmp_path, url):
    upstream = Upstream()
    async with running(upstream), session() as http:
        gateway = Gateway(config(tmp_path, url, upstream.expert("small"), admin_key="root"))
        await started([gateway])
        root, bearer = gateway.url.removesuffix("/v1"), {"authorization": "Bearer root"}

        async def admin(method, path, headers=bearer, **body):
            options = {"json": body} if method in ("POST", "PUT") else {}
            async with http.request(
                method, f"{root}/admin/{path}", headers=headers, **options
            ) as r:
                return r.status, await r.json()

        assert (await ask(http, gateway.url))[0] == 200, "as long as there is no key"
        code, made = await admin("POST", "keys", name="web", budget={"day": 1.0}, team="search")
        assert code == 200
        assert (await ask(http, gateway.url))[0] == 401
        assert (await ask(http, gateway.url, made["key"]))[0] == 200
        assert (await admin("POST", "keys", name="web"))[0] == 409
        assert (await admin("POST", "keys", name="bad name"))[0] == 400
        assert (await admin("POST", "keys", name="x", experts=["nobody"]))[0] == 422
        code, listed = await admin("GET", "keys")
        (row,) = listed["data"]
        assert made["key"] not in json.dumps(listed)
        assert (row["name"], row["requests"], row["budget"]["day"]) == ("web", 1, 1.0)
        assert math.isclose(row["spent_usd"], counted(upstream) / 2)
        code, spent = await admin("GET", "spend?by=team")
        assert math.isclose(spent["total_usd"], counted(upstream))
        assert {row["team"] for row in spent["rows"]} == {None, "search"}
        code, told = await admin("GET", "decisions?key=web&limit=5")
        assert [(row["key"], row["status"]) for row in told["data"]] == [("web", "ok")]
        assert (await admin("GET", "decisions?limit=0"))[0] == 400
        assert (await admin("PUT", "budgets/team/search", month=0.0))[0] == 200
        code, _, text = await ask(http, gateway.url, made["key"])
        assert (code, "team 'search'" in text) == (429, True)
        assert (await admin("PUT", "budgets/team/search"))[0] == 200
        code, again = await admin("POST", "keys/web/rotate")
        assert (await ask(http, gateway.url, made["key"]))[0] == 401
        assert (await ask(http, gateway.url, again["key"]))[0] == 200
        client = {"authorization": f"Bearer {again['key']}"}
        assert (await admin("GET", "keys", client))[0] == 401
        for headers, code in ((client, 401), (bearer, 200)):
            async with http.get(f"{root}/metrics", headers=headers) as reply:
                assert reply.status == code, "metrics tell what others have spent"
        assert (await admin("DELETE", "keys/web"))[0] == 200
        assert (await ask(http, gateway.url, again["key"]))[0] == 401
        await stopped([gateway])


async def test_a_full_disk_stops_the_records_and_no_answer(tmp_path):
    """The file of the store may not grow beyond 300 KB."""
    store = store_of(f"sqlite:///{tmp_path}/books.db")
    key = make(store, "web", day=1.0)
    upstream = Upstream()
    async with running(upstream), session() as http:
        path = config(tmp_path, f"sqlite:///{tmp_path}/books.db", upstream.expert("small"))
        gateway = Gateway(path)
        await asyncio.to_thread(gateway.start, limit=300_000)
        for _ in range(600):
            code, _, text = await ask(http, gateway.url, key)
            assert code == 200, text
        async with http.get(gateway.url.removesuffix("/v1") + "/health") as reply:
            assert reply.status == 200
        gateway.kill()
    assert len(rows(store)) < 600
    assert "the store 'books.db' fails" in gateway.errors.read_text()


# --- everything together -------------------------------------------------------------------

TEAMS = {"search": 0.004, "support": 0.05, "research": None}  # US$ per day


async def test_the_books_of_three_teams_agree_with_what_upstreams_counted(
    tmp_path, url, routewright
):
    """2,000 requests, whole, streamed, cascaded and failing, from 64 clients; the gateway is killed
    and started again half-way. Every prompt is told apart, so that every charge can be checked."""
    store = store_of(url)
    tokens = {
        team: make(store, f"{team}-key", day=budget, team=team) for team, budget in TEAMS.items()
    }
    ops = make(store, "ops", admin=True)
    small = Upstream(says=lambda body: "yes it is correct" if "max_tokens" in body else "one two")
    large, broken = (
        Upstream(says="a longer answer than that"),
        Upstream(faults=[status(500)] * 9999),
    )
    policies = {
        "plain": {"strategy": "fixed", "options": {"expert": "small"}},
        "cascade": {"strategy": "cascade", "options": {"ladder": ["small", "large"], "trust": 0.9}},
        "failing": {"strategy": "fixed", "options": {"expert": "broken"}, "fallback": ["large"]},
    }
    kinds = [(policy, stream) for policy in policies for stream in (False, True)]
    delivered = {}  # decision ▶ number of the request, as far as clients have got whole answers
    async with running(small, large, broken), session() as http:
        experts = [
            small.expert("small"),
            large.expert("large"),
            broken.expert("broken", retries=0),
        ]
        path = config(tmp_path, url, *experts, policies=policies, records={"prompts": "full"})
        gateway = Gateway(path)
        await started([gateway])
        numbers, half = iter(range(2_000)), asyncio.Event()
        alive = asyncio.Event()
        alive.set()

        async def client():
            for i in numbers:
                await alive.wait()
                if i == 1_000:
                    half.set()
                policy, stream = kinds[i % len(kinds)]
                team = list(TEAMS)[i % 7 % 3]
                text = f"is it request {i} now"
                code, headers, reply = await ask(
                    http, gateway.url, tokens[team], text, stream, model=policy
                )
                if code == 200 and (not stream or "[DONE]" in reply):
                    delivered[headers["x-routewright-decision-id"]] = i
                elif code not in (0, 200):
                    assert code == 429, reply

        clients = [asyncio.create_task(client()) for _ in range(64)]
        await half.wait()
        alive.clear()
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)
        alive.set()
        await asyncio.gather(*clients)
        metrics = {}
        while abs(metrics.get("total", -1.0) - total(store)) > 1e-9:
            metrics = await read_metrics(http, gateway, ops)
        await stopped([gateway])
    upstreams = small, large, broken
    bills = {}  # number of the request ▶ US$ of what upstreams answered to it
    for upstream in upstreams:
        for usage in upstream.billed:
            number = int(usage["prompt"].split("request ")[1].split()[0])
            bills[number] = bills.get(number, 0.0) + bill(usage)
    decisions = {row["id"]: row for row in rows(store)}
    assert len(delivered) > 700
    for decision, number in delivered.items():
        row = decisions[decision]
        assert math.isclose(row["usd"], bills[number], abs_tol=1e-12), row["path"]
        assert row["messages"][0]["content"] == f"is it request {number} now"
    interrupted = [row for row in decisions.values() if row["status"] == "interrupted"]
    spent = {row["name"]: row for row in listed(store)}
    unsure = sum(row["unsure_usd"] for row in spent.values())
    missing = counted(*upstreams) - total(store)
    assert -1e-9 <= missing <= unsure + 0.05 * counted(*upstreams), interrupted
    for team, budget in TEAMS.items():
        paid = spent[f"{team}-key"]["spent_usd"]
        assert budget is None or paid <= budget + 1e-12
        of_team = sum(row["usd"] for row in rows(store, schema.asks) if row["team"] == team)
        assert math.isclose(paid, of_team, abs_tol=1e-9)
        assert math.isclose(metrics[f"key '{team}-key'"], paid, abs_tol=1e-9)
    code, printed, _ = await asyncio.to_thread(
        routewright, "spend", "--config", path, "--by", "key", "--json"
    )
    assert code == 0
    told = json.loads(printed)
    assert math.isclose(told["total_usd"], total(store), abs_tol=1e-9)
    code, printed, _ = await asyncio.to_thread(routewright, "decisions", "--config", path, "--json")
    assert math.isclose(sum(row["usd"] for row in json.loads(printed)), total(store), abs_tol=1e-9)
    out = tmp_path / "table.parquet"
    code, _, errors = await asyncio.to_thread(routewright, "export", path, "--out", out)
    assert code == 0, errors
    assert math.isclose(exported(out), total(store) - cost_of(interrupted), abs_tol=1e-9)


def listed(store):
    with store.read() as connection:
        return keys_as_rows(connection, time.time())


def cost_of(decisions):
    return math.fsum(row["usd"] for row in decisions)


def exported(path):
    """US$ of all answers in an outcome table."""
    frame = polars.read_parquet(path)
    kinds = ("cost::", "verify_cost::")
    costs = [name for name in frame.columns if name.startswith(kinds)]
    return math.fsum(value or 0.0 for name in costs for value in frame[name])


async def read_metrics(http, gateway, key):
    """US$ by account, and in all."""
    headers = {"authorization": f"Bearer {key}"}
    address = gateway.url.removesuffix("/v1") + "/metrics"
    async with http.get(address, headers=headers) as reply:
        lines = (await reply.text()).splitlines()
    spent = {}
    for line in lines:
        if line.startswith('routewright_account_usd_total{account="'):
            name, value = line.split('account="')[1].split('"} ')
            spent[name] = float(value)
    spent["total"] = sum(usd for name, usd in spent.items() if name.startswith("key"))
    return spent


async def test_the_budget_of_a_month_is_steered_so_that_it_lasts(tmp_path, router_folder):
    """A key has spent most of its month's budget: its queries go to a cheaper point."""
    url = f"sqlite:///{tmp_path}/books.db"
    store = store_of(url)
    steered, other = make(store, "steered", month=1.0), make(store, "other")
    now = time.time()
    if accounts.end_of("month", now) - now < 900:
        pytest.skip("the month is nearly over: no query is to come")
    row = {"replica": "r", "key": "steered", "expert": "sage", "kind": "answer", "status": "ok"}
    with store.begin() as connection:
        asks = [
            {**row, "decision": f"{hour}-{n}", "position": 0, "at": now - 3600 * hour, "usd": 1e-4}
            for hour in range(1, 25)
            for n in range(300)
        ]
        connection.execute(schema.asks.insert(), asks)
        (key,) = [key for key in keys.load(connection).values() if key.name == "steered"]
        balance = {"account": key.account, "period": accounts.periods_of(now)[1], "usd": 0.9999}
        connection.execute(schema.balances.insert().values(balance))
    server = {"store": url}
    async with session() as http, gateway_of(sandbox(router_folder, **server)) as address:
        assert (await ask(http, f"{address}/v1", other))[0] == 200
        for _ in range(6_000):  # the outlook is reckoned beside the first requests
            assert (await ask(http, f"{address}/v1", steered))[0] == 200
            if len({row["because"] for row in rows(store)}) > 1:
                break
            await asyncio.sleep(0.1)
    last = {row["key"]: row for row in sorted(rows(store), key=lambda row: row["at"])}
    assert last["steered"]["because"] != last["other"]["because"]
    assert last["steered"]["lambda"] >= last["other"]["lambda"], "its point is a cheaper one"
