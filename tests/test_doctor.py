"""`routewright doctor`: what keeps a config from working, with the way out."""

from __future__ import annotations

import json
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from upstream import Upstream, drop, in_thread, status

KEY = "sk-this-is-a-secret"


def write(folder: Path, *experts: dict[str, Any], **sections: Any) -> Path:
    file = folder / "routewright.yaml"
    first = {"strategy": "fixed", "options": {"expert": experts[0]["name"]}}
    sections = {"policies": {"default": first}, "server": {"port": 0}, **sections}
    file.write_text(yaml.safe_dump({"version": 1, "experts": list(experts), **sections}))
    return file


@pytest.fixture
def findings(routewright, tmp_path, monkeypatch):
    """The findings about a config of these experts, and the exit code."""
    monkeypatch.setenv("A_KEY", KEY)

    def run(*experts: dict[str, Any], words: tuple[str, ...] = (), **sections: Any) -> Any:
        file = write(tmp_path, *experts, **sections)
        code, shown, error = routewright("doctor", file, "--json", *words)
        assert error == ""
        assert KEY not in shown
        told = json.loads(shown)
        assert told["ok"] == (code == 0)
        return told["findings"], code

    return run


def of(found: list[dict[str, Any]], expert: str = "small") -> list[dict[str, Any]]:
    return [finding for finding in found if finding["expert"] == expert]


