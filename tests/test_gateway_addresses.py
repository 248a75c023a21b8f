"""The addresses of the gateway in every spelling: what serves clients, and what stays locked."""

import asyncio
from contextlib import asynccontextmanager

import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.schemas import BaseSchemaGenerator

from routewright.gateway.app import build
from routewright.gateway.server import listen, url_of
from upstream import Upstream, asked, config_of, gateway, running

KEYS = {"api_keys": ["key-one"], "admin_key": "admin-key"}
OPEN = ("/health", "/ready", "/openapi.json")  # these need no key


async def send(url, method, path, *, key=None, body=b""):
    """The status and the body of a request whose path travels as it is written here."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close"]
    lines += ["content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"authorization: Bearer {key}"] if key else []
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, text = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), text


def spellings(path):
    """Ways to write an address, some of which clients use and some of which only attackers do."""
    short = path.removeprefix("/v1")
    quoted = "".join(f"%{ord(letter):02X}" for letter in path[1:])
    return [
        *(path, f"/{path}", f"//{path}", f"{path}/", f"{path}//", f"{path}?a=/health"),
        *(short, f"/{short}", f"{short}/", f"/v1/{short}", f"/v1/v1{short}", f"/v1{path}"),
        *(path.upper(), path.title(), f"/V1{short}", f"/%56%31{short}"),
        *(path.replace("/", "%2F"), f"/%2F{path[1:]}", f"/{path[1:].replace('/', '%2f')}"),
        *(f"/{quoted}", f"/{quoted.replace('%', '%25')}", path.replace("/", "%252F")),
        *(f"/.{path}", f"/..{path}", f"/health/..{path}", f"/health/%2e%2e{path}", f"/v1/.{short}"),
        *(f"/health{path}", f"/health;{path}", f"/health%00{path}", f"/;{path}", f"\\{path[1:]}"),
        *(f"/\\{path[1:]}", f"http://127.0.0.1{path}", f"http://127.0.0.1/{short}", f"{path}%00"),
        *(f"/ready%2f..{path}", f"/openapi.json{path}", f"{path}%20", f"/%20{path}", f"{path};"),
    ]


def test_no_spelling_of_an_address_is_open_without_a_key():
    """404 and 400: nothing is there. 307 sends the client on, and asks for its key there."""
    upstream = Upstream()

    async def run():
        async with running(upstream):
            config = config_of(upstream.expert("small"), server=KEYS)
            async with gateway(config) as url:
                for route in BaseSchemaGenerator().get_endpoints(build(config).routes):
                    path = route.path.replace("{name:path}", "small").replace("{name}", "small")
                    path = path.replace("{kind}", "key")
                    if path in OPEN:
                        continue
                    for spelling in dict.fromkeys(spellings(path)):
                        status, _ = await send(url, route.http_method.upper(), spelling, body=b"{}")
                        assert status in (307, 400, 401, 404), (route.path, spelling, status)
                        seen.append((spelling, status))

    seen = []
    asyncio.run(run())
    assert upstream.requests == 0
    statuses = dict(seen)
    assert {statuses[path] for path in ("/v1/models", "/models", "//v1/models")} == {401}


BASES = ["", "/", "/v1", "/v1/", "//v1", "/v1//"]


@pytest.mark.parametrize("base", BASES)
def test_a_base_url_serves_with_and_without_v1(base):
    async def run():
        body = b'{"messages": [{"role": "user", "content": "Hello"}]}'
        score = b'{"decision_id": "unknown", "score": 1}'
        async with running(upstream := Upstream()):
            config = config_of(upstream.expert("small"), server=KEYS)
            async with gateway(config) as url:
                requests = [
                    *(("POST", "chat/completions", body), ("POST", "route", body)),
                    *(("GET", "models", b""), ("GET", "models/small", b"")),
                    ("POST", "feedback", score),
                ]
                return [
                    (await send(url, method, f"{base}/{path}", key="key-one", body=content))[0]
                    for method, path, content in requests
                ], upstream.requests

    statuses, requests = asyncio.run(run())
    assert statuses[:4] == [200] * 4
    assert statuses[4] in (404, 503)  # there is no such decision
    assert requests == 1


def test_the_official_client_works_with_a_base_url_without_v1():
    async def run():
        async with running(upstream := Upstream(says="four")):
            config = config_of(upstream.expert("small"), server=KEYS)
            async with (
                gateway(config) as url,
                openai.AsyncOpenAI(base_url=url, api_key="key-one", max_retries=0) as client,
            ):
                reply = await client.chat.completions.create(model="auto", messages=asked())
                names = [model.id async for model in client.models.list()]
                return reply.choices[0].message.content, names

    assert asyncio.run(run()) == ("four", ["auto", "routewright/default", "small"])


@pytest.mark.parametrize(
    "path", ["/chat/completions", "//v1/chat/completions", "/v1/chat/completions/"]
)
def test_the_queue_counts_a_request_in_every_spelling(path):
    answering = asyncio.Event()
    finish = asyncio.Event()

    async def wait(upstream, request, body):
        answering.set()
        await finish.wait()
        return await upstream.answer(request, body)

    async def run():
        body = b'{"messages": [{"role": "user", "content": "Hello"}]}'
        async with running(upstream := Upstream(faults=[wait])):
            server = {"max_concurrency": 1, "queue": 0}
            async with gateway(config_of(upstream.expert("small"), server=server)) as url:
                first = asyncio.create_task(send(url, "POST", path, body=body))
                await asyncio.wait_for(answering.wait(), 600)
                second = await send(url, "POST", path, body=body)
                finish.set()
                _, metrics = await send(url, "GET", "/metrics")
                return (await first)[0], second, metrics.decode()

    first, (status, text), metrics = asyncio.run(run())
    assert (first, status) == (200, 429)
    assert b"queue_full" in text
    assert 'routewright_refusals_total{reason="queue_full"} 1.0' in metrics


@asynccontextmanager
async def mounted(config):
    """The gateway inside another application, at /llm, on a socket; gives the URL of the other."""
    inner = build(config)
    outer = Starlette(
        routes=[Mount("/llm", inner)], lifespan=lambda app: inner.router.lifespan_context(inner)
    )
    listener = listen("127.0.0.1", 0)
    settings = uvicorn.Config(outer, log_level="error", lifespan="on")
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    await server.startup([listener])
    try:
        yield url_of(listener)
    finally:
        await server.shutdown([listener])


def test_a_gateway_inside_another_application_asks_for_keys_too():
    async def run():
        async with mounted(
            config_of(Upstream(url="http://127.0.0.1:9").expert("a"), server=KEYS)
        ) as url:
            paths = ("/llm/v1/models", "/llm/models", "/llm//v1/models", "/llm/metrics")
            admin = [await send(url, "GET", "/llm/admin/keys")]
            locked = [await send(url, "GET", path) for path in paths] + admin
            served = [await send(url, "GET", path, key="key-one") for path in paths]
            health = await send(url, "GET", "/llm/health")
            return [[status for status, _ in part] for part in (locked, served, [health])]

    assert asyncio.run(run()) == [[401] * 5, [200] * 4, [200]]
