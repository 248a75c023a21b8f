"""Tool calls as answers: they are compared by what they call, recorded, and weighed when served."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from routewright.answers import calls, equivalence
from routewright.data import outcomes
from routewright.fitting import ladder
from routewright.fitting.fit import fit
from routewright.router.router import Router
from tables import write
from test_interview import serving
from upstream import Upstream, asked, config_of, front, running

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ROME = 'weather(city="Rome", days=2)'
CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Quito")


def message(city: str) -> dict:
    arguments = json.dumps({"city": city})
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "same",
    [
        'weather(days=2, city="Rome")',
        "[weather(city='rome', days=2.0)]",
        "```python\nweather(city='Rome', days=2);\n```",
        '[{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\", \\"days\\": 2}"}]',
        '{"name": "weather", "parameters": {"days": 2, "city": " Rome "}}',
        '[{"weather": {"city": "Rome", "days": 2}}]',
        '[{"type": "function", "function": {"name": "weather", "arguments":'
        ' {"city": "Rome", "days": 2}}}]',
    ],
)
def test_a_call_is_the_same_in_every_notation(same):
    assert calls.is_call(same)
    assert equivalence.same("calls", ROME, same)


@pytest.mark.parametrize(
    "other",
    [
        'weather(city="Rome")',
        'weather(city="Rome", days="two")',
        'forecast(city="Rome", days=2)',
        'weather(city="Rome", days=2); weather(city="Rome", days=3)',
        'weather(city="Rome", days=2',
        "I have no tool for that.",
        "weather(city=here, days=2)",
    ],
)
def test_another_call_is_another_answer(other):
    assert equivalence.same("calls", ROME, other) is False


def test_answers_without_a_call_agree_and_empty_ones_do_not():
    texts = ["I have no tool for that.", "Which city do you mean?", "", None, "f(1)", "f( 1 )"]
    assert equivalence.group("calls", texts) == (0, 0, -1, -1, 1, 1)
    two = ['[f(1), g("a")]', '[g("a"), f(1)]']
    assert equivalence.same("calls", *two), "calls that run side by side have no order"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.characters(codec="utf-8")),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("abc"), part, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=3), VALUES, max_size=3))
def test_python_and_json_say_the_same_for_any_arguments(arguments):
    in_json = json.dumps([{"name": "tool.name", "arguments": json.dumps(arguments)}])
    in_python = f"tool_name({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
    assert calls.key(in_json) == calls.key(in_python)


def exam(n: int = 420) -> pl.DataFrame:
    """Three cheap experts and a good one call a tool, each in a notation of its own."""
    rng = np.random.default_rng(0)
    gold, easy = rng.integers(0, 5, n), rng.random(n) < 0.6
    write_call = {
        "ada": lambda city: f'weather(city="{city}")',
        "bob": lambda city: f"[weather(city='{city.lower()}')]",
        "cyd": lambda city: json.dumps([{"weather": json.dumps({"city": city})}]),
        "sage": lambda city: json.dumps([{"name": "weather", "arguments": {"city": city}}]),
    }
    rows: dict[str, object] = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": [f"Question {i}: what is the weather? {rng.integers(1000)}" for i in range(n)],
        "split": ["dev" if i % 3 == 0 else "train" for i in range(n)],
    }
    for name, words in write_call.items():
        chance = np.full(n, 0.95) if name == "sage" else np.where(easy, 0.9, 0.15)
        wrong = (gold + rng.integers(1, 5, n)) % 5
        cities = np.where(rng.random(n) < chance, gold, wrong)
        rows[f"answer::{name}"] = [words(CITIES[c]) for c in cities]
        rows[f"score::{name}"] = (cities == gold).astype(float)
        rows[f"cost::{name}"] = np.full(n, 0.02 if name == "sage" else 0.0005)
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    table = outcomes.read(write(folder, exam()), split="train")
    fitted = fit(table, encoder="surface", predictor="prior")
    fitted.save(folder / "router")
    return folder / "router"


def test_agreement_between_calls_is_worth_more_than_a_fixed_mix(router):
    fitted = Router.load(router)
    assert ladder.kind_of(outcomes.read(router.parent / "outcomes.parquet")) == "calls"
    assert fitted.evidence is not None
    assert fitted.at(max_cost_fraction=0.5).gain > 0.05


@pytest.mark.parametrize(("third", "asked_last"), [("Rome", 0), ("Oslo", 1)])
def test_a_served_router_compares_the_calls_of_its_committee(router, third, asked_last):
    cities = {"ada": "Rome", "bob": "Rome" if third == "Rome" else "Lima", "cyd": third}
    upstreams = {name: Upstream(message=message(city)) for name, city in cities.items()}
    upstreams["sage"] = Upstream(message=message("Cairo"))

    async def work():
        async with running(*upstreams.values()):
            entries = [up.expert(name, capabilities=["tools"]) for name, up in upstreams.items()]
            auto = {"strategy": "auto", "router": str(router), "max_cost_fraction": 0.5}
            async with front(config_of(*entries, policies={"default": auto})) as client:
                return await client.chat.completions.create(
                    model="auto",
                    messages=asked("Question 123: what is the weather? 456"),
                    tools=TOOLS,
                )

    reply = asyncio.run(work())
    assert upstreams["ada"].requests == 1
    assert upstreams["sage"].requests == asked_last
    city = json.loads(reply.choices[0].message.tool_calls[0].function.arguments)["city"]
    assert city == ("Cairo" if asked_last else "Rome")


def test_an_interview_records_calls_and_remembers_them(tmp_path):
    row = {"prompt": "What is the weather?", "reference": "Rome", "options": {"tools": TOOLS}}
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "q1", **row}) + "\n")
    words = [sys.executable, "-m", "routewright", "interview", "routewright.yaml", "q.jsonl"]
    words += ["--out", "t.parquet", "--grader", "includes"]
    upstream = Upstream(message=message("Rome"))
    expert = upstream.expert("small", capabilities=["tools"])
    with serving(upstream):
        config = {"version": 1, "experts": [{**expert, "base_url": upstream.url}]}
        config["policies"] = {"default": {"strategy": "fixed", "options": {"expert": "small"}}}
        (tmp_path / "routewright.yaml").write_text(yaml.safe_dump(config))
        for _ in range(2):
            subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, timeout=600)
            table = outcomes.read(tmp_path / "t.parquet")
            assert calls.key(table.answers[0, 0]) == calls.key('weather(city="Rome")')
            assert table.score[0, 0] == 1
            (tmp_path / "t.parquet").unlink()
    assert upstream.requests <= 2, "one probe and one answer"
