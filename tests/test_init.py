"""`routewright init`: a config for the keys and servers that a machine has."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from aiohttp import web

from routewright import config
from routewright.experts.discovery import OLLAMA, OPENAI_URLS
from routewright.experts.prices import VENDORS
from upstream import Upstream, in_thread

KEY = "sk-this-is-a-secret"


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch, tmp_path):
    """No key, no server, an empty folder."""
    names = [name for vendor in VENDORS for name in vendor.keys]
    for name in (*names, *OPENAI_URLS, OLLAMA, "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answers(monkeypatch):
    def give(*lines: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    return give


def written(file: str = "routewright.yaml") -> dict:
    """The file as data, after it has passed the check."""
    examination = config.examine(Path(file))
    assert not examination.problems, [p.text(Path(file)) for p in examination.problems]
    return yaml.safe_load(Path(file).read_text())


def experts(file: str = "routewright.yaml") -> dict:
    return {entry["name"]: entry for entry in written(file)["experts"]}


@pytest.mark.parametrize("vendor", [v for v in VENDORS if v.offers], ids=lambda v: v.id)
def test_a_key_becomes_two_experts_with_prices_and_is_never_written(
    routewright, monkeypatch, vendor
):
    monkeypatch.setenv(vendor.keys[0], KEY)
    code, _, error = routewright("init", "--yes", "--no-scan")
    assert code == 0, error
    entries = experts()
    assert {entry.get("model", name) for name, entry in entries.items()} == set(vendor.offers)
    assert {entry["api_key"] for entry in entries.values()} == {f"${{{vendor.keys[0]}}}"}
    assert all(entry["data_classes"] == ["public"] for entry in entries.values())
    loaded = config.load(Path("routewright.yaml")).experts_by_name().values()
    assert all(e.input_per_mtok > 0 and e.output_per_mtok > 0 for e in loaded)
    assert {e.base_url for e in loaded} == {vendor.base_url}
    own = vendor.id if vendor.id == "anthropic" else "openai"
    assert {e.provider for e in loaded} == {own}
    assert KEY not in Path("routewright.yaml").read_text()


def test_the_second_name_of_a_key_is_found_too(routewright, monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    assert routewright("init", "--yes", "--no-scan")[0] == 0
    assert {entry["api_key"] for entry in experts().values()} == {"${GOOGLE_API_KEY}"}


def test_a_local_server_becomes_an_expert_that_may_see_everything(routewright, monkeypatch):
    served = [
        {"id": "qwen2.5:7b", "max_model_len": 4096},
        "nomic-embed-text",
        "/models/SmolLM2.gguf",
        "router-x",
        "ünï cødé",
        "${HOME}",
    ]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with in_thread(upstream := Upstream(models=served)):
        port = upstream.url.rpartition(":")[2].removesuffix("/v1")
        assert routewright("init", "--yes", "--no-scan", "--server", port)[0] == 0
    entries = experts()
    local = {name: e for name, e in entries.items() if e["base_url"] == upstream.url}
    assert {e.get("model", name) for name, e in local.items()} == {
        *("qwen2.5:7b", "/models/SmolLM2.gguf", "router-x", "ünï cødé")
    }
    assert "SmolLM2" in local
    assert local["qwen2.5:7b"]["context_window"] == 4096
    assert all(e["data_classes"] == ["public", "internal", "restricted"] for e in local.values())
    assert {tuple(e["data_classes"]) for n, e in entries.items() if n not in local} == {("public",)}
    assert all(e.input_per_mtok == 0 for e in config.load(Path("routewright.yaml"))
               .experts_by_name().values() if e.name in local)  # fmt: skip


def test_two_servers_are_told_apart(routewright):
    with in_thread(one := Upstream(models=["small"]), other := Upstream(models=["large"])):
        places = [("--server", upstream.url) for upstream in (one, other)]
        _, _, shown = routewright("init", "--yes", "--no-scan", *places[0], *places[1])
    for upstream, model in ((one, "small"), (other, "large")):
        row = next(line for line in shown.splitlines() if f" {model} " in line and "│" in line)
        assert urlsplit(upstream.url).netloc in row


def test_what_a_new_config_holds_as_comments_is_right_once_the_marks_are_removed(routewright):
    with in_thread(upstream := Upstream(models=["small", "large"])):
        code, _, shown = routewright("init", "--yes", "--no-scan", "--server", upstream.url)
    assert (code, shown.count("counts as free")) == (0, 2)
    assert "best:                   # the last expert above" in Path("routewright.yaml").read_text()
    file = Path("routewright.yaml")
    head, _, rest = file.read_text().partition("  # learned:")
    assert "Which is the better one" in head
    head = head.replace("# input_per_mtok", "input_per_mtok")
    head = head.replace("# output_per_mtok", "output_per_mtok")
    block, default, end = rest.partition("default_policy:")
    file.write_text(f"{head}  learned:{block.replace('  #  ', '   ')}{default}{end}")
    (mistake,) = config.examine(file).problems
    assert mistake.where == "policies.learned.router"
    assert "`routewright fit" in mistake.fix
    document = yaml.safe_load(file.read_text())
    assert {entry["output_per_mtok"] for entry in document["experts"]} == {0.2}
    assert document["policies"]["learned"]["fallback"] == ["large"]


def test_servers_are_found_where_their_variables_say(routewright, monkeypatch):
    with in_thread(ollama := Upstream(models=["a"]), proxy := Upstream(models=["b"])):
        monkeypatch.setenv(OLLAMA, ollama.url.removeprefix("http://").removesuffix("/v1"))
        monkeypatch.setenv("OPENAI_BASE_URL", proxy.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert routewright("init", "--yes", "--models", "a,b")[0] == 0
    entries = experts()
    assert entries["a"]["base_url"] == ollama.url
    assert "api_key" not in entries["a"]
    assert entries["b"]["base_url"] == proxy.url, "the key of OPENAI_BASE_URL stays there"
    assert entries["b"]["api_key"] == "${OPENAI_API_KEY}"


def test_azure_needs_the_names_of_its_deployments(routewright, monkeypatch):
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://me.openai.azure.com/")
    code, _, error = routewright("init", "--yes", "--no-scan")
    assert code == 2
    assert "--models SOURCE:NAME" in error
    assert routewright("init", "--no-scan", "--yes", "--models", "azure:gpt-4o")[0] == 0
    assert experts()["gpt-4o"]["base_url"] == "https://me.openai.azure.com/openai/v1"
    monkeypatch.setenv("AZURE_OPENAI_DEPLOYMENT", "gpt-4o-mini")
    assert routewright("init", "--no-scan", "--yes", "--force")[0] == 0
    assert list(experts()) == ["gpt-4o-mini"]


def test_questions_are_asked_and_a_wrong_answer_is_asked_again(routewright, monkeypatch, answers):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers("gpt-9999", "1,gpt-4o", "gpt-4o", "all")
    code, _, error = routewright("init", "--no-scan")
    assert code == 0, error
    assert "no model 'gpt-9999' is known" in error
    entries = experts()
    assert set(entries) == {"gpt-6-luna", "gpt-4o"}
    assert entries["gpt-4o"]["data_classes"] == ["public", "internal", "restricted"]
    assert entries["gpt-6-luna"]["data_classes"] == ["public", "internal"]


def test_every_question_has_a_flag(routewright, monkeypatch, answers):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers()
    words = ("--models", "gpt-4o,openai:brand-new", "--restricted", "none", "--internal", "gpt-4o")
    assert routewright("init", "--no-scan", *words, "--out", "mine.yaml")[0] == 0
    listed = yaml.safe_load(Path("mine.yaml").read_text())["experts"]
    assert {entry["name"]: entry["data_classes"] for entry in listed} == {
        "gpt-4o": ["public", "internal"],
        "brand-new": ["public"],
    }


@pytest.mark.parametrize("given", [(), ("--models", "gpt-4o")])
def test_without_an_answer_the_error_names_the_flag(routewright, monkeypatch, answers, given):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers()
    code, _, error = routewright("init", "--no-scan", *given)
    assert code == 2
    assert ("give --restricted" if given else "give --models") in error
    assert not Path("routewright.yaml").exists()


def test_a_file_is_never_replaced_unless_that_is_asked_for(routewright, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    Path("routewright.yaml").write_text("mine")
    code, _, error = routewright("init", "--yes", "--no-scan")
    assert code == 2
    assert "--force" in error
    assert Path("routewright.yaml").read_text() == "mine"
    assert routewright("init", "--yes", "--no-scan", "--force")[0] == 0


def test_where_nothing_is_found_the_ways_out_are_named(routewright):
    code, _, error = routewright("init", "--yes", "--no-scan")
    assert code == 2
    for way in ("export OPENAI_API_KEY", "--server PORT", "routewright demo"):
        assert way in error


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (lambda _: web.Response(text="<html>", content_type="text/html"), "text/html instead"),
        (lambda _: web.Response(status=404), "HTTP 404"),
        (lambda _: web.Response(status=401), "needs a key"),
        (lambda _: web.Response(status=302, headers={"location": "/"}), "HTTP 302"),
        (lambda _: web.json_response({"data": 3}), "instead of a list of models"),
        (["bge-m3"], "lists no chat model"),
    ],
)
def test_a_given_server_that_lists_no_model_is_refused_with_the_reason(routewright, models, says):
    with in_thread(upstream := Upstream(models=models)):
        code, _, error = routewright("init", "--yes", "--no-scan", "--server", upstream.url)
    assert code == 2
    assert says in error


def test_a_given_server_gets_the_key_that_the_message_asks_for(routewright, monkeypatch):
    def models(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        return web.json_response({"data": [{"id": "guarded"}]})

    with in_thread(upstream := Upstream(models=models)):
        command = ("init", "--yes", "--no-scan", "--server", upstream.url)
        code, _, error = routewright(*command)
        assert code == 2
        assert f"export OPENAI_BASE_URL={upstream.url} OPENAI_API_KEY=" in error
        monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
        assert "OPENAI_API_KEY holds another one" in routewright(*command)[2]
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert routewright(*command)[0] == 0
    assert experts()["guarded"]["api_key"] == "${OPENAI_API_KEY}"


@pytest.mark.parametrize("given", ["0", "http://", "ftp://x", "http://me:secret@host/v1", "a b"])
def test_what_is_no_server_is_refused_without_its_password(routewright, given):
    code, _, error = routewright("init", "--yes", "--no-scan", "--server", given)
    assert code == 2
    assert "secret" not in error
    assert not Path("routewright.yaml").exists()
