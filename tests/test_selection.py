"""Universe construction against brute force, and the door to it."""

from __future__ import annotations

import json
from itertools import combinations
from math import e as E

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from routewright.cli.select import select as command
from routewright.data import outcomes
from routewright.errors import BadInput
from routewright.fitting import selection
from tables import table, write

EVERYBODY = ("adder", "speller", "sage")
GREEDY = 1 - 1 / E  # the guaranteed share of the optimum


def pool(seed: int, n: int = 40, e: int = 7):
    """Right and wrong answers of experts that differ in skill and price."""
    rng = np.random.default_rng(seed)
    score = (rng.random((n, e)) < rng.uniform(0.1, 0.6, e)).astype(float)
    return score, np.round(rng.uniform(0.1, 2.0, e), 1)


def subsets(e: int, size: int):
    return (s for k in range(size + 1) for s in combinations(range(e), k))


def best_coverage(score, allowed):
    return max(selection.coverage(score, subset) for subset in allowed)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_comes_within_its_guarantee_of_the_best_set(seed):
    score, cost = pool(seed)
    for size in (1, 2, 3, 5):
        chosen = selection.greedy(score, cost, size)
        best = best_coverage(score, subsets(7, size))
        assert GREEDY * best <= selection.coverage(score, chosen) <= best
    assert selection.coverage(score, selection.greedy(score, cost, 1)) == score.mean(axis=0).max()


@pytest.mark.parametrize("seed", range(8))
def test_a_budget_is_kept_and_greedy_comes_within_its_guarantee(seed):
    score, cost = pool(seed)
    for budget in (cost.min(), 1.5, 3.0):
        chosen = selection.greedy_within(score, cost, budget)
        allowed = [s for s in subsets(7, 7) if cost[list(s)].sum() <= budget + 1e-9]
        assert cost[chosen].sum() <= budget + 1e-9
        assert selection.coverage(score, chosen) >= GREEDY / 2 * best_coverage(score, allowed)
        single = [score[:, m].mean() for m in range(7) if cost[m] <= budget]
        assert selection.coverage(score, chosen) >= max(single)


def test_a_cheap_bargain_does_not_keep_the_best_expert_out():
    """Gain per dollar alone takes the bargain and has nothing left for the expert worth having."""
    score = np.zeros((100, 2))
    score[:2, 0], score[:, 1] = 1, 1
    assert selection.greedy_within(score, np.array([0.01, 1.0]), budget=1.0) == [1]


@pytest.mark.parametrize("seed", range(8))
def test_laziness_gives_the_same_experts_in_the_same_order(seed):
    score, cost = pool(seed, n=15)  # so few rows that ties abound
    score[0, 0] = np.nan
    for size in (2, 7):
        assert selection.greedy(score, cost, size) == selection.greedy(
            score, cost, size, lazy=False
        )


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_columns_decides_nothing(tmp_path, seed):
    frame = table(120)
    twin = frame.with_columns(frame["score::sage"].alias("score::twin"))
    twin = twin.with_columns(frame["cost::sage"].alias("cost::twin"))
    shuffled = twin.select(np.random.default_rng(seed).permutation(twin.columns).tolist())
    found = [
        selection.select(outcomes.read(write(tmp_path, f)), 3, replicates=20)
        for f in (twin, shuffled)
    ]
    assert found[0] == found[1]
    assert found[0].experts[0] == "sage"


def test_ties_go_to_the_cheaper_expert():
    score = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert selection.greedy(score, np.array([3.0, 2.0, 9.0]), 2) == [1, 2]
    assert selection.greedy(score, np.array([3.0, np.nan, 9.0]), 1) == [0]


def test_nobody_is_added_who_adds_nothing():
    score = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert selection.greedy(score, np.ones(2), 2) == [0]
    assert selection.greedy(np.zeros((3, 2)), np.ones(2), 2) == []


def test_missing_scores_count_nothing():
    score = np.array([[1.0, np.nan], [np.nan, np.nan], [0.0, 1.0]])
    assert selection.coverage(score, [0, 1]) == pytest.approx(2 / 3)
    assert selection.coverage(score, []) == 0


