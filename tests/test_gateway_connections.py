"""What a client may do to the gateway's socket, with both of the parsers that read it."""

import asyncio
import errno
import json
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import aiohttp
import psutil
import pytest

from routewright.config import Config
from routewright.errors import UpstreamError
from routewright.experts import resources
from routewright.gateway import connections
from routewright.gateway.app import build
from routewright.gateway.server import Server, listen, url_of
from upstream import Upstream, asked, config_of, hang, running, until, wait_until

PARSERS = ["h11", "httptools"]
NOWHERE = {"name": "small", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
KEYS = {"server": {"api_keys": ["secret"]}}
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(params=PARSERS)
def http(request):
    if request.param == "httptools":
        pytest.importorskip("httptools", reason="needs the extra 'fast'")
    return request.param


@asynccontextmanager
async def door(config, http="auto", most=None, load=None, loopback=True):
    """The gateway as `serve` runs it; gives its server and its port."""
    with listen("127.0.0.1", 0) as listener:
        ready = asyncio.Event()
        app = build(config, load, loopback=loopback)
        server = Server(app, listener, lambda url: ready.set(), http)
        if most is not None:
            server._clients.most, server._clients.spare = most, 2
        port = int(url_of(listener).rpartition(":")[2])
        work = asyncio.create_task(server.serve())
        await asyncio.wait({work, asyncio.create_task(ready.wait())}, return_when="FIRST_COMPLETED")
        try:
            yield server, port
        finally:
            server.should_exit = server.force_exit = True
            await work


def at_door(talk, http="auto", most=None, config=None, **sections):
    """Runs `talk(port)` in front of a gateway whose expert nobody serves."""

    async def run():
        async with door(config or config_of(NOWHERE, **sections), http, most) as (_, port):
            async with asyncio.timeout(60):
                return await talk(port)

    return asyncio.run(run())


async def reply(reader):
    """The status, the headers and the body of one reply; (0, {}, b"") if there is none."""
    line = await reader.readline()
    if not line:
        return 0, {}, b""
    headers = {}
    while line_ := (await reader.readline()).strip():
        name, _, value = line_.decode().partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" not in headers:
        return int(line.split()[1]), headers, b""
    return int(line.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def sending(*parts, pause=0.0):
    """Sends the parts, one after the other, and reads one reply."""

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(reply(reader))
        for part in parts:
            if answer.done():
                break
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        answer = await answer
        writer.close()
        return answer

    return talk


def code(answer):
    return answer[0], json.loads(answer[2])["error"]["code"]


# --- the head of a request -----------------------------------------------------------------

LARGE = b"X: " + b"y" * 70_000 + b"\r\n"
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(7_000))


@pytest.mark.parametrize("headers", [LARGE, MANY])
def test_large_headers_are_refused_before_the_key_is_looked_at(http, headers):
    assert code(at_door(sending(GET + headers + b"\r\n"), http, **KEYS)) == (
        431,
        "headers_too_large",
    )


def test_a_long_address_counts_as_a_header(http):
    long = GET.replace(b"models", b"models/" + b"y" * 70_000) + b"\r\n"
    assert at_door(sending(long), http)[0] == 431


@pytest.mark.parametrize(
    "endless",
    [
        [GET + b"X: "] + [b"y" * 8192] * 100,
        [GET] + [b"X: y\r\n" * 1000] * 100,
        [b"GET /" + b"y" * 8192] + [b"y" * 8192] * 100,
    ],
)
def test_headers_without_end_are_refused_while_they_come(http, endless):
    assert code(at_door(sending(*endless, pause=0.001), http, **KEYS)) == (431, "headers_too_large")


def test_headers_below_the_limit_pass(http):
    large = b"X: " + b"y" * 60_000 + b"\r\n\r\n"
    assert at_door(sending(GET + large), http)[0] == 200


def test_a_request_after_a_large_body_is_not_taken_for_a_large_head(http):
    """Not even if the end of the body is read at once with the beginning of the next head."""

    async def run():
        async with door(config_of(NOWHERE), http) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: server.server_state.connections)
            (connection,) = server.server_state.connections
            head = POST.replace(b"chat/completions", b"feedback")
            connection.data_received(head + b"Content-Length: 100001\r\n\r\n ")
            connection.data_received(b" " * 100_000 + GET)
            first = await reply(reader)
            writer.write(b"\r\n")
            second = await reply(reader)
            writer.close()
            return first[0], second[0]

    assert asyncio.run(run()) == (404, 200)


