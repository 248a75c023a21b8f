"""Prices, windows and capabilities that a config takes from a price list."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import openai
import pytest

from routewright import config
from routewright.experts import prices
from routewright.types import Expert
from upstream import Upstream, asked, config_of, front, running

TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
POLICIES = "policies:\n  default: {strategy: fixed, options: {expert: %s}}\n"
LIST = {
    "sample_spec": {"mode": "one of chat, embedding", "litellm_provider": "one of many"},
    "gpt-4o": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "max_input_tokens": 1000,
        "supports_vision": True,
    },
    "text-embedding-3-small": {
        "litellm_provider": "openai",
        "mode": "embedding",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 0,
    },
    "broken": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "cheap"},
}


def write(folder: Path, *entries: str, head: str = "") -> Path:
    """A config with these experts, in YAML's flow style."""
    file = folder / "routewright.yaml"
    name = re.search(r"name: ([^,}]+)", entries[0])[1]  # type: ignore[index]
    listed = "".join(f"  - {{{entry}}}\n" for entry in entries)
    file.write_text(f"version: 1\n{head}experts:\n{listed}{POLICIES % name}")
    return file


def expert(folder: Path, entry: str, head: str = "") -> Expert:
    (only,) = config.experts(write(folder, entry, head=head)).values()
    return only


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@pytest.mark.parametrize(
    ("entry", "price"),
    [
        ("name: gpt-4o", 2.5),
        ("name: any, model: gpt-4o, base_url: 'https://api.openai.com/v1/'", 2.5),
        ("name: gpt-4o, base_url: 'https://API.OpenAI.com:443/v1'", 2.5),
        ("name: x, model: 'ft:gpt-4o:me::1', base_url: 'https://api.openai.com/v1'", 0),
        ("name: gpt-4o, base_url: 'http://127.0.0.1:8000/v1'", 0),
        ("name: gpt-4o, base_url: 'http://localhost/v1'", 0),
        ("name: gpt-4o, base_url: 'http://10.0.0.7/v1'", 0),
        ("name: gpt-4o, base_url: 'http://vllm:8000/v1'", 0),
        ("name: gpt-4o, base_url: 'https://api.openai.com.example.com/v1'", 0),
        ("name: gpt-4o, base_url: 'https://notopenai.azure.com/v1'", 0),
        ("name: gpt-4o, base_url: 'https://api.mistral.ai/v1'", 0),
        ("name: claude-haiku-4-5", 0),  # OpenAI has no such model
        ("name: claude-haiku-4-5, base_url: 'https://api.anthropic.com/v1'", 1),
        ("name: s, model: mistral-large-4, base_url: 'https://api.mistral.ai/v1'", 0.7),
        ("name: deepseek-v4-pro, base_url: 'https://api.deepseek.com'", 1.32),
        ("name: grok-4.7, base_url: 'https://api.x.ai/v1'", 2),
        ("name: openai/gpt-oss-20b, base_url: 'https://api.groq.com/openai/v1'", 0.075),
        ("name: moonshotai/Kimi-K3, base_url: 'https://api.together.xyz/v1'", 3),
        ("name: g, model: gemini-2.5-pro, base_url: 'https://generativelanguage.googleapis.com/"
         "v1beta/openai'", 1.25),
        ("name: g, model: models/gemini-2.5-pro, base_url: 'https://generativelanguage.googleapis"
         ".com/v1beta/openai/'", 1.25),
        ("name: r, model: openai/gpt-4o, base_url: 'https://openrouter.ai/api/v1'", 2.5),
        ("name: r, model: google/gemini-2.5-pro, base_url: 'https://openrouter.ai/api/v1'", 1.25),
        ("name: r, model: anthropic/claude-haiku-4.5, base_url: 'https://openrouter.ai/api/v1'", 1),
        ("name: r, model: 'openai/gpt-4o:free', base_url: 'https://openrouter.ai/api/v1'", 0),
        ("name: a, model: gpt-4o, base_url: 'https://me.openai.azure.com/openai/v1'", 2.5),
        ("name: a, base_url: 'https://me.openai.azure.com/openai/deployments/gpt-4o'", 2.5),
        ("name: a, model: prod, base_url: 'https://me.openai.azure.com/openai/v1'", 0),
        ("name: a, model: prod, price_list: gpt-4o, base_url: 'http://127.0.0.1:4000/v1'", 2.5),
        ("name: gpt-4o, price_list: none", 0),
        ("name: gpt-4o, provider: sandbox", 0),
    ],
)  # fmt: skip
def test_a_model_has_the_price_of_its_host_and_a_local_one_has_none(tmp_path, entry, price):
    assert expert(tmp_path, entry).input_per_mtok == price


def test_the_config_decides_what_it_names_and_takes_the_rest(tmp_path):
    taken = expert(tmp_path, "name: gpt-4o")
    assert (taken.input_per_mtok, taken.output_per_mtok) == (2.5, 10)
    assert (taken.cached_input_per_mtok, taken.context_window) == (1.25, 128_000)
    assert taken.capabilities == {"json", "tools", "vision"}
    own = expert(tmp_path, "name: gpt-4o, input_per_mtok: 2, context_window: 9, capabilities: []")
    assert (own.input_per_mtok, own.output_per_mtok) == (2, 10)
    assert (own.context_window, own.capabilities) == (9, frozenset())
    assert own.cached_input_per_mtok is None, "a discount is not known for a price of one's own"
    assert expert(tmp_path, "name: gpt-4o, input_per_mtok: 0").input_per_mtok == 0
    assert expert(tmp_path, "name: gpt-3.5-turbo").capabilities == {"json", "tools"}