def test_a_budget_that_buys_nobody_says_what_the_cheapest_costs():
    with pytest.raises(BadInput, match=r"no expert costs \$0.5 or less: the cheapest costs \$1"):
        selection.greedy_within(np.ones((2, 2)), np.array([1.0, 2.0]), 0.5)
    with pytest.raises(BadInput, match="needs the cost of every expert"):
        selection.greedy_within(np.ones((2, 2)), np.array([1.0, np.nan]), 2.0)


# --- judging -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """Two specialists, a generalist and a guesser as dear as the generalist."""
    frame = table(800)
    luck = np.random.default_rng(5).random(len(frame)) < 0.5
    frame = frame.with_columns(
        pl.Series("score::guesser", luck.astype(float)), frame["cost::sage"].alias("cost::guesser")
    )
    return selection.select(outcomes.read(write(tmp_path_factory.mktemp("s"), frame)))


def removal(chosen, expert):
    return next(r for r in chosen.removals if r.expert == expert)


def test_a_guesser_impresses_the_oracle_and_nobody_else(chosen):
    guesser = removal(chosen, "guesser")
    assert guesser.coverage.low > 0
    assert not guesser.missed
    assert guesser.table.high < 0.005


def test_specialists_are_missed_by_a_table_of_domains(chosen):
    assert removal(chosen, "adder").table.low > 0.01
    assert removal(chosen, "speller").missed


def test_the_table_never_sees_the_rows_it_is_measured_on(tmp_path):
    """With a domain per row it knows nothing, unless it peeks at the row itself."""
    frame = table(400, signal=0.0).drop("score::sage").with_columns(pl.col("id").alias("domain"))
    found = selection.select(outcomes.read(write(tmp_path, frame)), replicates=20)
    last = found.steps[-1]
    assert last.table == pytest.approx(last.best_single, abs=0.03)
    assert last.coverage > last.table + 0.1


def test_the_curve_adds_up_and_bends_downwards(chosen):
    gains = [step.gain for step in chosen.steps]
    assert sum(gains) == pytest.approx(chosen.coverage)
    assert gains == sorted(gains, reverse=True)
    assert chosen.coverage == chosen.coverage_of_all
    assert chosen.cost == pytest.approx(sum(step.cost for step in chosen.steps))
    assert all(step.table <= step.coverage for step in chosen.steps)


def test_the_loss_of_leaving_one_out_is_brute_force(chosen, tmp_path):
    o = outcomes.read(write(tmp_path, table(200)))
    found = selection.select(o, replicates=50)
    for m, name in enumerate(o.experts):
        rest = [other for other in range(3) if other != m]
        lost = selection.coverage(o.score, range(3)) - selection.coverage(o.score, rest)
        assert removal(found, name).coverage.value == pytest.approx(lost)
        assert removal(found, name).coverage.low <= lost <= removal(found, name).coverage.high


def test_a_table_without_costs_domains_or_some_scores_is_judged_and_says_so(tmp_path):
    frame = table(100, costs=False).drop("domain")
    holes = pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise(pl.col("score::adder"))
    path = write(tmp_path, frame.with_columns(holes.alias("score::adder")))
    found = selection.select(outcomes.read(path), replicates=20)
    notes = " ".join(found.notes)
    assert "adder has no score on 10.0 % of the rows" in notes
    assert "no costs are known" in notes
    assert "no domains" in notes
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["cost"] is None


def test_without_domains_nobody_is_told_to_go(tmp_path):
    first = pl.int_range(pl.len()) == 0  # the one query that nobody but `idle` gets right
    frame = table(200).with_columns(
        *(
            pl.when(first).then(0.0).otherwise(f"score::{m}").alias(f"score::{m}")
            for m in EVERYBODY
        ),
        pl.when(first).then(1.0).otherwise(0.0).alias("score::idle"),
        pl.lit(0.01).alias("cost::idle"),
    )
    told = []
    for rows in (frame, frame.drop("domain")):
        told.append(" ".join(run(str(write(tmp_path, rows)), "--split", "all").output.split()))
    assert "idle can go first" in told[0]
    assert "can go first" not in told[1]
    assert "cannot tell whether a router would miss" in told[1]


