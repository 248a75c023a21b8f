"""How `serve` stops, reads its config again, and logs: as a process that gets real signals."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import aiohttp
import psutil
import pytest

from routewright.config import load
from routewright.errors import BadInput
from routewright.experts.client import Client
from routewright.gateway import lifecycle, logs
from routewright.types import Expert
from test_gateway_connections import door
from upstream import Upstream, asked, begin, config_of, hang, running, send, until, wait_until

SERVE = "import sys; from routewright.cli.main import run; sys.argv[0] = 'routewright'; run()"
PATIENT = {"linger_seconds": 60, "drain_seconds": 120}


class Process:
    """`routewright serve` with a config of its own, its URL, and what it has logged."""

    def __init__(self, folder, settings):
        self.file, self.errors = folder / "routewright.yaml", folder / "errors"
        self.settings = settings
        self.write()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", str(self.file), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=self.errors.open("wb"),
            text=True,
            env={**os.environ, "ADMIN": "admin-secret"},
        )

    def write(self):
        self.file.write_text(json.dumps(self.settings))

    def log(self):
        return self.errors.read_text()

    def lines(self):
        """The lines about requests."""
        lines = [json.loads(line) for line in self.log().splitlines()]
        return [line for line in lines if line["event"] != "log"]

    def send(self, number):
        self.process.send_signal(number)

    async def ended(self):
        return await asyncio.to_thread(self.process.wait, 600)


@asynccontextmanager
async def process(folder, *experts, **server):
    """The process, a session and the URL of its chat completions."""
    policy = {"strategy": "fixed", "options": {"expert": experts[0]["name"]}}
    settings = {"version": 1, "experts": list(experts), "policies": {"default": policy}}
    gateway = Process(folder, {**settings, "server": server})
    line = await asyncio.to_thread(gateway.process.stdout.readline)
    gateway.url = line.split(" at ")[1].strip().removesuffix("/v1")
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(100)) as session:
            gateway.session = session
            yield gateway
    finally:
        gateway.process.kill()
        gateway.process.communicate()


async def chat(gateway, stream=False, model="auto"):
    body = {"messages": asked(), "stream": stream, "model": model}
    return await gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body)


async def get(gateway, path):
    async with gateway.session.get(gateway.url + path) as reply:
        return reply.status, await reply.json()


async def reload(gateway, key="admin-secret"):
    headers = {"authorization": f"Bearer {key}"}
    async with gateway.session.post(f"{gateway.url}/admin/reload", headers=headers) as reply:
        return reply.status, await reply.json()


async def port_closed(gateway):
    with suppress(aiohttp.ClientError):
        while True:
            await get(gateway, "/ready")
            await asyncio.sleep(0.01)


def after(event):
    """A stream that writes one word, and the other one after the event."""

    async def fault(upstream, request, body):
        reply = await begin(request)
        await send(reply, {"content": "first"})
        await event.wait()
        await send(reply, {"content": " last"})
        await send(reply, {}, finish_reason="stop")
        return reply

    return fault


def run(work, *upstreams):
    async def inside():
        async with running(*upstreams), asyncio.timeout(100):
            return await work()

    return asyncio.run(inside())


# --- stopping ------------------------------------------------------------------------------


def test_sigterm_turns_ready_off_and_still_answers(tmp_path):
    finish, upstream = asyncio.Event(), Upstream()
    upstream.faults = [after(finish)]

    async def work():
        async with process(tmp_path, upstream.expert("small"), **PATIENT) as gateway:
            stream = await chat(gateway, stream=True)
            assert (await get(gateway, "/ready"))[0] == 200
            gateway.send(signal.SIGTERM)
            while (ready := await get(gateway, "/ready"))[0] == 200:
                await asyncio.sleep(0.01)
            assert ready == (503, {"status": "stopping"})
            await asyncio.sleep(0.5)  # until a gateway that does not linger has closed its port
            late = await chat(gateway)
            assert (late.status, late.headers["connection"]) == (200, "close")
            finish.set()
            return await stream.text()

    assert "last" in run(work, upstream)


def test_what_is_in_progress_at_a_sigterm_finishes(tmp_path):
    finish, upstream = asyncio.Event(), Upstream()
    upstream.faults = [after(finish)]
    server = {"linger_seconds": 0, "drain_seconds": 120}

    async def work():
        async with process(tmp_path, upstream.expert("small"), **server) as gateway:
            stream = await chat(gateway, stream=True)
            gateway.send(signal.SIGTERM)
            await port_closed(gateway)
            finish.set()
            text = await stream.text()
            return text, await gateway.ended(), gateway.lines()

    text, exit_code, lines = run(work, upstream)
    assert text.endswith("data: [DONE]\n\n")
    assert exit_code == 0
    assert [line["status"] for line in lines] == ["ok"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_signal_ends_at_once_and_every_cut_request_is_logged(tmp_path, stream):
    upstream = Upstream(faults=[after(asyncio.Event()) if stream else hang])
    server = {"linger_seconds": 3000, "drain_seconds": 3000}

    async def work():
        async with process(tmp_path, upstream.expert("small"), **server) as gateway:
            asking = asyncio.create_task(chat(gateway, stream=stream))
            await until(lambda: asking.done() if stream else upstream.requests)
            gateway.send(signal.SIGTERM)
            await until(lambda: "stopping" in gateway.log())
            gateway.send(signal.SIGINT)
            reply = await asking
            return reply.status, await reply.text(), await gateway.ended(), gateway

    status, text, exit_code, gateway = run(work, upstream)
    check_cut(stream, status, text, gateway.lines())
    assert exit_code == 0
    assert "Traceback" not in gateway.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_finish_in_time_is_told_and_logged(stream, number, caplog):
    caplog.set_level("INFO", "routewright")
    upstream = Upstream(faults=[after(asyncio.Event()) if stream else hang])

    async def work():
        server = {"linger_seconds": 0, "drain_seconds": 0.2}
        config = config_of(upstream.expert("small"), server=server)
        async with door(config) as (gateway, port), aiohttp.ClientSession() as session:
            url, body = f"http://127.0.0.1:{port}/v1/chat/completions", {"messages": asked()}
            asking = asyncio.create_task(session.post(url, json={**body, "stream": stream}))
            await until(lambda: asking.done() if stream else upstream.requests)
            gateway._on_signal(number)
            reply = await asking
            return reply.status, await reply.text()

    check_cut(stream, *run(work, upstream), logged(caplog))


def logged(caplog):
    lines = (record.getMessage() for record in caplog.records)
    return [json.loads(line) for line in lines if line.startswith("{")]


def check_cut(stream, status, text, lines):
    assert status == (200 if stream else 503)
    last = text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == "stopped"
    assert [line["event"] for line in lines] == ["decision", "stopped"]
    assert lines[0]["status"] == "cancelled"
    assert lines[0]["cost"] > 0
    assert lines[0]["request_id"] == lines[1]["request_id"]


def test_a_request_that_still_waits_for_its_turn_is_logged_when_it_is_cut(caplog):
    caplog.set_level("INFO", "routewright")
    upstream = Upstream(faults=[hang])

    async def work():
        server = {"max_concurrency": 1, "queue": 1, "linger_seconds": 0, "drain_seconds": 0.2}
        config = config_of(upstream.expert("small"), server=server)
        async with door(config) as (gateway, port), aiohttp.ClientSession() as session:
            url, body = f"http://127.0.0.1:{port}/v1/chat/completions", {"messages": asked()}
            asking = [asyncio.create_task(session.post(url, json=body)) for _ in range(2)]
            await until(lambda: gateway.lifecycle.services.slots.full())
            gateway._on_signal(signal.SIGTERM)
            return [(await task).status for task in asking]

    assert run(work, upstream) == [503, 503]
    assert [line["event"] for line in logged(caplog)].count("stopped") == 2


# --- reading the config again --------------------------------------------------------------


def test_a_hangup_reads_the_config_again_and_drops_no_request(tmp_path):
    finish, upstream, added = asyncio.Event(), Upstream(), Upstream(says="new")
    upstream.faults = [after(finish)]

    async def work():
        async with process(tmp_path, upstream.expert("small"), linger_seconds=0) as gateway:
            stream = await chat(gateway, stream=True)
            gateway.settings["experts"] = [added.expert("added")]
            gateway.settings["policies"]["default"]["options"] = {"expert": "added"}
            gateway.write()
            gateway.send(signal.SIGHUP)
            while "added" not in str(await get(gateway, "/v1/models")):
                await asyncio.sleep(0.01)
            assert "small" not in str(await get(gateway, "/v1/models"))
            async with await chat(gateway) as reply:
                assert (await reply.json())["model"] == "added"
            finish.set()
            text = await stream.text()
            async with gateway.session.get(f"{gateway.url}/metrics") as metrics:
                return text, await metrics.text()

    text, metrics = run(work, upstream, added)
    assert " last" in text
    assert text.endswith("data: [DONE]\n\n")
    for expert in ("small", "added"):  # the counters go on
        assert f'routewright_answers_total{{expert="{expert}",policy="default"}} 1.0' in metrics


BROKEN = [
    "version: 1\nexperts: []\n",
    "}{",
    '{"version": 1, "experts": [{"name": "a"}], "policies": {"d": {"strategy": "nix"}}}',
]


@pytest.mark.parametrize("text", [*BROKEN, None])
def test_a_config_with_mistakes_leaves_the_old_one_in_force(tmp_path, text, caplog):
    upstream, file = Upstream(), tmp_path / "routewright.yaml"

    async def work():
        server = {"admin_key": "admin-secret"}
        config = config_of(upstream.expert("small"), server=server)
        if text is not None:
            file.write_text(text)
        async with door(config, load=lambda: load(file)) as (server, port):
            server._on_signal(signal.SIGHUP)
            await until(lambda: "stays in force" in caplog.text)
            async with aiohttp.ClientSession() as session:
                gateway = SimpleNamespace(session=session, url=f"http://127.0.0.1:{port}")
                answer = await reload(gateway)
                async with await chat(gateway) as reply:
                    return answer, (await reply.json())["model"]

    (status, body), model = run(work, upstream)
    assert (status, model) == (400, "small")
    assert "routewright.yaml" in body["error"]["message"]
    assert "Traceback" not in caplog.text


def test_a_file_that_cannot_be_read_in_an_unforeseen_way_leaves_the_old_config_too(caplog):
    def fails():
        raise RecursionError("deep")

    async def work():
        config = config_of({"name": "small", "provider": "sandbox", "model": "lexis"})
        async with door(config, load=fails) as (server, _):
            before = server.lifecycle.services
            with pytest.raises(BadInput, match="RecursionError"):
                await server.lifecycle.reload()
            assert server.lifecycle.services is before

    asyncio.run(work())
    assert "stays in force" in caplog.text


def test_a_reload_by_http_needs_the_admin_key_and_says_what_a_restart_needs(tmp_path):
    upstream = Upstream()

    async def work():
        server = {"admin_key": "${ADMIN}", "api_keys": ["client-secret"]}
        async with process(tmp_path, upstream.expert("small"), **server) as gateway:
            refused = [(await reload(gateway, key))[0] for key in ("", "wrong", "client-secret")]
            gateway.settings["server"] |= {"port": 4321, "api_keys": ["other-secret"]}
            gateway.write()
            accepted = await reload(gateway)
            keys = []
            for key in ("client-secret", "other-secret", "admin-secret"):
                headers = {"authorization": f"Bearer {key}"}
                url = f"{gateway.url}/v1/models"
                async with gateway.session.get(url, headers=headers) as reply:
                    keys.append(reply.status)
            await until(lambda: "server.port will change with a restart" in gateway.log())
            return refused, accepted, keys

    refused, accepted, keys = run(work, upstream)
    assert refused == [401, 401, 401]
    assert accepted == (200, {"status": "reloaded", "needs_restart": ["server.port"]})
    assert keys == [401, 200, 401]


def test_without_an_admin_key_nobody_reloads():
    config = config_of({"name": "small", "provider": "sandbox", "model": "lexis"})

    async def work():
        async with (
            door(config, load=lambda: config) as (_, port),
            aiohttp.ClientSession() as session,
        ):
            return await reload(SimpleNamespace(session=session, url=f"http://127.0.0.1:{port}"))

    status, body = asyncio.run(work())
    assert status == 403
    assert "server.admin_key" in body["error"]["message"]


def test_a_reload_that_hangs_does_not_keep_the_gateway_from_its_end(monkeypatch):
    monkeypatch.setattr(lifecycle, "RELOAD_SECONDS", 0.05)
    config = config_of({"name": "small", "provider": "sandbox", "model": "lexis"})
    begun, answers = threading.Event(), threading.Event()

    def hangs():
        begun.set()
        answers.wait()
        return config

    async def work():
        async with asyncio.timeout(60):
            async with door(config, load=hangs) as (server, _):
                server._on_signal(signal.SIGHUP)
                await until(begun.is_set)
            answers.set()

    asyncio.run(work())


def test_feedback_on_decisions_before_a_reload_is_taken_after_it(tmp_path):
    upstream, file = Upstream(), tmp_path / "feedback.jsonl"

    async def work():
        server = {"admin_key": "admin-secret", "feedback": str(file)}
        config = config_of(upstream.expert("small"), server=server)
        async with (
            door(config, load=lambda: config) as (_, port),
            aiohttp.ClientSession() as session,
        ):
            gateway = SimpleNamespace(session=session, url=f"http://127.0.0.1:{port}")
            async with await chat(gateway) as reply:
                decision = reply.headers["x-routewright-decision-id"]
            statuses = [(await reload(gateway))[0] for _ in range(2)]
            body = {"decision_id": decision, "score": 1}
            async with session.post(f"{gateway.url}/v1/feedback", json=body) as reply:
                return statuses, reply.status

    assert run(work, upstream) == ([200, 200], 200)
    assert len(file.read_text().splitlines()) == 1


# --- logs that nobody reads ----------------------------------------------------------------


def test_a_log_that_nobody_reads_stops_neither_answers_nor_the_end(tmp_path):
    """Not even the welcome finds room in the pipe that is both stdout and stderr."""
    upstream = Upstream()
    config = {"version": 1, "experts": [], "policies": {}}
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 64)
    os.set_blocking(writer, True)

    async def work():
        config["experts"] = [upstream.expert("small")]
        config["policies"] = {"default": {"strategy": "fixed", "options": {"expert": "small"}}}
        path = tmp_path / "routewright.yaml"
        path.write_text(json.dumps(config))
        command = [sys.executable, "-c", SERVE, "serve", str(path), "--port", "0"]
        gateway = subprocess.Popen(command, stdout=writer, stderr=writer)
        try:

            def port():
                sockets = psutil.Process(gateway.pid).net_connections("tcp")
                return next((s.laddr.port for s in sockets if s.status == "LISTEN"), None)

            await asyncio.to_thread(wait_until, port)
            async with aiohttp.ClientSession() as session:
                url, body = f"http://127.0.0.1:{port()}", {"messages": asked()}
                statuses = set()
                for _ in range(30):
                    async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                        statuses.add(reply.status)
                async with session.get(f"{url}/health") as reply:
                    statuses.add(reply.status)
            gateway.send_signal(signal.SIGINT)
            return statuses, await asyncio.to_thread(gateway.wait, 100)
        finally:
            gateway.kill()

    try:
        assert run(work, upstream) == ({200}, 0)
    finally:
        os.close(reader)
        os.close(writer)


def test_lines_that_do_not_fit_are_counted_and_told_when_the_log_is_read(monkeypatch):
    monkeypatch.setattr(logs, "LINES", 10)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    before = logs.dropped()
    with open(writer, "w") as stream, open(reader) as log:
        unblocked = logs.Unblocked(stream)
        for number in range(200):
            print(number, "x" * 1000, file=unblocked)
        count = logs.dropped() - before
        assert 100 < count < 200
        lines = [log.readline() for _ in range(200 - count + 1)]
        unblocked.drain(60)
    assert [line for line in lines if "log lines were dropped" in line]
    assert metric("routewright_log_lines_dropped_total") == logs.dropped()


def metric(name):
    async def read():
        config = config_of({"name": "small", "base_url": "http://127.0.0.1:9/v1"})
        async with (
            door(config) as (_, port),
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/metrics") as reply,
        ):
            text = await reply.text()
        return next(float(x.split()[1]) for x in text.splitlines() if x.startswith(f"{name} "))

    return asyncio.run(read())


def test_a_log_whose_reader_is_gone_is_no_failure():
    reader, writer = os.pipe()
    os.close(reader)
    before = logs.dropped()
    with open(writer, "w") as stream:
        unblocked = logs.Unblocked(stream)
        print("a line", file=unblocked)
        unblocked.drain(60)
    assert logs.dropped() == before + 1


# --- the first request ---------------------------------------------------------------------


def test_the_first_request_finds_an_open_connection(tmp_path):
    """And none has been sent, which would count where the provider counts requests."""
    upstream, peers = Upstream(), []

    async def noted(upstream, request, body):
        peers.append(request.transport.get_extra_info("peername"))
        return await upstream.answer(request, body)

    upstream.faults = [noted]

    async def work():
        async with process(tmp_path, upstream.expert("small")) as gateway:
            port = int(upstream.url.removesuffix("/v1").rpartition(":")[2])
            sockets = psutil.Process(gateway.process.pid).net_connections("tcp")
            open_ones = [tuple(s.laddr) for s in sockets if s.raddr and s.raddr.port == port]
            assert upstream.requests == 0
            async with await chat(gateway) as reply:
                assert reply.status == 200
            return open_ones

    assert run(work, upstream) == peers


def test_an_expert_that_does_not_answer_holds_nothing_up():
    class Silent:
        async def warm(self, expert):
            await asyncio.Event().wait()

        async def close(self):
            pass

    class Refusing(Silent):
        async def warm(self, expert):
            raise OSError("no")

    providers = {"silent": Silent(), "refusing": Refusing()}
    experts = [Expert(name, provider=name) for name in providers] + [Expert("x", provider="nix")]

    async def work():
        async with Client(experts, providers=providers) as client, asyncio.timeout(100):
            await client.warm(0.1)

    asyncio.run(work())
