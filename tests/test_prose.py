"""Answers in prose and code are evidence too: `auto` reads what they say by themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routewright.answers import reading
from routewright.data import outcomes
from routewright.errors import BadRouter
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.router.router import Router
from routewright.strategies.auto import Auto
from tables import swept_as_replayed, write
from upstream import paths_live_as_replayed

CHEAP = ("ada", "bob")
EVERYBODY = (*CHEAP, "sage")
SUBJECTS = ("rivers", "bread", "clocks", "bridges", "violins", "glaciers", "markets", "lenses")
FACTS = ("They are old.", "Many people know them.", "Their history is long.", "Some are small.")


def essay(rng: np.random.Generator, subject: str, right: bool) -> str:
    """A right answer keeps to the subject and has several sentences; a wrong one mostly refuses or
    breaks off."""
    if not right and rng.random() < 0.5:
        return f"I'm sorry, I cannot say anything about {subject}. " + "Please ask me again. " * 3
    facts = " ".join(rng.choice(FACTS, rng.integers(4, 9)))
    return f"Here is what is known of {subject}. {facts}" if right else f"Well, {facts[:40]}"


def program(rng: np.random.Generator, subject: str, right: bool) -> str:
    """A right answer is Python; half of the wrong ones do not parse."""
    n = rng.integers(100)
    body = f"def {subject}(x):\n    y = x + {n}\n    return y * {n}\n"
    if not right:
        body = body[:-12] + "(" if rng.random() < 0.8 else f"def {subject}(x):\n    pass\n"
    return f"Here it is:\n```python\n{body}```" if rng.random() < 0.5 else body


def assignments(write_answer=essay, n: int = 240, seed: int = 0) -> pl.DataFrame:
    """Questions that say nothing about who answers well, with answers in prose or code."""
    rng = np.random.default_rng(seed)
    subjects = rng.choice(SUBJECTS, n)
    rows: dict[str, object] = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": [f"Tell me about {s}, please, number {i}." for i, s in enumerate(subjects)],
        "split": ["dev" if i % 3 == 0 else "train" for i in range(n)],
    }
    for name in EVERYBODY:
        right = rng.random(n) < (0.95 if name == "sage" else 0.55)
        rows[f"answer::{name}"] = [
            write_answer(rng, s, r) for s, r in zip(subjects, right, strict=True)
        ]
        rows[f"score::{name}"] = right.astype(float)
        rows[f"cost::{name}"] = rng.uniform(0.8, 1.2, n) * (0.02 if name == "sage" else 0.0005)
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("prose"), assignments())


@pytest.fixture(scope="module")
def dev(table):
    return outcomes.read(table, split="dev")


@pytest.fixture(scope="module")
def router(table):
    return fit(outcomes.read(table, split="train"))


def gain(router: Router, dev: outcomes.Outcomes) -> float:
    """Over the zero router, at half of the cost of the most expensive expert."""
    at = evaluate(router, dev).to_json()["at_cost_fraction"]["0.5"]
    return float(at["gain_over_zero_router"])


def test_prose_that_tells_by_itself_buys_quality_that_no_prompt_does(table, dev, routewright):
    folder = table.parent / "router"
    routewright("fit", table, "--out", folder)
    router = Router.load(folder)
    assert json.loads((folder / "router.json").read_text())["evidence"]["reading"]
    assert gain(router, dev) > 0.1
    folder = table.parent / "single"
    routewright("fit", table, "--out", folder, "--strategy", "single")
    assert gain(Router.load(folder), dev) < 0.03


def test_code_that_does_not_parse_is_known_for_wrong(tmp_path):
    path = write(tmp_path, assignments(program))
    router = fit(outcomes.read(path, split="train"))
    assert router.evidence is not None
    assert router.evidence.kind == "code"
    assert gain(router, outcomes.read(path, split="dev")) > 0.1


def test_a_router_that_reads_prose_decides_the_same_after_it_was_saved(router, dev, tmp_path):
    router.save(tmp_path / "router")
    again = Router.load(tmp_path / "router")
    one, other = (swept_as_replayed(Auto(r, 20.0), dev, r) for r in (router, again))
    np.testing.assert_allclose(one.cost, other.cost)
    assert (one.rung > 0).any()


def test_prose_decided_over_http_is_decided_as_replayed(router, dev):
    paths = paths_live_as_replayed([Auto(router, 20.0)], dev.rows(np.arange(15)))
    assert len(paths) >= 2, "the queries went different ways"


@pytest.mark.parametrize("sign", ["logprob", "verify"])
def test_log_probabilities_and_verifications_tell_of_prose_as_well(sign, tmp_path):
    """The texts tell nothing here: every answer is written as a right one."""
    rng = np.random.default_rng(1)
    frame = assignments(lambda rng, subject, right: essay(rng, subject, True), 300)
    for name in EVERYBODY:
        right = frame[f"score::{name}"].to_numpy() > 0
        sure = np.where(rng.random(len(frame)) < 0.9, right, ~right)
        told = np.where(sure, -0.1, -1.0) if sign == "logprob" else np.where(sure, 0.9, 0.1)
        frame = frame.with_columns(pl.Series(f"{sign}::{name}", told))
        if sign == "verify":
            frame = frame.with_columns(
                (pl.col(f"cost::{name}") * 0.3).alias(f"verify_cost::{name}")
            )
    path = write(tmp_path, frame)
    router = fit(outcomes.read(path, split="train"))
    assert router.evidence is not None
    checked = any(rung.checked for rung in router.evidence.rungs)
    assert router.evidence.logprobs if sign == "logprob" else checked
    assert gain(router, outcomes.read(path, split="dev")) > 0.05


def test_a_damaged_reading_is_refused(router, tmp_path):
    options, arrays = router.evidence.options(), router.evidence.arrays()
    load = partial_load(router)
    load(options, arrays)
    with pytest.raises(BadRouter, match="weights"):
        load(options, arrays | {"reading.weights": arrays["reading.weights"][:, :-1]})
    plain = {"members": [0], "plain": True, "depths": {}}
    without = {k: v for k, v in options.items() if k != "reading"}
    with pytest.raises(BadRouter, match="plain"):
        load(without | {"rungs": [*options["rungs"][:1], plain]}, arrays)


def partial_load(router):
    return lambda options, arrays: type(router.evidence).load(options, arrays, len(router.experts))


def test_answers_that_differ_in_space_alone_are_one_candidate():
    answers = np.array([["so  it is", "so it\nis ", "not so", "", None, " "]], dtype=object)
    assert reading.labels(answers).tolist() == [[0, 0, 1, -1, -1, -1]]


def test_a_blank_answer_never_replaces_one_that_says_something(router, dev):
    silent = replace(dev, answers=np.where(np.array(dev.experts) == "sage", "  ", dev.answers))
    ran = swept_as_replayed(Auto(router, 0.0), silent, router)
    asked = ran.asked[:, dev.experts.index("sage")] > 0
    assert asked.any()
    assert ran.kept[asked & (ran.rung > 0)].all()


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=300), prompt=st.text(max_size=60), piece=st.sampled_from('([-`{\n*"#'))
def test_any_text_can_be_read(router_of_any_text, text, prompt, piece):
    answers = np.array([[text, text + piece * 5000, piece * 4000 + text]], dtype=object)
    odds = router_of_any_text.log_odds([reading.Query.of(prompt)], answers, (0, 1, 2))
    assert np.isfinite(odds).all()
    assert (abs(odds) <= reading.FOREMOST).all()
    assert np.isfinite(reading.likeness(answers)).all()


@pytest.fixture(scope="module")
def router_of_any_text(router):
    return router.evidence.reading


def test_chat_answers_are_read_as_the_short_texts_that_interview_recorded(tmp_path):
    """A table holds what was graded ("Berlin"), and experts that are served say more."""
    rng = np.random.default_rng(3)
    n, towns = 200, np.array(["Berlin", "Rome", "Paris", "Madrid", "Vienna", "Oslo"])
    gold, easy = rng.integers(6, size=n), rng.random(n) < 0.6
    rows: dict[str, object] = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": [f"Which town is it, number {i}?" for i in range(n)],
        "split": ["train"] * n,
    }
    for name in EVERYBODY:
        right = rng.random(n) < (0.95 if name == "sage" else np.where(easy, 0.9, 0.1))
        place = np.where(right, gold, (gold + rng.integers(1, 6, n)) % 6)
        rows[f"answer::{name}"] = towns[place].tolist()
        rows[f"score::{name}"] = right.astype(float)
        rows[f"cost::{name}"] = rng.uniform(0.8, 1.2, n) * (0.02 if name == "sage" else 0.0005)
    table = outcomes.read(write(tmp_path, pl.DataFrame(rows)))
    router = fit(table)
    assert router.evidence is not None
    router.save(tmp_path / "router")
    says = (
        "Good question! The town is **{}**. It has a long history and many visitors every year.",
        "**{}**, a town that many people know and that is well worth a visit in spring.",
        "There were several to choose from at first sight. So the answer is {}.",
    )
    chat = np.array(
        [[s.format(a) for s, a in zip(says, row, strict=True)] for row in table.answers.tolist()],
        dtype=object,
    )
    short = swept_as_replayed(Auto(router, 10.0), table, router)
    served = Router.load(tmp_path / "router")
    whole = swept_as_replayed(Auto(served, 10.0), replace(table, answers=chat), served)
    assert (short.rung > 0).any()
    np.testing.assert_array_equal(short.asked, whole.asked)