def test_check_and_serve_say_what_came_from_the_list_and_of_which_date(tmp_path, routewright):
    file = write(tmp_path, "name: gpt-4o", "name: gpt-4o-mini, price_list: none")
    line = (
        "gpt-4o: $2.50 in, $10.00 out, $1.25 cached in per million tokens, a context window of"
        " 128,000 tokens, capabilities json, tools, vision, from the price list of 2026-11-30"
    )
    code, shown, _ = routewright("check", file)
    assert (code, shown.count("from the price list")) == (0, 1)
    assert line in shown
    assert json.loads(routewright("check", file, "--json")[1])["from_price_list"] == [line]
    assert config.load(file).from_price_list == (line,)


def test_interview_says_what_came_from_the_list(tmp_path, routewright):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"prompt": "2 + 2?", "reference": "4"}\n')
    file = write(tmp_path, "name: gpt-4o")
    out = tmp_path / "o.parquet"
    code, shown, _ = routewright("interview", file, questions, "--out", out, "--dry-run")
    assert code == 0
    assert "gpt-4o: $2.50 in, $10.00 out" in shown


def test_a_price_file_is_checked_shown_and_adopted(tmp_path, routewright):
    file = write(tmp_path, "name: gpt-4o", "name: own, base_url: 'http://127.0.0.1:9/v1'")
    listed = tmp_path / "downloads" / "prices.json"
    listed.parent.mkdir()
    listed.write_text(json.dumps(LIST))
    before = file.read_text()
    code, shown, _ = routewright("prices", listed, "--config", file, "--json")
    told = json.loads(shown)
    assert (code, told["models"]) == (0, 1)
    assert [row["used"] for row in told["experts"]] == [[1, 4], [0, 0]]
    assert file.read_text() == before, "nothing is written without --use"
    code, shown, _ = routewright("prices", listed, "--config", file, "--use")
    assert code == 0
    assert "price_list" in shown
    assert file.read_text() == before.replace(
        "version: 1\n", 'version: 1\nprice_list: "downloads/prices.json"\n'
    )
    assert config.experts(file)["gpt-4o"].output_per_mtok == 4
    assert config.experts(file)["gpt-4o"].capabilities == {"json", "vision"}
    (line,) = config.load(file).from_price_list
    assert re.search(r"from prices.json of \d{4}-\d\d-\d\d$", line)
    assert routewright("prices", listed, "--config", file, "--use")[0] == 0
    assert file.read_text().count("price_list") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<!DOCTYPE html><html>", "is a web page"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "no object of models"),
        ('{"models": 3}', "no object of models"),
        ("{}", "has no chat model"),
        (json.dumps({"a": {"mode": "chat", "input_cost_per_token": -1}}), "has no chat model"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_price_list_is_refused_with_the_way_out(
    tmp_path, routewright, content, says
):
    listed = tmp_path / "prices.json"
    if content is not None:
        listed.write_text(content)
    code, _, error = routewright("prices", listed)
    assert code == 2
    assert says in error
    file = write(tmp_path, "name: gpt-4o", head="price_list: prices.json\n")
    code, shown, _ = routewright("check", file)
    assert code == 2
    assert "price_list (prices.json): cannot be used" in shown


def test_an_entry_that_the_list_lacks_is_a_mistake_with_the_nearest_one(tmp_path, routewright):
    file = write(tmp_path, "name: a, price_list: gpt-4oo, base_url: 'http://127.0.0.1:9/v1'")
    code, shown, _ = routewright("check", file)
    assert code == 2
    assert "did you mean 'gpt-4o'?" in shown


@pytest.mark.parametrize("odd", ["[]", "3", "{a: b}", "yes", "null", "'\\0'"])
def test_no_odd_value_breaks_the_lookup(tmp_path, routewright, odd):
    for keys in ("name: X", "name: a, model: X", "name: a, base_url: X", "name: a, provider: X"):
        assert routewright("check", write(tmp_path, keys.replace("X", odd)))[0] in (0, 2)
    file = write(tmp_path, f"name: gpt-4o, price_list: {odd}")
    assert routewright("check", file)[0] in (0, 2)
    assert routewright("check", write(tmp_path, "name: a", head=f"price_list: {odd}\n"))[0] in (
        0,
        2,
    )


def test_the_shipped_list_is_small_dated_and_has_every_offer():
    text = prices.SHIPPED.read_text()
    assert len(text) < 60_000
    about = json.loads(text)
    assert "MIT" in about["source"]
    assert about["version"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", about["date"])
    assert len(prices.shipped().models) == len(about["models"]), "every entry can be read"
    for vendor in prices.VENDORS:
        for model in vendor.offers:
            assert prices.shipped().find(model, vendor), (vendor.id, model)


# --- capabilities ----------------------------------------------------------------------------


def ask_with_tools(**traits) -> tuple[Upstream, object]:
    upstream = Upstream()

    async def go() -> object:
        async with (
            running(upstream),
            front(config_of(upstream.expert("small", **traits))) as client,
        ):
            try:
                return await client.chat.completions.create(
                    model="auto", messages=asked(), tools=[TOOL]
                )
            except openai.APIStatusError as error:
                return error

    return upstream, asyncio.run(go())


def test_an_agent_with_tools_reaches_an_expert_whose_capabilities_are_unknown():
    upstream, reply = ask_with_tools()
    assert reply.choices[0].message.content == "hello there"
    assert upstream.bodies[0]["tools"] == [TOOL]


def test_a_list_of_capabilities_is_complete_and_the_refusal_names_the_key():
    upstream, error = ask_with_tools(capabilities=["json"])
    assert upstream.requests == 0
    assert error.status_code == 422
    assert "lacks tools (if it can do this, add tools to its `capabilities:`" in str(error)
