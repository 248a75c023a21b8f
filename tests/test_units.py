"""Screens show money as US$ per 1,000 queries and quality in per cent or percentage points."""

import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import routewright
from routewright.cli.main import app
from routewright.data import text
from routewright.strategies.single import Single
from routewright.types import Answer, Query

WIDE = {"COLUMNS": "160"}


@pytest.fixture(scope="module")
def rows(outcome_table) -> pl.DataFrame:
    return pl.read_parquet(outcome_table).filter(pl.col("split") == "train")


def shown(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], env=WIDE)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def line(screen: str, expert: str) -> str:
    return next(line for line in screen.splitlines() if re.search(rf"\b{expert}\b", line))


def test_per_cent_is_written_with_a_space_everywhere():
    for path in Path(routewright.__file__).parent.rglob("*.py"):
        assert not re.search(r":\.\d%\}", path.read_text(encoding="utf-8")), path


def test_fit_shows_qualities_in_per_cent_and_prices_of_1000_queries(outcome_table, rows, tmp_path):
    words = ("--encoder", "surface", "--predictor", "linear", "--strategy", "single")
    screen = shown("fit", outcome_table, "--out", tmp_path / "router", *words)
    assert "quality, %" in screen
    assert "US$ per 1,000" in screen
    assert "signal" not in screen, "nobody knows what that is"
    for expert in ("adder", "sage"):
        quality, cost = rows[f"score::{expert}"].mean(), rows[f"cost::{expert}"].mean()
        assert f" {100 * quality:.1f} " in line(screen, expert)
        assert f" {text.dollars(cost)} " in line(screen, expert)
    assert re.search(r"two fixed experts\) [+-]\d+\.\d\s+percentage points", screen)


def test_convert_shows_qualities_in_per_cent_and_prices_of_1000_queries(tmp_path):
    source = tmp_path / "routerbench.csv"
    source.write_text(
        "sample_id,prompt,eval_name,small,small|total_cost,small|model_response\n"
        "a,What is 1 + 1?,sums,1.0,0.0004,2\nb,What is 2 + 2?,sums,0.0,0.0002,5\n"
    )
    screen = shown("convert", "routerbench", source, "--out", tmp_path / "out.parquet")
    assert "US$ per 1,000" in screen
    assert " 50.00 " in line(screen, "small")
    assert f" {text.dollars(0.0003)} " in line(screen, "small")


def test_a_reason_and_a_reply_give_money_in_one_notation(router):
    query = Query.of("add subtract total number 7 please")
    plan = Single(router).plan(query)
    ask = next(plan)
    with pytest.raises(StopIteration) as end:
        plan.send(Answer(ask.expert, "4"))
    assert re.fullmatch(r"\w+ is expected to score \d+ % for \$0\.\d{6}", end.value.value.because)


def test_no_screen_shows_the_price_of_one_query():
    package = Path(routewright.__file__).parent
    sources = [*package.glob("cli/*.py"), *package.glob("evaluation/**/*.html")]
    assert len(sources) > 20
    for source in sources:
        assert not re.search(r"US\$/|per query and", source.read_text(encoding="utf-8")), source
