"""Which option looks right by its text alone, and what `auto` makes of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.answers import multiple_choice
from routewright.cli.main import app
from routewright.data import outcomes
from routewright.drive import replay
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.router.router import Router
from routewright.strategies.auto import Auto
from routewright.types import Query
from tables import swept_as_replayed, write

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")


def exam(n: int = 700, seed: int = 0, telling: bool = True) -> pl.DataFrame:
    """Multiple choice: two weak cheap experts and a good dear one; where the texts are `telling`
    the right option is often the longest."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 6, n)
    longest = np.where(rng.random(n) < (0.6 if telling else 1 / 6), gold, rng.integers(0, 6, n))
    prompts = []
    for i in range(n):
        options = [" ".join(rng.choice(WORDS, 5 if j == longest[i] else 2)) for j in range(6)]
        listed = "\n".join(f"{'ABCDEF'[j]}. {option}" for j, option in enumerate(options))
        prompts.append(f"Question {i}: which one is it?\n{listed}")
    rows: dict[str, object] = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": prompts,
        "split": ["dev" if i % 3 == 0 else "train" for i in range(n)],
    }
    for name, chance, price in (("ada", 0.5, 1e-4), ("bob", 0.5, 1e-4), ("sage", 0.9, 1e-2)):
        wrong = (gold + rng.integers(1, 6, n)) % 6
        said = np.where(rng.random(n) < chance, gold, wrong)
        rows[f"answer::{name}"] = ["ABCDEF"[a] for a in said]
        rows[f"score::{name}"] = (said == gold).astype(float)
        rows[f"cost::{name}"] = np.full(n, price)
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A router that was saved and loaded, and the rows that it was not fitted on."""
    folder = tmp_path_factory.mktemp("choices")
    path = write(folder, exam())
    rows = outcomes.read(path, split="train")
    fit(rows, encoder="surface", predictor="prior", option_style=True).save(folder / "r")
    return Router.load(folder / "r"), outcomes.read(path, split="dev")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Pick.\nA. one\nB. two", ["one", "two"]),
        ("Pick.\n(A) one\n(B) two\n(C) three\nfour", ["one", "two", "three\nfour"]),
        ("For example:\nA. x\nB. y\nNow:\nA) one\nB) two", ["one", "two"]),
        ("Pick.\nA. one\nC. three", []),
        ("A. Smith wrote it. When?", []),
        ("", []),
    ],
)
def test_options_are_read_off_the_text(text, options):
    assert multiple_choice.parse(text)[1] == options


@pytest.mark.parametrize("text", ["Pick.\nA.  \nB. x", "A. 1.2.3\nB. 1e300", "A. −5\nB. 7\nC. 9,1"])
def test_odd_options_have_finite_features(text):
    listed = multiple_choice.table([Query.of("no options here"), Query.of(text)])
    assert np.isfinite(listed.columns).all()
    assert set(listed.row) == {1}
    assert listed.letter.tolist() == list(range(len(listed.row)))
    assert all(len(grams) for grams in listed.grams)


def test_what_is_known_of_options_comes_from_the_answers():
    answers = np.array([["A", "C"], ["B", "B"], ["(D)", None]], dtype=object)
    score = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, np.nan]])
    found = multiple_choice.letter_scores(answers, score)[:, :4]
    np.testing.assert_array_equal(
        found, [[0, 0, 1, 0], [np.nan, 0, np.nan, np.nan], [np.nan, np.nan, np.nan, 0]]
    )


def test_the_right_option_is_found_where_its_text_tells(fitted):
    router, dev = fitted
    chances = router.evidence.option_chances(dev.queries)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    assert (chances[:, 6:] == 0).all(), "there are six options"
    right = multiple_choice.letter_scores(dev.answers, dev.score)
    hit = right[np.arange(len(dev)), chances.argmax(axis=1)]
    assert np.nanmean(hit) > 0.5, "and chance is a sixth"


def test_a_style_of_writing_is_found():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 4, 300)
    words = (("tallow", "yellow"), ("tarmac", "yarrow"))
    queries = []
    for g in gold:
        written = [rng.choice(words[int(j != g)]) for j in range(4)]
        listed = [f"{letter}. {word}" for letter, word in zip("ABCD", written, strict=True)]
        queries.append(Query.of("\n".join(["Which?", *listed])))
    said = np.array([["ABCD"[j] for j in range(4)]] * 300, dtype=object)
    score = (np.arange(4) == gold[:, None]).astype(float)
    held_out, model = multiple_choice.fit(queries, said, score, np.arange(300) % 3)
    assert (held_out.argmax(axis=1) == gold).mean() > 0.9
    assert (model.predict(queries[:50]).argmax(axis=1) == gold[:50]).mean() > 0.9


def test_half_a_surrogate_pair_is_no_trouble(fitted):
    router, _ = fitted
    chances = router.evidence.option_chances([Query.of("Which?\nA. \ud83d\nB. x\nC. ")])
    np.testing.assert_allclose(chances.sum(), 1.0)


def test_queries_without_options_have_no_such_forecast(fitted):
    router, _ = fitted
    assert np.isnan(router.evidence.option_chances([Query.of("What is it?")])).all()


def test_texts_that_tell_buy_quality_for_those_who_ask_for_it(fitted, tmp_path):
    router, dev = fitted
    default = fit(
        outcomes.read(write(tmp_path, exam()), split="train"), encoder="surface", predictor="prior"
    )
    assert default.evidence.choices is None
    with_style, without = (
        evaluate(r, dev).to_json()["at_cost_fraction"]["0.25"]["quality"] for r in (router, default)
    )
    assert with_style > without + 0.05


def test_the_command_line_learns_it_only_for_auto(tmp_path):
    words = ["fit", str(write(tmp_path, exam(300))), "--encoder", "surface", "--predictor", "prior"]
    words += ["--out", str(tmp_path / "r"), "--option-style"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert Router.load(tmp_path / "r").evidence.choices is not None
    refused = CliRunner().invoke(app, [*words, "--strategy", "frugal"])
    assert "--strategy auto" in str(refused.exception)


@pytest.mark.parametrize("price", [0.0, 20.0, 60.0])
def test_a_plan_that_looks_at_options_replays_as_over_arrays(fitted, price):
    router, dev = fitted
    swept_as_replayed(Auto(router, price), dev, router)
    bare = replace(dev.queries[0], messages=({"role": "user", "content": "No options."},))
    assert replay(Auto(router, price), bare, dev.record(0)).answer.status == "ok"
