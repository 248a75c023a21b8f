"""Every strategy, encoder and predictor in the tree keeps its contract, without being listed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from models import QUICK, tiny_base, tiny_sentence_model, tiny_static_model
from routewright import checks
from routewright.prediction.encoders import build
from routewright.registry import find, names
from routewright.strategies._recorded import run
from routewright.strategies.cascade import Cascade
from routewright.strategies.fixed import Fixed

JUDGES = {"judge": "Fine.\nRating: 7", "pairwise": "The first.\nBetter: 1"}
NEEDS_MODEL = {"static": tiny_static_model, "sentence": tiny_sentence_model}
NEEDS_BASE = ("transformer",)


@pytest.mark.parametrize("check", checks.STRATEGY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", names("strategies"))
def test_strategy(name, check):
    check(checks.example(name))


@pytest.mark.parametrize("name", names("encoders"))
def test_encoder(name, tmp_path: Path):
    if name in NEEDS_MODEL:
        source = NEEDS_MODEL[name](tmp_path / "model")
        checks.check_encoder(lambda: build(f"{name}={source}"), tmp_path)
    elif name == "concat":
        checks.check_encoder(lambda: build("lexical+surface+domain"), tmp_path)
    else:
        checks.check_encoder(lambda: build(name), tmp_path)


def predictor(name: str, folder: Path):
    cls = find("predictors", name)
    return partial(cls, str(tiny_base(folder / "base")), **QUICK) if name in NEEDS_BASE else cls


@pytest.mark.parametrize("name", names("graders"))
def test_grader(name):
    if name in JUDGES:
        judge = find("graders", name)("umpire")
        checks.check_judge(judge, ["a", "b", "c"], JUDGES[name], bad="7, or the first one")
    elif name not in (
        "function",
        "majority",
        "reward",
        "unscored",
    ):  # grades as yours does: tests/test_graders.py
        arguments = ("ANSWER: (\\w+)",) if name == "pattern" else ()
        checks.check_grader(find("graders", name)(*arguments))


@pytest.mark.parametrize("name", names("predictors"))
def test_predictor(name, tmp_path: Path):
    checks.check_predictor(predictor(name, tmp_path), tmp_path)


@pytest.mark.parametrize("name", [n for n in names("predictors") if n != "prior"])
def test_predictor_learns_which_expert_is_good_at_what(name, tmp_path: Path):
    assert checks.it_learns_topics(predictor(name, tmp_path)) > 0.15


def test_a_strategy_that_asks_after_its_final_answer_is_caught():
    from routewright.types import Ask, Decision

    class Greedy:
        def plan(self, query):
            yield Ask("small", final=True)
            answer = yield Ask("large")
            return Decision(answer, because="wanted more")

    with pytest.raises(AssertionError, match="after a final ask"):
        checks.it_keeps_its_word_on_final_asks(Greedy())


def test_a_strategy_whose_table_is_not_its_plan_is_caught():
    class Boastful(Cascade):
        def over(self, rows):
            return run(Fixed("small"), rows)

    checks.it_runs_over_a_table_as_it_is_replayed(checks.example("cascade"))
    with pytest.raises(AssertionError, match="the result on a table must equal"):
        checks.it_runs_over_a_table_as_it_is_replayed(Boastful(checks.EXPERTS))
