"""Other wordings of a prompt, the decisions that they change, and what that costs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes
from routewright.errors import BadInput
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.report import render
from routewright.evaluation.rewrites import REWRITES, SUFFIXES, reworded, suffix
from routewright.evaluation.robustness import robustness
from routewright.fitting.fit import fit
from routewright.router.frontier import fixed_mix
from routewright.router.router import Router
from routewright.types import Query
from tables import write

NOUNS = ("lamp", "river", "engine", "candle", "bridge", "planet", "forest", "window", "garden")
KEY = "theorem"  # a word that only prompts for the expensive expert have
FRACTIONS = (0.1, 0.25, 0.5, 0.75)


def keyed(n: int = 600) -> pl.DataFrame:
    """The cheap expert is right wherever the prompt lacks one word, the expensive one always."""
    rng = np.random.default_rng(0)
    hard = rng.random(n) < 0.4
    prompts = [
        " ".join(["tell me about", *rng.choice(NOUNS, 6), KEY if h else "story"]) for h in hard
    ]
    return pl.DataFrame(
        {
            "prompt": prompts,
            "group": [str(i) for i in range(n)],
            "split": ["dev" if i % 3 == 0 else "train" for i in range(n)],
            "score::small": (rng.random(n) < np.where(hard, 0.05, 0.95)).astype(float),
            "score::large": (rng.random(n) < 0.97).astype(float),
            "cost::small": np.full(n, 0.001),
            "cost::large": np.full(n, 0.01),
        }
    )


def mixture(share: float):
    """Always the small expert, or for a share of the queries the large one."""
    return fixed_mix({"small": 1 - share, "large": share} if share else {"small": 1.0})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("keyed"), keyed())


@pytest.fixture(scope="module")
def folder(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("routers") / "router"
    fit(outcomes.read(path, split="train"), strategy="single", predictor="linear").save(folder)
    return folder


@pytest.fixture(scope="module")
def router(folder) -> Router:
    # Without novelty every prompt is decided by predictions, so that only these are measured.
    loaded = Router.load(folder)
    return replace(loaded, novelty=type(loaded.novelty)())


@pytest.fixture(scope="module")
def dev(path):
    return outcomes.read(path, split="dev")


@pytest.fixture(scope="module")
def facts(router, dev):
    return robustness(router, dev)


def test_a_router_that_keys_on_a_word_is_found_fragile(router, dev, facts):
    half = next(point for point in facts["points"] if point["cost_fraction"] == 0.5)
    assert KEY in half["gadget"]["words"].split(), "the search finds the word that decides"
    attack = half["suffixes"]
    assert attack["worst"] == "gadget"
    assert attack["changed"] > 0.5
    assert attack["more_expensive"] > 0.5, "of the prompts without the word"
    assert attack["cost"] > 1.5 * half["cost"]
    plain = half["suffixes"]["each"]["hard"]
    assert plain["changed"] < attack["changed"], "which nobody could guess"


def test_what_it_costs_is_what_the_recorded_answers_of_those_asked_cost(router, dev, facts):
    half = next(point for point in facts["points"] if point["cost_fraction"] == 0.5)
    shout = suffix(half["gadget"]["words"])
    attacked = replace(dev, queries=tuple(reworded(query, shout) for query in dev.queries))
    small = robustness(router, attacked, rows=10_000)["points"]
    again = next(point for point in small if point["cost_fraction"] == 0.5)
    assert again["cost"] == pytest.approx(half["suffixes"]["cost"], rel=0.1)


def test_a_fixed_mix_is_exactly_as_robust_as_can_be(router, dev):
    points = tuple(
        replace(
            point,
            **mixture(share)._asdict(),
            cost=0.001 + 0.009 * share,
            cost_fraction=0.1 + 0.9 * share,
        )
        for share, point in zip((0.0, 0.1, 0.6), router.frontier, strict=False)
    )
    facts = robustness(replace(router, frontier=points), dev)
    assert [point["cost_fraction"] for point in facts["points"]] == list(FRACTIONS)
    for point in facts["points"]:
        assert point["gadget"] is None, "nothing is searched for where no choice is learned"
        for kind in ("rewrites", "suffixes"):
            for one in point[kind]["each"].values():
                assert (one["changed"], one["more_expensive"]) == (0.0, 0.0)
                assert (one["cost"], one["quality"]) == (point["cost"], point["quality"])


def test_the_draw_of_a_mix_for_unfamiliar_prompts_is_no_change(folder, dev):
    router = Router.load(folder)
    router.novelty.usual = 1e9  # every prompt is unlike the training rows
    for point in robustness(router, dev)["points"]:
        assert point["unfamiliar"] == 1.0
        assert point["suffixes"]["changed"] == point["rewrites"]["changed"] == 0.0


def test_the_same_seed_gives_the_same_figures(router, dev, facts):
    assert json.dumps(robustness(router, dev)) == json.dumps(facts)
    part = robustness(router, dev, rows=50)
    assert (part["rows"], part["of"]) == (50, len(dev))


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_leaves_code_and_the_lot_alone(name):
    code = '```python\nif  x == "Find":\n    return 1. \n```'
    query = Query.of(f'Please find "the strange answer" - it\'s here. Explain.\n{code}\nDone.')
    other = reworded(query, REWRITES[name])
    assert other.text != query.text
    assert code in other.text
    assert other.lot == query.lot
    assert reworded(query, REWRITES[name]).text == other.text, "the same on every call"


def test_the_last_user_message_is_reworded_also_if_it_has_parts():
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Hi"}]
    talk = (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Yes?"},
    )
    query = reworded(Query(talk), suffix("please"))
    assert query.text == "Hi\n\nplease"
    assert query.messages[0] == talk[0]
    assert query.messages[2] == talk[2]
    assert parts[1]["text"] == "Hi", "the messages of the table stay as they are"
    assert reworded(Query(({"role": "user"},)), suffix("please")).text == ""


def test_evaluate_says_it_on_the_terminal_in_json_and_in_the_report(folder, path, tmp_path):
    written, page = tmp_path / "figures.json", tmp_path / "report.html"
    words = ["evaluate", str(folder), str(path)]
    result = CliRunner().invoke(
        app, [*words, "--robustness", "--json", str(written), "--html", str(page)]
    )
    assert result.exit_code == 0, result.output
    assert "rewrites that keep the meaning change" in result.output
    figures = json.loads(written.read_text())
    assert [p["cost_fraction"] for p in figures["robustness"]["points"]] == list(FRACTIONS)
    each = figures["robustness"]["points"][0]["suffixes"]["each"]
    assert set(each) >= set(SUFFIXES)
    html = page.read_text()
    assert "How robust are its decisions?" in html
    assert "--robustness" in html
    plain = CliRunner().invoke(app, [*words, "--json", "-"])
    assert "robustness" not in json.loads(plain.stdout)


def test_without_costs_the_point_at_lambda_0_is_measured(tmp_path):
    bare = write(tmp_path, keyed().select(pl.exclude("^cost::.*$")))
    router = fit(outcomes.read(bare, split="train"), strategy="single", predictor="linear")
    rows = outcomes.read(bare, split="dev")
    (point,) = robustness(router, rows)["points"]
    assert point["cost_fraction"] is point["cost"] is point["suffixes"]["more_expensive"] is None
    assert point["suffixes"]["changed"] is not None
    measured = evaluate(router, rows, replicates=10)
    assert "λ = 0" in render(
        measured, {**measured.to_json(), "robustness": robustness(router, rows)}
    )


def test_a_config_has_no_robustness_of_its_own(path, tmp_path):
    config = tmp_path / "routewright.yaml"
    config.write_text("experts: []\n")
    result = CliRunner().invoke(app, ["evaluate", str(config), str(path), "--robustness"])
    assert isinstance(result.exception, BadInput)
    assert "name the folder of the policy's router" in str(result.exception)