def capable(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    if body.get("response_format"):
        return '{"ok": true}'
    return "Red." if isinstance(content, list) else "OK"


def test_an_expert_that_works_is_asked_once_and_its_cost_is_shown(routewright, tmp_path):
    with in_thread(upstream := Upstream(says="OK", models=["small"])):
        file = write(tmp_path, upstream.expert("small", input_per_mtok=1000))
        code, shown, _ = routewright("doctor", file)
    assert code == 0
    assert upstream.requests == 1
    assert "✓ small: answered 'OK' in" in shown
    assert "0 errors, 0 warnings; $0.006" in shown


def test_every_claimed_capability_is_tried_and_no_other(findings):
    call = {"id": "1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    with in_thread(able := Upstream(says=capable), caller := Upstream(), plain := Upstream()):
        caller.message = {"role": "assistant", "content": "", "tool_calls": [call]}
        found, code = findings(
            able.expert("able", capabilities=["json", "vision"]),
            caller.expert("caller", capabilities=["tools"]),
            plain.expert("plain"),
        )
    assert code == 0
    checks = {name: {f["check"]: f["level"] for f in of(found, name)} for name in ("able", "plain")}
    assert checks["able"] == {"answer": "ok", "json": "ok", "vision": "ok"}
    assert checks["plain"] == {"answer": "ok"}
    assert plain.requests == 1
    assert of(found, "caller")[1]["level"] == "ok"


def test_a_capability_that_fails_names_the_key_to_change(findings):
    refused = status(400, "no tools here")
    with in_thread(upstream := Upstream(faults=[None, None, refused])):
        found, code = findings(upstream.expert("small", capabilities=["json", "tools"]))
    assert code == 1
    _, weak, wrong = of(found)
    assert (weak["check"], weak["level"]) == ("json", "warning")
    assert (wrong["check"], wrong["level"]) == ("tools", "error")
    assert "no tools here" in wrong["text"]
    assert "`capabilities:` without tools" in wrong["fix"]


def html(_: Any) -> web.Response:
    return web.Response(text="<html>Welcome</html>", content_type="text/html")


async def page(upstream: Upstream, request: web.Request, body: Any) -> web.Response:
    return html(request)


@pytest.mark.parametrize(
    ("fault", "models", "traits", "check", "says"),
    [
        (status(401, "bad key"), ["small"], {"api_key": "${A_KEY}"}, "key", "${A_KEY}"),
        (status(403, "no"), None, {}, "key", "set `api_key: ${NAME}`"),
        (status(404, "no such model"), ["smal", "b"], {}, "model", "did you mean 'smal'?"),
        (status(404, "model small is unknown"), None, {}, "model", "`model:`"),
        (status(404, "?"), None, {}, "address", "ends with /v1"),
        (page, html, {}, "address", "ends with /v1"),
        (status(429, "exceeded your current quota"), None, {}, "credit", "add credit"),
        (status(400, "temperature must be 1"), None, {}, "answer", "`options:`"),
        (status(500, "boom"), None, {}, "answer", "log of its server"),
        (drop, None, {}, "answer", "log of its server"),
    ],
)
def test_what_is_wrong_with_an_expert_is_named_with_the_way_out(
    findings, fault, models, traits, check, says
):
    with in_thread(upstream := Upstream(faults=[fault], models=models)):
        found, code = findings(upstream.expert("small", **traits))
    assert code == 1
    (finding,) = of(found)
    assert (finding["check"], finding["level"]) == (check, "error")
    assert says in finding["fix"]
    assert upstream.requests == 1, "a failed question is not repeated"


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_base_url_without_v1_is_corrected(findings, words):
    with in_thread(upstream := Upstream(models=["small"])):
        url = upstream.url.removesuffix("/v1")
        found, code = findings(upstream.expert("small", base_url=url), words=words)
    assert code == 1
    (finding,) = of(found)
    assert finding["fix"] == f"write `base_url: {upstream.url}`"


def test_a_busy_expert_is_a_warning(findings):
    with in_thread(upstream := Upstream(faults=[status(429, "slow down", Retry_After="7")])):
        found, code = findings(upstream.expert("small"))
    assert code == 0
    assert of(found)[0]["level"] == "warning"
    assert "in 7 s" in of(found)[0]["fix"]


def test_a_server_that_is_down_is_named_and_the_others_are_asked(findings):
    with in_thread(upstream := Upstream(), gone := Upstream()):
        pass
    with in_thread(upstream):
        found, code = findings(upstream.expert("small"), gone.expert("gone"))
    assert code == 1
    assert of(found)[0]["level"] == "ok"
    assert "nothing listens there" in of(found, "gone")[0]["text"]


def test_every_deployment_is_asked(findings):
    with in_thread(works := Upstream(says="OK"), broken := Upstream(faults=[status(401)] * 9)):
        entry = works.expert("small", api_key="${A_KEY}")
        del entry["base_url"]
        places = [{"base_url": works.url}, {"base_url": broken.url, "name": "west"}]
        found, code = findings({**entry, "deployments": places})
    assert (code, works.requests) == (1, 1)
    assert of(found, "small, deployment 1")[0]["level"] == "ok"
    assert of(found, "small, deployment west")[0]["check"] == "key"


def test_dry_run_asks_nobody_and_says_what_asking_may_cost(findings):
    with in_thread(upstream := Upstream(models=["small"])):
        traits = {"capabilities": ["json", "tools"], "output_per_mtok": 100.0}
        found, code = findings(upstream.expert("small", **traits), words=("--dry-run",))
    assert code == 0
    assert upstream.requests == 0
    assert "3 small questions would cost at most $0.07" in of(found)[0]["text"]


def test_an_expert_that_may_see_only_restricted_text_is_asked_too(findings):
    with in_thread(upstream := Upstream()):
        _, code = findings(upstream.expert("small", data_classes=["restricted"], region="eu"))
    assert code == 0
    assert upstream.requests == 1


def test_a_clock_that_is_wrong_is_told(findings):
    def late(request: web.Request) -> web.Response:
        date = formatdate(86_400, usegmt=True)
        return web.json_response({"data": [{"id": "small"}]}, headers={"date": date})

    with in_thread(upstream := Upstream(models=late)):
        found, code = findings(upstream.expert("small"))
    (clock,) = [finding for finding in found if finding["check"] == "clock"]
    assert (code, clock["level"]) == (0, "warning")
    assert "ahead of" in clock["text"]


def test_a_port_that_is_taken_is_an_error_unless_the_gateway_has_it(findings):
    with in_thread(upstream := Upstream(models=["auto", "small"])):
        port = int(upstream.url.rpartition(":")[2].removesuffix("/v1"))
        assert findings(upstream.expert("small"), server={"port": port})[1] == 0
        upstream.models = ["small"]
        found, code = findings(upstream.expert("small"), server={"port": port})
    (finding,) = [finding for finding in found if finding["check"] == "port"]
    assert (code, finding["level"]) == (1, "error")
    assert "set another `port:`" in finding["fix"]


def test_experts_are_asked_while_the_policies_have_mistakes(findings):
    with in_thread(upstream := Upstream()):
        policies = {"default": {"strategy": "auto", "router": "nowhere"}}
        found, code = findings(upstream.expert("small"), policies=policies)
    assert code == 1
    assert upstream.requests == 1
    assert "nowhere" in json.dumps(found)


def test_without_a_config_the_way_out_is_init(routewright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = routewright("doctor")
    assert code == 2
    assert "routewright init" in error


def test_quiet_shows_only_what_is_wrong(routewright, tmp_path):
    with in_thread(upstream := Upstream(faults=[status(500)])):
        code, shown, _ = routewright("doctor", write(tmp_path, upstream.expert("small")), "--quiet")
    assert code == 1
    assert "✓" not in shown
    assert "✗ small" in shown