def test_what_is_no_http_is_told_so_in_json(http):
    assert code(at_door(sending(b"hello\r\n\r\n"), http)) == (400, "bad_http")


def test_the_end_of_a_chunked_body_is_bounded_too(http):
    body = b'5\r\n{"a":\r\n2\r\n1}\r\n0\r\n'
    parts = [POST + b"Transfer-Encoding: chunked\r\n\r\n" + body, *[b"X: y\r\n" * 1000] * 200]
    assert at_door(sending(*parts, pause=0.005), http)[0] == 0  # closed without a word


# --- slow clients --------------------------------------------------------------------------


BODY = json.dumps({"messages": asked()}).encode()
LENGTH = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (
    *(BODY[:5], len(BODY) - 5, BODY[5:]),
)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n"
SOCKET = b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: x\r\n"


@pytest.mark.parametrize("wish", [H2C, SOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("body", [LENGTH, CHUNKS], ids=["length", "chunks"])
@pytest.mark.parametrize("pieces", [1, 2, 30])
def test_a_client_that_would_rather_speak_another_protocol_is_answered_in_this_one(
    http, wish, body, pieces
):
    """As the HTTP client of Java does with its first request, and with every WebSocket."""

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = POST + wish + body
        size = -(-len(request) // pieces)
        for start in range(0, len(request), size):
            writer.write(request[start : start + size])
            await asyncio.sleep(0.001 if pieces > 1 else 0)
        first = await reply(reader)
        writer.write(GET + b"\r\n")
        second = await reply(reader)
        writer.close()
        return first, second

    async def run():
        async with running(upstream := Upstream()):
            return await talk_to(config_of(upstream.expert("small")), talk)

    async def talk_to(config, talk):
        async with door(config, http) as (_, port), asyncio.timeout(60):
            return await talk(port)

    (status, _, answer), (second, _, models) = asyncio.run(run())
    assert status == 200
    assert json.loads(answer)["choices"][0]["message"]["content"] == "hello there"
    assert (second, json.loads(models)["object"]) == (200, "list")


def test_an_error_behind_such_a_wish_is_told_too(http):
    request = POST + H2C + b"Content-Length: no number\r\n\r\n"
    assert at_door(sending(request), http)[0] == 400


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
def test_a_head_that_does_not_come_to_its_end_is_given_up(http, before, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if before:
            writer.write(before)
            assert (await reply(reader))[0] == 200
        writer.write(GET)  # and not a byte more
        return await reply(reader)

    assert code(at_door(talk, http)) == (408, "request_timeout")


def test_a_head_that_comes_byte_by_byte_is_given_up(http, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    drops = [GET] + [b"X"] * 5000
    assert code(at_door(sending(*drops, pause=0.02), http)) == (408, "request_timeout")


def test_a_connection_without_a_word_is_closed_without_one(http, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    assert at_door(sending(), http) == (0, {}, b"")


@pytest.mark.parametrize("start", [b"", b"{"])
def test_a_body_that_does_not_come_is_given_up(http, start, monkeypatch):
    monkeypatch.setattr("routewright.gateway.middleware.BODY_SECONDS", 0.3)
    begun = POST + b"Content-Length: 9\r\n\r\n" + start
    assert code(at_door(sending(begun), http)) == (408, "request_timeout")


def test_a_body_in_drops_is_given_up(http, monkeypatch):
    monkeypatch.setattr("routewright.gateway.middleware.BODY_SECONDS", 0.3)
    drops = [POST + b"Content-Length: 9999\r\n\r\n"] + [b" "] * 5000
    assert code(at_door(sending(*drops, pause=0.02), http)) == (408, "request_timeout")


def test_without_a_key_nobody_waits_for_the_body(http, monkeypatch):
    """And a client that goes on sending it is cut off."""
    monkeypatch.setattr(connections, "REST_SECONDS", 0.3)

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"Content-Length: 9999\r\n\r\n")
        status, *_ = await reply(reader)
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        return status

    assert at_door(talk, http, **KEYS) == 401


def test_an_idle_connection_is_closed_after_the_time_that_the_config_says(http):
    assert config_of(NOWHERE).server.idle_seconds == 75

    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(GET + b"\r\n")
            assert (await reply(reader))[0] == 200
        return await reader.read()

    assert at_door(talk, http, server={"idle_seconds": 0.3}) == b""


LONG = [POST + b"Content-Length: 900000\r\n\r\n"] + [b" " * 90_000] * 10


def test_an_idle_connection_stays_open_for_as_long(http):
    async def run():
        config = config_of(NOWHERE, server={"idle_seconds": 60})
        async with door(config, http) as (server, port):
            server.config.timeout_keep_alive = 0.1  # uvicorn's own, which does not matter
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for pause in (0.4, 0):
                writer.write(GET + b"\r\n")
                assert (await reply(reader))[0] == 200
                await asyncio.sleep(pause)
            writer.close()

    asyncio.run(run())


# --- too many ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_first_request_although_others_wait_behind_it(
    http, stream, caplog
):
    body = json.dumps({"messages": asked(), "stream": stream}).encode()
    request = POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    async def run():
        async with (
            running(upstream := Upstream(faults=[hang])),
            door(config_of(upstream.expert("small")), http) as (_, port),
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request * 3)
            await until(lambda: upstream.requests)
            writer.transport.abort()
            await until(lambda: upstream.cancelled)
            return upstream.requests

    assert asyncio.run(run()) == 1
    assert "Traceback" not in caplog.text


def test_beyond_the_connections_that_there_are_clients_are_told_to_come_again(http):
    upstream = Upstream(faults=[hang] * 3)

    async def run():
        async with running(upstream):
            config = config_of(upstream.expert("small"))
            async with door(config, http, most=3) as (server, port):
                url, body = f"http://127.0.0.1:{port}", {"messages": asked()}
                own = aiohttp.TCPConnector(limit=0, force_close=True)
                async with aiohttp.ClientSession(connector=own) as session:

                    async def ask():
                        async with session.post(f"{url}/v1/chat/completions", json=body) as got:
                            return got.status, dict(got.headers), await got.json()

                    busy = [asyncio.create_task(ask()) for _ in range(3)]
                    await until(lambda: upstream.requests == 3)
                    answers = await asyncio.gather(*(ask() for _ in range(12)))
                    assert (await sending(*LONG, pause=0.01)(port))[0] == 503
                    async with session.get(f"{url}/health") as health:
                        assert health.status == 200, "a probe is answered whatever happens"
                    for task in busy:
                        task.cancel()
                    await until(lambda: server._clients.open <= 2)
                    assert (await ask())[0] == 200
                    async with session.get(f"{url}/metrics") as metrics:
                        text = await metrics.text()
                return answers, text

    answers, metrics = asyncio.run(run())
    assert {status for status, _, _ in answers} == {503}
    assert {headers["Retry-After"] for _, headers, _ in answers} == {"1"}
    assert {body["error"]["code"] for _, _, body in answers} == {"too_many_connections"}
    assert upstream.requests == 4, "nothing was spent on those that were refused"
    assert 'routewright_refusals_total{reason="too_many_connections"} 13.0' in metrics


def test_idle_connections_make_room_for_new_ones(http, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)

    async def talk(port):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in idle:
            writer.write(GET + b"\r\n")
            await reply(reader)
        answer = await sending(GET + b"\r\n")(port)
        return answer[0], await idle[0][0].read()

    assert at_door(talk, http, most=3) == (200, b"")


def test_a_queue_holds_what_it_may_and_then_says_429(http):
    upstream = Upstream(faults=[hang])

    async def run():
        server = {"max_concurrency": 1, "queue": 1}
        async with running(upstream):
            config = config_of(upstream.expert("small"), server=server)
            async with door(config, http) as (server, port), aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/v1/chat/completions"

                async def ask():
                    async with session.post(url, json={"messages": asked()}) as got:
                        return got.status, dict(got.headers), await got.json()

                first = asyncio.create_task(ask())
                await until(lambda: upstream.requests)
                second = asyncio.create_task(ask())
                await until(lambda: server.lifecycle.services.slots.full())
                third = await ask()
                assert upstream.requests == 1
                first.cancel()
                return (await second)[0], third

    second, (status, headers, body) = asyncio.run(run())
    assert (second, status, headers["Retry-After"]) == (200, 429, "1")
    assert body["error"]["code"] == "queue_full"


# --- descriptors ---------------------------------------------------------------------------

LIMITED = """\
import asyncio, json, os, resource, sys, threading
from pathlib import Path
soft, hard, config = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
from routewright.config import load
from routewright.gateway.server import run
held = []

def obey():
    for line in sys.stdin:
        if line == "take\\n":
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                print("taken", flush=True)
        if line == "give\\n":
            while held:
                os.close(held.pop())
            print("given", flush=True)

def ready(url):
    print(url, flush=True)
    threading.Thread(target=obey, daemon=True).start()

resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
run(load(config), "127.0.0.1", 0, ready)
"""


@asynccontextmanager
async def limited(tmp_path, config, soft, hard):
    """The gateway in a process with few descriptors; gives the process and the URL."""
    path = tmp_path / "routewright.yaml"
    path.write_text(json.dumps(config))
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(soft), str(hard), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield process, (await asyncio.to_thread(process.stdout.readline)).strip()
    finally:
        process.kill()
        process.communicate()
        log.close()


async def order(process, word):
    """Lets the process take all descriptors, or give them back."""
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    done = await asyncio.to_thread(process.stdout.readline)
    assert done == {"take": "taken\n", "give": "given\n"}[word]


def two(*upstreams):
    policy = {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}
    experts = [u.expert(n, retries=0) for u, n in zip(upstreams, ("small", "large"), strict=True)]
    return {"version": 1, "experts": experts, "policies": {"default": policy}}


async def many(url, count):
    """Statuses and experts of so many requests at once, each on a connection of its own."""
    own = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=own) as session:

        async def ask():
            async with session.post(
                f"{url}/v1/chat/completions", json={"messages": asked()}
            ) as got:
                body = await got.json()
                expert = got.headers.get("x-routewright-expert")
                return got.status, expert, body.get("error", {}).get("code")

        answers = await asyncio.gather(*(ask() for _ in range(count)))
        async with session.get(f"{url}/health") as health:
            return answers, await health.json()


def test_the_soft_limit_on_open_files_is_raised(tmp_path):
    small, large = Upstream(delay=0.3), Upstream()

    async def run():
        async with (
            running(small, large),
            limited(tmp_path, two(small, large), 64, 4096) as (_, url),
        ):
            return await many(url, 100)

    answers, health = asyncio.run(run())
    assert set(answers) == {(200, "small", None)}
    assert "left_alone" not in health


def test_where_the_limit_is_low_clients_are_told_and_no_expert_is_blamed(tmp_path):
    small, large = Upstream(delay=0.3), Upstream()

    async def run():
        async with (
            running(small, large),
            limited(tmp_path, two(small, large), 128, 128) as (_, url),
        ):
            return await many(url, 100)

    answers, health = asyncio.run(run())
    assert set(answers) == {(200, "small", None), (503, None, "too_many_connections")}
    assert large.requests == 0, "no quality is lost in silence"
    assert "left_alone" not in health


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_lack_of_descriptors_is_a_503_and_counts_against_no_expert(tmp_path, host):
    small = Upstream()

    async def run():
        async with running(small):
            config = two(small, small)
            for expert in config["experts"]:
                expert["base_url"] = expert["base_url"].replace("127.0.0.1", host)
            del config["policies"]["default"]["fallback"]
            async with (
                limited(tmp_path, config, 128, 128) as (process, url),
                aiohttp.ClientSession() as session,
            ):

                async def ask():
                    body = {"messages": asked()}
                    async with session.post(f"{url}/v1/chat/completions", json=body) as got:
                        return got.status, (await got.json()).get("error", {}).get("code")

                async with session.get(f"{url}/health") as health:
                    await health.read()  # so that the session uses this connection again
                # The connection that was made before the first request is in use meanwhile.
                small.faults = [hang]
                busy = asyncio.create_task(many(url, 1))
                await until(lambda: small.requests == 1)
                await order(process, "take")
                lacking = [await ask() for _ in range(8)]
                await order(process, "give")
                answer = await ask()
                async with session.get(f"{url}/health") as health:
                    report = await health.json()
                busy.cancel()
                return lacking, answer, report

    lacking, answer, health = asyncio.run(run())
    assert lacking == [(503, "out_of_resources")] * 8
    assert answer == (200, None)
    assert "left_alone" not in health


def test_the_gateway_accepts_again_once_there_are_descriptors(tmp_path):
    """Meanwhile it waits: it neither spins nor fills the log."""
    small = Upstream()

    async def run():
        async with (
            running(small),
            limited(tmp_path, two(small, small), 128, 128) as (process, url),
        ):
            await order(process, "take")
            asking = [asyncio.create_task(many(url, 1)) for _ in range(5)]
            log = tmp_path / "log"
            await asyncio.to_thread(wait_until, lambda: "be accepted" in log.read_text())
            before = sum(psutil.Process(process.pid).cpu_times()[:2])
            await asyncio.sleep(2)
            spent = sum(psutil.Process(process.pid).cpu_times()[:2]) - before
            lines = log.read_text().splitlines()
            await order(process, "give")
            return spent, lines, [(await work)[0][0][0] for work in asking]

    spent, lines, statuses = asyncio.run(run())
    assert spent < 0.3, "seconds of computing"
    assert len(lines) == 1
    assert "ulimit -n" in lines[0]
    assert statuses == [200] * 5


def test_a_name_server_that_is_down_is_no_fault_of_an_expert(monkeypatch):
    """Another expert may answer meanwhile, and the first one as soon as its name is known."""
    look_up, down = socket.getaddrinfo, True

    def looked_up(host, *arguments, **options):
        if host == "small.example" and down:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        host = "127.0.0.1" if host == "small.example" else host
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    small, large = Upstream(), Upstream()

    async def run():
        nonlocal down
        async with running(small, large):
            settings = two(small, large)
            named = small.url.replace("127.0.0.1", "small.example")
            settings["experts"][0]["base_url"] = named
            async with door(Config.model_validate(settings)) as (_, port):
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                own = aiohttp.TCPConnector(force_close=True)
                async with aiohttp.ClientSession(connector=own) as session:

                    async def ask(model):
                        body = {"messages": asked(), "model": model}
                        async with session.post(url, json=body) as got:
                            answer = await got.json()
                            return answer.get("model") or answer["error"]

                    alone = [await ask("small") for _ in range(6)]
                    backed = await ask("auto")
                    down = False
                    return alone, backed, await ask("small")

    alone, backed, later = asyncio.run(run())
    assert {error["code"] for error in alone} == {"out_of_resources"}
    assert "name server" in alone[0]["message"]
    assert (backed, later) == ("large", "small")


def caused_by(cause):
    error = UpstreamError("small", "no")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "no"), "ulimit -n"),
        (OSError(errno.ENFILE, "no"), "whole system"),
        (OSError(errno.ENOBUFS, "no"), "buffer"),
        (OSError(errno.ENOMEM, "no"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "thread"),
        (socket.gaierror(socket.EAI_AGAIN, "no"), "name server"),
        (OSError(errno.ECONNREFUSED, "no"), None),
        (TimeoutError(), None),
        (socket.gaierror(socket.EAI_NONAME, "no"), None),
        (ValueError("no"), None),
    ],
)
def test_what_this_machine_lacks_is_told_from_what_an_expert_does(error, reason):
    for shape in (error, caused_by(error), caused_by(caused_by(error))):
        assert (reason is None) == (resources.lack(shape) is None)
        assert reason is None or reason in resources.lack(shape)


def test_a_name_that_cannot_be_looked_up_for_want_of_descriptors_is_known_as_such(monkeypatch):
    def full(*arguments):
        raise OSError(errno.EMFILE, "no")

    monkeypatch.setattr("os.open", full)
    assert "ulimit -n" in resources.lack(socket.gaierror(socket.EAI_NONAME, "no"))
