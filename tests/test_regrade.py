"""Recorded answers are graded again for nothing, and doubtful grades are shown."""

from __future__ import annotations

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.errors import BadInput

CAPITALS = {"Germany": "Berlin", "France": "Paris", "Italy": "Rome", "Spain": "Madrid"} | {
    f"Land {i}": f"Town {i}" for i in range(6)
}


def run(*arguments):
    result = CliRunner().invoke(app, ["regrade", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def table(tmp_path):
    rows = [
        {
            "id": country,
            "prompt": f"What is the capital of {country}?",
            "reference": town,
            "score::chatty": 0.0,
            "answer::chatty": f"the answer is {town.lower()}",
            "text::chatty": f"The answer is {town}.",
            "score::wrong": 1.0,
            "answer::wrong": f"not {town}",
        }
        for country, town in CAPITALS.items()
    ]
    path = tmp_path / "outcomes.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_answers_are_graded_again_and_the_changes_are_counted(table):
    summary = json.loads(run(table, "--json").stdout)
    assert summary["graders"] == {"match": 10}
    chatty, wrong = summary["experts"]["chatty"], summary["experts"]["wrong"]
    assert (chatty["quality"], chatty["changed"], chatty["audit"]["missed"]) == (1, 10, [])
    assert (wrong["quality"], wrong["changed"], len(wrong["audit"]["missed"])) == (0, 10, 3)
    frame = pl.read_parquet(table)
    assert frame["score::chatty"].to_list() == [1.0] * 10
    assert frame["text::chatty"][0] == "The answer is Berlin."


def test_doubtful_grades_are_shown_with_the_remedy(table):
    shown = " ".join(run(table).stdout.split())
    assert "Grades to check by eye: wrong Germany scored 0, but has 'Berlin': not Berlin" in shown
    assert '("reference": ["carbon dioxide", "CO2"]) and run the same `interview` again' in shown


def test_scores_that_become_known_or_unknown_have_changed_too(table):
    unknown = pl.lit(None, pl.Float64).alias("score::chatty")
    pl.read_parquet(table).with_columns(unknown).write_parquet(table)
    assert json.loads(run(table, "--json").stdout)["experts"]["chatty"]["changed"] == 10
    output = run(table).stdout
    assert "chatty: quality 100.0 % on 10 answers; 0 scores changed" in output
    assert f"wrote '{table}'" in output


def test_a_grader_that_misses_every_answer_is_named_beside_examples(table):
    output = run(table, "--grader", "exact", "--out", table.with_name("other.parquet")).stdout
    assert "Warning: chatty: 10 of 10 answers have their reference" in output
    assert "scored 0, but has 'Berlin': The answer is Berlin." in output
    assert pl.read_parquet(table)["score::wrong"].to_list() == [1.0] * 10  # left as it was


def test_what_cannot_be_graded_again_is_said(table, tmp_path):
    with pytest.raises(BadInput, match="asks experts: run `routewright interview`"):
        run(table, "--grader", "judge=wise")
    bare = tmp_path / "bare.parquet"
    pl.DataFrame({"id": ["1"], "prompt": ["x"], "score::a": [1.0]}).write_parquet(bare)
    with pytest.raises(BadInput, match="no answer:: columns"):
        run(bare)
