"""Models at Azure: which address is asked, with which header, and what a config must say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from routewright import config
from upstream import Upstream, asked, config_of, front

VERSION = "2024-10-21"


@asynccontextmanager
async def azure(upstream: Upstream, paths: list[str]) -> AsyncIterator[str]:
    """A resource that answers at every path, and notes it; gives its address."""

    async def handle(request: web.Request) -> web.StreamResponse:
        paths.append(str(request.rel_url))
        return await upstream.handle(request)

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def path_of(rest: str, stream: bool = False, **traits: Any) -> tuple[str, Upstream]:
    """The path that is asked where `rest` follows the resource's address in `base_url`."""
    upstream, paths = Upstream(), []

    async def work() -> None:
        async with azure(upstream, paths) as root:
            entry = {"name": "gpt-4o", "provider": "azure", "base_url": f"{root}{rest}"}
            entry |= {"api_key": "azure-key", "output_per_mtok": 10, **traits}
            async with front(config_of(entry)) as client:
                reply = await client.chat.completions.create(
                    model="auto", messages=asked(), stream=stream
                )
                if stream:
                    assert [chunk async for chunk in reply]

    asyncio.run(work())
    (path,) = paths
    return path, upstream


DEPLOYMENT = f"/openai/deployments/my-4o/chat/completions?api-version={VERSION}"
DATED = {"model": "my-4o", "options": {"api_version": VERSION}}


@pytest.mark.parametrize(
    ("rest", "traits", "path"),
    [
        (f"/openai/deployments/my-4o?api-version={VERSION}", {}, DEPLOYMENT),
        ("/openai/deployments/my-4o", DATED, DEPLOYMENT),
        ("/openai/deployments/my-4o/", DATED, DEPLOYMENT),
        ("", DATED, DEPLOYMENT),
        ("/", DATED, DEPLOYMENT),
        ("/openai", DATED, DEPLOYMENT),
        (f"?api-version={VERSION}", {"model": "my-4o"}, DEPLOYMENT),
        ("", {}, "/openai/v1/chat/completions"),
        ("/openai/v1", {}, "/openai/v1/chat/completions"),
        ("/openai/v1/", {}, "/openai/v1/chat/completions"),
        (
            "",
            {"options": {"api_version": "preview"}},
            "/openai/v1/chat/completions?api-version=preview",
        ),
        (
            "/models?api-version=2024-05-01-preview",
            {},
            "/models/chat/completions?api-version=2024-05-01-preview",
        ),
    ],
)
def test_the_address_is_the_one_that_azure_documents(
    rest: str, traits: dict[str, Any], path: str
) -> None:
    assert path_of(rest, **traits)[0] == path


@pytest.mark.parametrize("stream", [False, True])
def test_the_key_is_sent_as_azure_wants_it_and_the_version_is_no_field(stream: bool) -> None:
    _, upstream = path_of("", stream, **DATED)
    (headers,), (body,) = upstream.headers, upstream.bodies
    assert headers["api-key"] == "azure-key"
    assert "Authorization" not in headers
    assert body["model"] == "my-4o"
    assert "api_version" not in body


def test_a_token_of_entra_id_takes_the_place_of_the_key() -> None:
    _, upstream = path_of("", api_key=None, headers={"authorization": "Bearer token"})
    (headers,) = upstream.headers
    assert headers["Authorization"] == "Bearer token"
    assert "api-key" not in headers


def test_deployments_at_several_resources_are_one_expert() -> None:
    upstream, paths = Upstream(), []

    async def work() -> None:
        async with azure(upstream, paths) as root:
            places = [
                {"base_url": f"{root}/openai/deployments/{name}?api-version={VERSION}"}
                for name in ("east", "west")
            ]
            entry = {"name": "gpt-4o", "provider": "azure", "deployments": places}
            async with front(
                config_of({**entry, "api_key": "azure-key", "output_per_mtok": 1})
            ) as client:
                for _ in range(2):
                    await client.chat.completions.create(model="auto", messages=asked())

    asyncio.run(work())
    assert [path.split("/")[3] for path in paths] == ["east", "west"]


# --- the config ------------------------------------------------------------------------------

FILE = """\
version: 1
experts:
  - {name: gpt-4o, provider: azure, output_per_mtok: 10, REST}
policies:
  default: {strategy: fixed, options: {expert: gpt-4o}}
"""
URL = "base_url: 'https://x.openai.azure.com"
KEY = "api_key: '${AZURE_KEY}'"


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        (KEY, "needs a `base_url`"),
        (f"{URL}'", "has no key for Azure"),
        (f"{URL}/openai/deployments/my-4o', {KEY}", "needs an api-version"),
        (f"{URL}', {KEY}, options: {{api_version: 2024-10-21}}", "must be text"),
        (
            f"{URL}?api-version=2024-10-21', {KEY}, options: {{api_version: '2024-06-01'}}",
            "is not the `api-version` of `base_url`",
        ),
        (f"deployments: [{{{URL}'}}, {{{KEY}}}], {KEY}", "needs a `base_url`"),
        (f"deployments: [{{{URL}', {KEY}}}, {{{URL}'}}]", "has no key for Azure"),
    ],
)
def test_what_azure_needs_is_asked_for_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str, problem: str
) -> None:
    monkeypatch.setenv("AZURE_KEY", "azure-key")
    file = tmp_path / "routewright.yaml"
    file.write_text(FILE.replace("REST", rest))
    (mistake,) = config.examine(file).mistakes
    assert problem in mistake.text(file)


@pytest.mark.parametrize(
    "rest", [f"{URL}', {KEY}", f"{URL}', headers: {{authorization: 'Bearer ${{AZURE_KEY}}'}}"]
)
def test_what_azure_needs_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setenv("AZURE_KEY", "azure-key")
    file = tmp_path / "routewright.yaml"
    file.write_text(FILE.replace("REST", rest))
    assert config.examine(file).problems == ()
