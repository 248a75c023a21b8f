"""Promises of docs/security.md that no other file tests."""

import asyncio
import json
import logging

import pytest
from aiohttp import web

from routewright.config import ServerConfig
from routewright.errors import BadInput
from routewright.experts.client import Client
from routewright.types import Ask, Query
from test_gateway import create, served
from upstream import Upstream, asked, expert, running, status

KEY, SECRET = "key-of-a-client", "key-of-the-upstream"


def test_by_default_only_this_machine_reaches_the_gateway_and_no_text_is_kept():
    server = ServerConfig()
    assert server.host == "127.0.0.1"
    assert server.default_data_class == "public"
    assert server.api_keys == []
    assert server.feedback is None
    assert not server.feedback_answers


def test_only_the_request_of_a_client_travels_upstream():
    """Its headers, its key among them, stay at the gateway."""
    upstream = Upstream()
    headers = {"cookie": "session=1", "x-forwarded-for": "10.0.0.7", "x-private": "mine"}
    served(
        create(extra_headers=headers),
        upstream,
        traits=({"api_key": SECRET},),
        api_key=KEY,
        server={"api_keys": [KEY]},
    )
    sent = upstream.headers[0]
    assert {*headers}.isdisjoint(name.lower() for name in sent)
    assert sent["authorization"] == f"Bearer {SECRET}"
    assert KEY not in str(dict(sent)) + json.dumps(upstream.bodies[0])


def test_proxies_of_the_environment_and_cookies_of_upstreams_are_ignored(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def with_cookie(upstream, request, body):
        reply = await upstream.answer(request, body)
        assert isinstance(reply, web.Response)
        reply.set_cookie("session", "1")
        return reply

    upstream = Upstream(faults=[with_cookie])

    async def run():
        async with running(upstream):
            small = expert(upstream.expert("small"))
            async with Client([small]) as client:
                for _ in range(2):
                    await client.ask(Ask("small"), Query.of("What is 2 + 2?"))

    asyncio.run(run())
    assert "cookie" not in {name.lower() for name in upstream.headers[1]}


def test_a_folder_of_a_model_cannot_bring_code_of_its_own(tmp_path):
    pytest.importorskip("transformers", reason="the extra `lm` is not installed")
    from routewright.prediction.language_models import open_base

    proof = tmp_path / "executed"
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\nclass Config: pass\n"
    (tmp_path / "evil.py").write_text(code)
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    settings = {"model_type": "evil", "auto_map": names}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadInput, match="cannot be loaded"):
        open_base(str(tmp_path))
    assert not proof.exists()


def test_the_log_holds_no_key_and_no_text(caplog):
    """Neither of requests that are answered nor of those that are refused or fail."""
    caplog.set_level(logging.INFO, "routewright")
    question = "my private question"

    async def work(client):
        url = f"{client.base_url}chat/completions"
        body = {"messages": asked(question)}
        wrong = {"Authorization": f"Bearer {KEY}-wrong"}
        replies = [
            await client._client.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}),
            await client._client.post(url, json=body, headers=wrong),
            await client._client.post(
                url, json={**body, "n": question}, headers={"Authorization": f"Bearer {KEY}"}
            ),
            await client._client.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}),
        ]
        return [reply.status_code for reply in replies]

    refusal = status(401, f"wrong key {SECRET} for: {question}")
    upstream = Upstream(says="my private answer", faults=[None, refusal])
    traits = ({"api_key": SECRET, "retries": 0},)
    codes = served(work, upstream, traits=traits, server={"api_keys": [KEY]})
    assert codes == [200, 401, 400, 502]
    assert "decision" in caplog.text
    assert not [word for word in ("private", KEY, SECRET) if word in caplog.text]
