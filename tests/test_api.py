"""What `import routewright` gives: names, examples, and values that print as people read them."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import json
import pydoc
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openai
import pytest

import routewright
from routewright.data import outcomes
from routewright.errors import BadInput, NotAdmissible
from routewright.evaluation.evaluate import evaluate
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from tables import table, write

ROOT = Path(__file__).parent.parent


def with_long_names(frame, tmp_path):
    """The table with thirty experts, whose names are as long as those on hubs."""
    for n in range(27):
        name = f"an-organisation/a-model-with-a-long-name-{n}b-instruct-v0.1"
        frame = frame.with_columns(
            frame["score::sage"].alias(f"score::{name}"),
            frame["cost::sage"].alias(f"cost::{name}"),
        )
    return outcomes.read(write(tmp_path, frame))


def test_values_are_shown_in_one_short_line(router, outcome_table, tmp_path):
    held_out = outcomes.read(outcome_table, split="dev")
    many = with_long_names(table(40), tmp_path)
    for value in (router, held_out, many, evaluate(router, held_out, replicates=20)):
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)


def test_a_table_prints_the_quality_and_cost_of_each_expert(tmp_path):
    o = outcomes.read(write(tmp_path, table(40)))
    o.score[:, 0], o.cost[:, 0] = np.arange(40) < 10, 0.00123
    o.score[:4, 1], o.cost[:, 2] = np.nan, np.nan
    first, heading, adder, speller, sage = str(o).splitlines()
    assert first == "40 queries in 2 domains, split 'all'"
    assert heading.split() == ["expert", "scored", "quality", "US$", "per", "1,000"]
    assert adder.split() == ["adder", "40", "25.0", "%", "1.23"]
    assert speller.split()[:2] == ["speller", "36"]
    assert sage.split()[-1] == "?"


def test_long_tables_print_a_few_lines(tmp_path):
    lines = str(with_long_names(table(40), tmp_path)).splitlines()
    assert len(lines) < 20
    assert lines[-1] == "… and 15 more"


def test_a_router_prints_its_experts_and_the_range_of_its_points(router):
    first, _, *experts, last = str(router).splitlines()
    assert first == "Router over 3 experts, fitted on 300 queries"
    assert [line.split()[0] for line in experts] == list(router.experts)
    worst, best = (f(point.quality for point in router.frontier) for f in (min, max))
    assert last.startswith(f"{len(router.frontier)} operating points, from {100 * worst:.1f} % for")
    assert f"to {100 * best:.1f} % for" in last
    assert str(replace(router, card={}, frontier=())).startswith("Router over 3 experts\n")


def test_an_evaluation_prints_the_gain_over_the_zero_router(router, outcome_table):
    e = evaluate(router, outcomes.read(outcome_table, split="dev"))
    figures, shown = e.to_json(), str(e)
    half = figures["at_cost_fraction"]["0.5"]
    line = next(line for line in shown.splitlines() if "50 %" in line)
    assert f"{100 * half['quality']:.1f} %" in line
    low, high = half["gain_ci"]
    gain = f"{100 * half['gain_over_zero_router']:+.1f}"
    assert f"{gain} ({100 * low:+.1f} … {100 * high:+.1f})" in line
    assert "best single expert: sage" in shown
    assert f"AIQ {figures['aiq']:.3f}" in shown
    assert len(shown.splitlines()) < 12


def test_an_evaluation_of_one_strategy_prints_no_figures_of_a_router(router, outcome_table):
    rows = outcomes.read(outcome_table, split="dev")
    cheap, best = (Fixed(expert=name) for name in ("adder", "sage"))
    shown = str(evaluate(Mix(cheap, best, 0.5), rows)).splitlines()
    line = next(line for line in shown if line.startswith("the strategy"))
    assert re.search(r"[+-]\d+\.\d \([+-]\d+\.\d … [+-]\d+\.\d\)$", line), "its gain"
    assert not any("router at" in line or line.startswith("AIQ") for line in shown)


@pytest.mark.filterwarnings("error")
def test_an_evaluation_without_costs_prints_qualities_alone(tmp_path):
    from routewright.fitting.fit import fit

    rows = outcomes.read(write(tmp_path, table(120, costs=False)))
    shown = str(evaluate(fit(rows, strategy="single"), rows, replicates=20))
    assert "router at λ = 0" in shown
    assert "AIQ" not in shown
    assert str(rows).splitlines()[2].endswith("?")


# --- names ----------------------------------------------------------------------------------

FIFTEEN = set(
    "read fit evaluate replay decide serve Query Expert Ask Answer Decision Committee Strategy"
    " Outcomes Router".split()
)


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_exports_fifteen_names():
    assert set(routewright.__all__) == FIFTEEN
    assert set(dir(routewright)) >= FIFTEEN
    for name in FIFTEEN:
        assert getattr(routewright, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        _ = routewright.frobnicate


def test_importing_the_package_loads_no_library():
    code = """