def test_what_cannot_be_chosen_says_why(tmp_path):
    o = outcomes.read(write(tmp_path, table(40)))
    with pytest.raises(BadInput, match="size 4 cannot be chosen: the table has 3 experts"):
        selection.select(o, 4)
    priceless = outcomes.read(write(tmp_path, table(40).drop("cost::sage"), "p.parquet"))
    with pytest.raises(BadInput, match="no cost is known for sage"):
        selection.select(priceless, 2)


# --- the door ------------------------------------------------------------------------------


def run(*arguments: str):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_the_command_warns_of_the_oracle_and_names_whom_to_drop(tmp_path):
    done = run(str(write(tmp_path, table(120))), "--size", "2")
    assert done.exit_code == 0
    assert "profits from every lucky guess" in " ".join(done.output.split())
    assert "Loss without the expert" in done.output


def test_the_command_speaks_json_and_reads_budgets_per_thousand(tmp_path):
    path = str(write(tmp_path, table(120)))
    said = json.loads(run(path, "--budget", "0.05/1000", "--json").stdout)
    assert said["cost"] <= 0.05 / 1000
    assert "sage" not in said["experts"]
    assert [step["expert"] for step in said["steps"]] == said["experts"]
    everyone = json.loads(run(path, "--json").stdout)
    assert everyone["coverage"] >= said["coverage"]


def test_a_real_pool_of_look_alikes_has_experts_to_spare(real_table):
    found = selection.select(outcomes.read(real_table("mmlu_experts"), split="dev"), 4)
    assert found.experts[0] == "gpt-4-1106-preview"
    assert any(not r.missed for r in found.removals)
    assert found.coverage - found.steps[0].quality > 5 * (found.steps[-1].table - 0.8)


def lacking(rows: int = 240) -> pl.DataFrame:
    """Two experts who know sums and words, and nothing of law; half of that is asked twice."""
    rng = np.random.default_rng(0)
    topic = np.array(["sums", "words", "law"])[np.arange(rows) % 3]
    said = {"sums": "add the digits", "words": "spell the vowels", "law": "judge the contract"}
    prompts = [f"Please {said[name]} of case {i}" for i, name in enumerate(topic)]
    chance = {"adder": {"sums": 0.9, "words": 0.5, "law": 0.1}}
    chance["speller"] = {"sums": 0.5, "words": 0.9, "law": 0.1}
    scores = {
        f"score::{name}": (rng.random(rows) < [of[t] for t in topic]).astype(float)
        for name, of in chance.items()
    }
    return pl.DataFrame({"prompt": prompts, "domain": topic, **scores})


@pytest.mark.parametrize("domains", [True, False])
def test_select_says_where_experts_are_missing(routewright, tmp_path, domains):
    frame = lacking() if domains else lacking().drop("domain")
    path = write(tmp_path, frame)
    code, printed, error = routewright("select", path, "--json")
    assert code == 0, error
    gaps = json.loads(printed)["gaps"]
    missing = [gap for gap in gaps if gap["missing"]]
    assert missing
    assert all("law" in gap["topic"] or "contract" in gap["topic"] for gap in missing)
    assert gaps[0]["unsolved"] > 0.7
    assert gaps[0]["unsolved_ci"][0] < gaps[0]["unsolved"] < gaps[0]["unsolved_ci"][1]
    if domains:
        (law,) = missing
        score = frame.filter(pl.col("domain") == "law").select("score::adder", "score::speller")
        assert law["rows"] == 80
        assert law["oracle"] == pytest.approx(score.to_numpy().max(axis=1).mean())
        assert law["best_single"] == pytest.approx(max(score.mean().row(0)))
    code, printed, _ = routewright("select", path)
    assert "Experts are missing for" in " ".join(printed.split())


def test_rows_of_one_question_say_less_about_a_gap(tmp_path):
    once = outcomes.read(write(tmp_path, lacking(60)))
    four = once.rows(np.tile(np.arange(60), 4))
    (first, *_), (again, *_) = selection.gaps(once), selection.gaps(four)
    assert again.unsolved == pytest.approx(first.unsolved)
    assert again.unsolved_ci == pytest.approx(first.unsolved_ci)
