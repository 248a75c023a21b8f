"""The way out: through the proxy that the config names, and through no other."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from routewright import config
from routewright.experts.client import Client
from routewright.types import Ask, Query
from upstream import Upstream, asked, config_of, expert, front, running

WELCOME = "welcome"  # the only password
REFUSAL = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Proxy:
    """A forward proxy on the loopback, for http and, by CONNECT, for https."""

    port: int = 0
    requests: list[str] = field(default_factory=list)  # first lines
    keys: list[str] = field(default_factory=list)

    def url(self, user: str = f"user:{WELCOME}") -> str:
        return f"http://{user}@127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            method, target, _ = first.split(" ")
            self.requests.append(first)
            headers = {name.lower(): v for name, _, v in (line.partition(": ") for line in lines)}
            key = headers.get("proxy-authorization", "").removeprefix("Basic ")
            self.keys.append(base64.b64decode(key).decode())
            if not self.keys[-1].endswith(f":{WELCOME}"):
                writer.write(REFUSAL)
            elif method == "CONNECT":
                host, _, port = target.partition(":")
                await self.forward(reader, writer, host, int(port), b"")
            else:
                url = urlsplit(target)
                own = head.replace(f"{url.scheme}://{url.netloc}", "", 1)
                own = own.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                assert url.hostname
                assert url.port
                await self.forward(reader, writer, url.hostname, url.port, own.encode())
        writer.close()

    async def forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: str,
        port: int,
        start: bytes,
    ) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, port)
        if not start:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        there_writer.write(start)
        await asyncio.wait(
            [
                asyncio.ensure_future(copy(reader, there_writer)),
                asyncio.ensure_future(copy(there_reader, writer)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        there_writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()


@asynccontextmanager
async def proxying() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


def served(work: Any, traits: Any, **sections: Any) -> tuple[Upstream, Proxy]:
    """Runs `work` with a gateway whose expert has the traits that `traits` makes for a proxy."""
    upstream = Upstream()

    async def run() -> Proxy:
        async with running(upstream), proxying() as proxy:
            own = {name: make(proxy) for name, make in sections.items()}
            async with front(config_of(upstream.expert("small", **traits(proxy)), **own)) as client:
                await work(client, proxy)
            return proxy

    return upstream, asyncio.run(run())


async def chat(client: Any, **more: Any) -> Any:
    return await client.chat.completions.create(model="auto", messages=asked(), **more)


async def answers(client: Any, proxy: Proxy) -> None:
    assert (await chat(client)).choices[0].message.content == "hello there"
    assert [chunk async for chunk in await chat(client, stream=True)]


def test_an_expert_is_asked_through_its_proxy() -> None:
    upstream, proxy = served(answers, lambda proxy: {"proxy": proxy.url()})
    assert proxy.requests == [f"POST {upstream.url}/chat/completions HTTP/1.1"] * 2
    assert proxy.keys == [f"user:{WELCOME}"] * 2


def test_the_proxy_of_the_server_holds_for_every_expert() -> None:
    _, proxy = served(answers, lambda _: {}, server=lambda proxy: {"proxy": proxy.url()})
    assert len(proxy.requests) == 2


def test_an_expert_may_go_without_the_proxy_of_the_server() -> None:
    upstream, proxy = served(
        answers, lambda _: {"proxy": None}, server=lambda proxy: {"proxy": proxy.url()}
    )
    assert (upstream.requests, proxy.requests) == (2, [])


def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    upstream = Upstream()

    async def work() -> None:
        async with running(upstream), Client([expert(upstream.expert("small"))]) as client:
            await client.ask(Ask("small"), Query.of("What is two and two?"))

    asyncio.run(work())
    assert upstream.requests == 1


def test_https_goes_through_a_tunnel() -> None:
    async def work(client: Any, proxy: Proxy) -> None:
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client)
        assert "TLS" in raised.value.message  # what is at the other end does not speak it

    upstream = Upstream()

    async def run() -> Proxy:
        async with running(upstream), proxying() as proxy:
            url = upstream.url.replace("http:", "https:")
            traits = {"base_url": url, "proxy": proxy.url(), "retries": 0, "name": "small"}
            async with front(config_of({**traits, "output_per_mtok": 1})) as client:
                await work(client, proxy)
            return proxy

    proxy = asyncio.run(run())
    host = urlsplit(upstream.url).netloc
    assert proxy.requests == [f"CONNECT {host} HTTP/1.1"]
    assert proxy.keys == [f"user:{WELCOME}"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_told_without_its_password(scheme: str, caplog: Any) -> None:
    upstream = Upstream()
    caplog.set_level("DEBUG")

    async def run() -> str:
        async with running(upstream), proxying() as proxy:
            traits = {
                "base_url": upstream.url.replace("http", scheme, 1),
                "proxy": proxy.url("user:pass%2Fword"),
                "retries": 0,
                "name": "small",
                "output_per_mtok": 1,
            }
            async with front(config_of(traits)) as client:
                with pytest.raises(openai.APIStatusError) as raised:
                    await chat(client)
            assert proxy.keys == ["user:pass/word"]
            return raised.value.response.text

    text = asyncio.run(run())
    assert "407" in text
    for secret in ("pass/word", "pass%2Fword", "127.0.0.1"):
        assert secret not in text
    for secret in ("pass/word", "pass%2Fword"):
        assert secret not in caplog.text
    assert upstream.requests == 0


def test_a_proxy_that_is_not_there_is_told() -> None:
    async def work(client: Any, proxy: Proxy) -> None:
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client)
        assert "its proxy cannot be reached" in raised.value.message
        assert "127.0.0.1" not in raised.value.message

    served(work, lambda _: {"proxy": "http://user:pw@127.0.0.1:9", "retries": 0})


# --- the config ------------------------------------------------------------------------------

FILE = """\
version: 1
experts:
  - {name: small, base_url: http://127.0.0.1:9001/v1, proxy: PROXY}
policies:
  default: {strategy: fixed, options: {expert: small}}
"""


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://127.0.0.1:1080",
        "127.0.0.1:3128",
        "http://proxy",
        "http://u:pw1@h:x",
        "http://h:1/p",
    ],
)
def test_what_is_no_address_of_a_proxy_is_a_mistake(tmp_path: Path, proxy: str) -> None:
    file = tmp_path / "routewright.yaml"
    file.write_text(FILE.replace("PROXY", proxy))
    (problem,) = config.examine(file).mistakes
    assert "is not the address of an HTTP proxy" in problem.text(file)
    assert "pw1" not in problem.text(file)


def test_a_password_of_a_proxy_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "routewright.yaml"
    file.write_text(FILE.replace("PROXY", "http://user:pw1@10.0.0.1:3128"))
    (warning,) = config.examine(file).problems
    assert (warning.level, "pw1" in warning.text(file)) == ("warning", False)
    loaded = config.load(file)
    assert "pw1" not in repr(loaded) + repr(loaded.experts_by_name())
    assert loaded.experts_by_name()["small"].proxy == "http://user:pw1@10.0.0.1:3128"
    monkeypatch.setenv("PROXY_PASSWORD", "pw2")
    file.write_text(FILE.replace("PROXY", "'http://user:${PROXY_PASSWORD}@10.0.0.1:3128'"))
    assert config.examine(file).problems == ()
    assert str(config.load(file).experts_by_name()["small"].proxy).endswith("pw2@10.0.0.1:3128")