import sys
before = set(sys.modules)
import routewright
dir(routewright)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(loaded - sys.stdlib_module_names, [name for name in sys.modules if "routewright." in name])
"""
    assert in_fresh_python(code) == "{'routewright'} []"


def test_a_name_loads_only_what_it_needs():
    code = """
import sys
from routewright import Query
print(sorted({"aiohttp", "polars", "starlette", "numpy"} & set(sys.modules)))
"""
    assert in_fresh_python(code) == "['numpy']"


@pytest.mark.parametrize("name", sorted(FIFTEEN))
def test_every_name_has_an_example_which_the_doctests_run(name):
    value = getattr(routewright, name)
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")
    assert any("rw." in example.source for example in examples)
    assert inspect.getsourcefile(value) != routewright.__file__  # --doctest-modules finds it there


def test_the_page_has_a_section_for_every_name():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == routewright.__all__


def check_api(folder, change=lambda names: None):
    """dev/check_api.py beside a snapshot with a change."""
    names = json.loads((ROOT / "dev" / "api.json").read_text(encoding="utf-8"))
    change(names)
    (folder / "api.json").write_text(json.dumps(names))
    script = shutil.copy(ROOT / "dev" / "check_api.py", folder)
    return subprocess.run([sys.executable, script], capture_output=True, text=True)


def test_the_api_is_as_its_snapshot_says(tmp_path):
    done = check_api(tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names.update({"Query.translate": "(self)"}), "removed: Query.translate\n"),
        (lambda names: names.update({"Router.at": "(self)"}), "changed: Router.at\n  was (self)\n"),
        (lambda names: names.pop("Outcomes.where"), "added: Outcomes.where\n"),
    ],
)
def test_a_change_of_the_api_is_noticed(tmp_path, change, message):
    done = check_api(tmp_path, change)
    assert done.returncode == 1
    assert message in done.stdout


def test_help_teaches():
    text = pydoc.render_doc(routewright, renderer=pydoc.plaintext)
    for word in ("Seven nouns", "Four steps", *FIFTEEN):
        assert word in text


def test_python_dash_m_is_the_command():
    command = [sys.executable, "-m", "routewright", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == routewright.__version__


# --- serve and decide -----------------------------------------------------------------------

CONFIG = """\
version: 1
experts:
  - {name: abacus, provider: sandbox, data_classes: [public, internal, restricted]}
  - {name: sage, provider: sandbox, output_per_mtok: 10.0}
policies:
  cheap: {strategy: fixed, options: {expert: abacus}}
  good: {strategy: fixed, options: {expert: sage}}
default_policy: good
server: {default_data_class: DATA_CLASS}
"""


def config(folder, data_class="public"):
    path = folder / "routewright.yaml"
    path.write_text(CONFIG.replace("DATA_CLASS", data_class))
    return path


def test_decide_follows_the_policy_that_is_named(tmp_path):
    path = config(tmp_path)
    for policy, expert in (("auto", "sage"), ("cheap", "abacus"), ("routewright/good", "sage")):
        decision = asyncio.run(routewright.decide("What is 970 + 89?", config=path, policy=policy))
        assert decision.path == decision.answer.expert == expert
        assert decision.answer.text == "1059"
    with pytest.raises(BadInput, match="'clever' does not exist"):
        asyncio.run(routewright.decide("hi", config=path, policy="clever"))


def test_a_text_has_the_data_class_that_the_config_says(tmp_path):
    path = config(tmp_path, "restricted")
    with pytest.raises(NotAdmissible, match="sage"):
        asyncio.run(routewright.decide("What is 2 + 2?", config=path))
    assert asyncio.run(routewright.decide("What is 2 + 2?", config=path, policy="cheap"))
    public = routewright.Query.of("What is 2 + 2?")
    assert asyncio.run(routewright.decide(public, config=path)).answer.expert == "sage"


def test_serve_runs_until_it_is_interrupted(tmp_path):
    code = f"import routewright as rw; print(rw.serve({str(config(tmp_path))!r}, port=0).routes[0])"
    command = [sys.executable, "-c", code]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1]
        message = {"role": "user", "content": "What is 970 + 89?"}
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=20)
        reply = client.chat.completions.create(model="cheap", messages=[message])
        assert reply.choices[0].message.content == "1059"
    finally:
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=600)
    assert "/v1/chat/completions" in rest, errors
