"""With few labels, what experts agree on decides; a model of it takes the place of rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright import metrics
from routewright.answers import equivalence
from routewright.cli.main import app
from routewright.data import outcomes
from routewright.errors import BadTable
from routewright.evaluation.evaluate import evaluate
from routewright.fitting import agreement
from routewright.fitting.fit import fit
from routewright.fitting.sample import ROWS, draw
from routewright.fitting.unlabelled import expected
from routewright.router.router import Router
from routewright.types import Query
from tables import write

EXPERTS = ("ada", "bob", "cyd", "sage")


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def exam(n: int, seed: int = 0) -> pl.DataFrame:
    """Multiple choice of varying difficulty, which prompts do not show; `sage` is expensive."""
    rng = np.random.default_rng(seed)
    ability = np.array([0.2, 0.3, 0.1, 2.2])
    right = rng.random((n, 4)) < 1 / (1 + np.exp(-ability - 2 * rng.normal(size=(n, 1))))
    gold = rng.integers(0, 8, (n, 1))
    letters = np.where(right, gold, (gold + rng.integers(1, 8, (n, 4))) % 8)
    columns: dict[str, object] = {
        "id": [f"q{seed}-{i}" for i in range(n)],
        "prompt": [f"Question {seed}-{i:04}: which of these is it?" for i in range(n)],
    }
    for m, name in enumerate(EXPERTS):
        columns[f"answer::{name}"] = ["ABCDEFGH"[letter] for letter in letters[:, m]]
        columns[f"score::{name}"] = right[:, m].astype(float)
        columns[f"cost::{name}"] = rng.uniform(0.8, 1.2, n) * (0.02 if name == "sage" else 0.0005)
    return pl.DataFrame(columns)


def shuffled(frame: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """The same with the answers of other rows: they say nothing of who is right."""
    rng = np.random.default_rng(seed)
    return frame.with_columns(
        **{
            f"answer::{name}": frame[f"answer::{name}"].sample(
                fraction=1.0, shuffle=True, seed=int(rng.integers(1000))
            )
            for name in EXPERTS
        }
    )


def test_fifty_labels_are_enough_for_agreement(tmp_path):
    rows = outcomes.read(write(tmp_path, exam(50)))
    router = fit(rows, encoder="surface", predictor="prior")
    points = [point for point in router.frontier if point.strategy == "auto"]
    assert points, "some points of fifty rows are served"
    (tmp_path / "more").mkdir()
    figures = evaluate(router, outcomes.read(write(tmp_path / "more", exam(1500, 1)))).to_json()
    assert figures["at_cost_fraction"]["0.5"]["gain_over_zero_router"] > 0.03


def test_answers_that_say_nothing_of_their_scores_are_no_prior(tmp_path):
    for seed in range(10):
        rows = outcomes.read(write(tmp_path, shuffled(exam(50, seed), seed)))
        labels = equivalence.labels("letter", rows.answers)
        assert len(draw(rows, labels).row) == 0
    router = fit(rows, encoder="surface", predictor="prior")
    assert {point.strategy for point in router.frontier} == {"fixed"}


def test_the_model_is_found_in_what_it_draws():
    model = agreement.Agreement(np.array([-0.5, 0.0, 0.5, 2.0]), 1.8, 1.6)
    right, labels = model.draw(2000, np.random.default_rng(0))
    fitted = agreement.fit(labels, right.astype(float))
    np.testing.assert_allclose(fitted.ability, model.ability, atol=0.2)
    assert fitted.difficulty == pytest.approx(1.8, abs=0.25)
    assert fitted.scatter == pytest.approx(1.6, abs=0.35)
    chances = model.chances(labels)
    for low in (0.0, 0.2, 0.6, 0.8):
        near = (chances >= low) & (chances < low + 0.2)
        assert right[near].mean() == pytest.approx(chances[near].mean(), abs=0.06)


def test_unreadable_answers_are_drawn_as_often_as_they_are_recorded(tmp_path):
    frame = exam(200)
    silent = [i % 4 == 0 and s == 0 for i, s in enumerate(frame["score::ada"])]
    answers = [None if s else a for s, a in zip(silent, frame["answer::ada"], strict=True)]
    rows = outcomes.read(write(tmp_path, frame.with_columns(pl.Series("answer::ada", answers))))
    labels = equivalence.labels("letter", rows.answers)
    sample = draw(rows, labels)
    assert len(sample.row) == ROWS
    assert (sample.labels[:, 0] < 0).mean() == pytest.approx(np.mean(silent), abs=0.05)
    assert (sample.labels[:, 1:] >= 0).all()
    assert sample.score[sample.labels < 0].max() == 0


def unlabelled(frame: pl.DataFrame, rows: int = 0) -> pl.DataFrame:
    """The same with the scores of the first rows only."""
    scores = [column for column in frame.columns if column.startswith("score::")]
    if not rows:
        return frame.drop(scores)
    first = pl.int_range(pl.len()) < rows
    return frame.with_columns(pl.when(first).then(pl.col(scores)).otherwise(None))


def test_answers_without_any_score_give_a_router_that_says_it_is_unproven(tmp_path):
    table = write(tmp_path, unlabelled(exam(400)))
    result = cli("fit", table, "--out", tmp_path / "router", "--predictor", "prior")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "Unproven: no row is scored" in shown
    assert "if sage is the best expert (it is the most expensive)" in shown
    router = Router.load(tmp_path / "router")
    assert all(point.unproven for point in router.frontier)
    assert any(point.strategy == "auto" for point in router.frontier)
    (tmp_path / "more").mkdir()
    figures = evaluate(router, outcomes.read(write(tmp_path / "more", exam(1500, 1)))).to_json()
    assert figures["at_cost_fraction"]["0.5"]["gain_over_zero_router"] > 0.03
    assert any("fitted by agreement" in warning for warning in figures["warnings"])


def test_the_first_labels_change_little(tmp_path):
    qualities = []
    for scored in (0, 1, 5, 19):
        rows = outcomes.read(write(tmp_path, unlabelled(exam(400), scored)), unscored=True)
        table, assumption = expected(rows)
        assert assumption
        assert np.array_equal(table.score[:scored], rows.score[:scored])
        qualities.append(table.score.mean(axis=0))
    assert np.abs(np.diff(qualities, axis=0)).max() < 0.1
    assert all(quality.argmax() == EXPERTS.index("sage") for quality in qualities)
    rows = outcomes.read(write(tmp_path, unlabelled(exam(400), 20)))
    assert expected(rows) == (rows, None), "only scores count"


def test_a_table_without_scores_and_answers_is_refused(tmp_path):
    bare = unlabelled(exam(60)).drop([f"answer::{name}" for name in EXPERTS])
    result = cli("fit", write(tmp_path, bare), "--out", tmp_path / "router")
    assert isinstance(result.exception, BadTable)
    assert "no column is called score::EXPERT" in str(result.exception)


def test_two_experts_without_scores_are_refused_with_the_way_out(tmp_path):
    bare = unlabelled(exam(60)).drop("answer::ada", "answer::bob", "cost::ada", "cost::bob")
    table = write(tmp_path, bare)
    result = cli("fit", table, "--out", tmp_path / "router")
    assert isinstance(result.exception, BadTable)
    assert "the answers of cyd, sage cannot take the place of scores" in str(result.exception)
    assert "agreement needs 3 experts" in str(result.exception)
    assert "routewright regrade TABLE" in str(result.exception)
    blank = pl.lit(None, pl.Float64)
    table = write(tmp_path, bare.with_columns(**{"score::cyd": blank, "score::sage": blank}))
    with pytest.raises(BadTable, match=r"cyd, sage: grade its answers with .* or a judge"):
        outcomes.read(table)  # as `evaluate` does


TOWNS = ("Canberra", "Peru", "the Nile", "Swiss franc", "Vatican City", "AB", "Rome", "Oslo")
STYLES = {
    "ada": "{}",
    "bob": "It is {}.",
    "cyd": "{} is the answer to question {}.",
    "sage": "That is well known and has been so for a long time. The answer is **{}**.",
}


def in_prose(frame: pl.DataFrame, styles: dict[str, str]) -> pl.DataFrame:
    """The same with short texts in place of letters, written in a style of each expert."""
    numbers = [prompt.split()[1].rstrip(":") for prompt in frame["prompt"]]
    columns = {}
    for name, style in styles.items():
        towns = [TOWNS["ABCDEFGH".index(letter)] for letter in frame[f"answer::{name}"]]
        answers = [style.format(t, n) for t, n in zip(towns, numbers, strict=True)]
        columns[f"answer::{name}"] = pl.Series(answers)
    prompts = [f"What is the answer to question {number}?" for number in numbers]
    return frame.with_columns(prompt=pl.Series(prompts), **columns)


def test_answers_in_sentences_agree_as_their_short_answers_do(tmp_path):
    frame = unlabelled(exam(200))
    qualities = []
    for styles in (dict.fromkeys(EXPERTS, "{}"), STYLES):
        rows = outcomes.read(write(tmp_path, in_prose(frame, styles)), unscored=True)
        qualities.append(expected(rows)[0].score.mean(axis=0))
    np.testing.assert_allclose(*qualities, atol=1e-6)
    evidence = fit(rows, encoder="surface", predictor="prior", strategy="auto").evidence
    assert evidence is not None
    assert evidence.claims, "answers are read so when it serves"


def test_answers_that_hardly_ever_agree_are_no_ground_for_qualities(tmp_path):
    frame = unlabelled(exam(60))
    rng = np.random.default_rng(0)
    columns = {
        f"answer::{name}": pl.Series([f"town {n}" for n in rng.permutation(10_000)[:60]])
        for name in EXPERTS
    }
    rows = outcomes.read(write(tmp_path, frame.with_columns(**columns)), unscored=True)
    _, assumption = expected(rows)
    assert "% of the rows do any two answers agree, so these qualities mean little" in assumption


def test_the_luckiest_of_many_cheap_experts_is_not_taken_for_a_good_one():
    """Eight experts of one price and quality, one in the middle, and an expensive one; 50 rows."""
    promised, delivered = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = np.array([*[0.6] * 8, 0.7, 0.8])
        cost = np.array([*[0.001] * 8, 0.004, 0.05])
        score = (rng.random((50, 10)) < truth).astype(float)
        rows = outcomes.Outcomes(
            experts=tuple(f"e{m}" for m in range(10)),
            queries=tuple(Query.of(f"question {seed}-{i}") for i in range(50)),
            measures={"score": score, "cost": np.tile(cost, (50, 1))},
        )
        router = fit(rows, encoder="surface", predictor="prior", strategy="single")
        cheap = min(router.frontier, key=lambda point: point.cost)
        promised.append(cheap.quality)
        delivered.append(sum(truth[rows.experts.index(e)] * s for e, s in cheap.shares.items()))
    assert np.mean(promised) < np.mean(delivered) + 0.05, "the best of eight is 0.09 too high"


def test_means_of_many_rows_are_hardly_drawn_together():
    rng = np.random.default_rng(0)
    scores = (rng.random((4000, 6)) < [0.5, 0.55, 0.6, 0.65, 0.7, 0.8]).astype(float)
    costs = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 20.0])
    np.testing.assert_allclose(metrics.shrunk(scores, costs), scores.mean(axis=0), atol=0.005)
    few = metrics.shrunk(scores[:, :3], costs[:3])
    np.testing.assert_array_equal(few, scores[:, :3].mean(axis=0))
