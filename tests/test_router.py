"""Fitting, saving, loading and evaluating: what a router promises."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from models import tiny_static_model
from routewright import metrics, policies
from routewright.cli.evaluate import show_forecasts
from routewright.data import outcomes
from routewright.drive import replay
from routewright.errors import BadInput, BadRouter, BadTable
from routewright.evaluation import evaluate as evaluation
from routewright.fitting import add_expert
from routewright.fitting.fit import fit
from routewright.prediction.predictors import folds
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, replayed, run
from routewright.strategies.single import Single
from routewright.types import Answer, Query
from tables import swept_as_replayed, table, write

ROUTERS = Path(__file__).parent.parent / "docs" / "routers.md"


def test_the_example_for_python_does_what_the_commands_do(tmp_path, monkeypatch):
    write(tmp_path, table(120)).rename(tmp_path / "OUTCOMES.parquet")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", ROUTERS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.py").write_text(f"{example}\nprint(whom['expert'], figures['n'])")
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    route = ["route", "router", "What is 2 + 2?", "--max-cost-fraction", "0.5"]
    told = subprocess.run(
        [sys.executable, "-m", "routewright.cli.main", *route], capture_output=True, text=True
    )
    assert done.stdout.split()[-2:] == [told.stdout.strip(), "30"]


def rows(folder: Path, **options):
    return outcomes.read(write(folder, table(**options)), split="train")


def test_a_router_beats_every_fixed_expert_where_prompts_tell(router, outcome_table):
    e = evaluation.evaluate(router, outcomes.read(outcome_table, split="dev")).to_json()
    half = e["at_cost_fraction"]["0.5"]
    assert half["gain_ci"][0] > 0
    assert half["quality"] > max(expert["quality"] for expert in e["experts"].values())


def test_a_router_does_no_harm_where_prompts_say_nothing(tmp_path: Path):
    o = rows(tmp_path, n=600, signal=0.0)
    router = fit(o)
    assert sum(point.strategy == "fixed" for point in router.frontier) > len(router.frontier) * 0.8
    fresh = outcomes.read(write(tmp_path, table(600, seed=9, signal=0.0), "fresh.parquet"))
    e = evaluation.evaluate(router, fresh).to_json()
    assert e["at_cost_fraction"]["0.5"]["gain_over_zero_router"] > -0.01


def test_replay_equals_arrays_exactly(router, outcome_table):
    o = outcomes.read(outcome_table, split="dev").pool(router.experts)
    fixed = [point for point in router.frontier if point.spec["strategy"] != "mix"]
    for point in fixed[::3]:
        swept_as_replayed(router.strategy_at(point), o, router)


def test_the_zero_router_is_measured_without_the_luck_of_its_draws(outcome_table):
    o = outcomes.read(outcome_table, split="dev").pool(["adder", "sage"])
    mix = build(
        {
            "strategy": "mix",
            "first": {"strategy": "fixed", "expert": "adder"},
            "second": {"strategy": "fixed", "expert": "sage"},
            "share": 0.3,
        }
    )
    ran, drawn = run(mix, Recorded(o)), replayed(mix, Recorded(o))
    score, cost = o.score.mean(axis=0), o.cost.mean(axis=0)
    assert np.mean(ran.score) == pytest.approx(0.7 * score[0] + 0.3 * score[1])
    assert np.mean(ran.cost) == pytest.approx(0.7 * cost[0] + 0.3 * cost[1])
    assert ran.shares(o.experts) == pytest.approx({"adder": 0.7, "sage": 0.3})
    assert abs(np.mean(drawn.score) - np.mean(ran.score)) > 1e-6, "one draw is off"


def test_a_loaded_router_repeats_the_saved_one(tmp_path: Path, outcome_table):
    o = outcomes.read(outcome_table, split="train")
    router = fit(o)
    router.save(tmp_path / "r")
    loaded = Router.load(tmp_path / "r")
    assert np.array_equal(loaded.predict(o.queries).quality, router.predict(o.queries).quality)
    assert loaded.frontier == router.frontier


def test_the_same_seed_gives_the_same_router(outcome_table):
    o = outcomes.read(outcome_table, split="train")
    first, second = (fit(o, seed=3).summary() for _ in range(2))
    for described in (first, second):
        del described["card"]["fit_seconds"]
    assert first == second


def test_ids_tell_a_router_nothing(tmp_path: Path):
    frame = table(120)
    other = frame.with_columns(pl.Series("id", [f"{97 * i % 120:03}" for i in range(120)]))
    rows = (outcomes.read(write(tmp_path, rows), split="train") for rows in (frame, other))
    first, second = (fit(one, strategy="single") for one in rows)
    assert first.frontier == second.frontier
    some = [Query.of("add numbers 7 please")]
    assert np.array_equal(first.predict(some).quality, second.predict(some).quality)


def test_a_question_that_was_asked_twice_is_on_one_side_of_every_fold(tmp_path: Path):
    frame = table(60)
    again = frame.with_columns(pl.col("id") + "-again", pl.col("prompt").str.to_uppercase() + " ")
    rows = outcomes.read(write(tmp_path, pl.concat([frame, again])), split="all")
    fold = folds(len(rows), 5, 0, rows.groups)
    assert np.array_equal(fold[:60], fold[60:])
    assert len(np.unique(fold)) == 5


@pytest.mark.parametrize("predictor", ["prior", "knn", "linear"])
@pytest.mark.parametrize("encoder", ["lexical", "surface+domain"])
def test_every_named_part_can_be_fitted(tmp_path: Path, predictor, encoder):
    router = fit(rows(tmp_path, n=120), predictor=predictor, encoder=encoder)
    assert 0 <= router.predict([Query.of("add the digits")]).quality.max() <= 1


@pytest.mark.parametrize("times", [0.9, 1.1])
def test_of_two_equally_good_experts_the_cheaper_serves_where_only_quality_counts(tmp_path, times):
    """`twin` answers exactly as `sage` does, for a tenth of its price less or more."""
    frame = table(400, signal=0.0)
    frame = frame.with_columns(
        pl.col("score::sage").alias("score::twin"),
        (times * pl.col("cost::sage")).alias("cost::twin"),
    )
    router = fit(outcomes.read(write(tmp_path, frame), split="train"), predictor="prior")
    cheaper = "sage" if times > 1 else "twin"
    assert (router.frontier[0].price, router.frontier[0].plan) == (0, f"always {cheaper}")
    assert all(set(point.shares) <= {"adder", "speller", cheaper} for point in router.frontier)
    query = Query.of("add subtract total digits 12 please")
    answers = {name: Answer(name) for name in router.experts}
    assert replay(Single(router), query, answers).path == cheaper


def test_no_answer_is_expected_to_cost_less_than_the_least_that_was_seen(tmp_path):
    """Costs grow with the square of the length: a straight line through them is negative for
    short prompts, which would be a reward for asking."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(40, 400, 200)
    prompts = [" ".join(rng.choice(["red", "green", "blue"], size)) for size in lengths]
    least, columns = {}, {"id": [str(i) for i in range(200)], "prompt": prompts}
    for name, dollars in (("small", 1e-9), ("large", 1e-8), ("newest", 3e-9)):
        columns[f"score::{name}"] = (rng.random(200) < 0.7).astype(float)
        columns[f"cost::{name}"] = dollars * np.array([len(p) ** 2 for p in prompts], float)
        least[name] = columns[f"cost::{name}"].min()
    o = outcomes.read(write(tmp_path, pl.DataFrame(columns)), split="all")
    router = fit(o.pool(["small", "large"]), predictor="prior")
    joined = add_expert.join(add_expert.study(router, o), o.pool(["newest"]), answers=100)
    cheapest = o.pool(["newest"]).cost[joined.asked].min()
    short = [Query.of("red"), Query.of("")]
    assert (router.predict(short).cost == [least["small"], least["large"]]).all()
    expected = joined.router.predict(short).cost
    assert (expected == [least["small"], least["large"], cheapest]).all()


def test_missing_scores_and_costs_are_lived_with(tmp_path: Path):
    rng = np.random.default_rng(0)
    frame = table(400)
    for column in [c for c in frame.columns if "::" in c]:
        holes = pl.Series(rng.random(400) < 0.2)
        frame = frame.with_columns(
            pl.when(holes).then(None).otherwise(pl.col(column)).alias(column)
        )
    path = write(tmp_path, frame)
    router = fit(outcomes.read(path, split="train"))
    e = evaluation.evaluate(router, outcomes.read(path, split="dev")).to_json()
    assert e["at_cost_fraction"]["0.5"]["gain_over_zero_router"] > 0
    assert json.loads(json.dumps(e, allow_nan=False)) == e


def test_a_table_without_costs_is_routed_by_quality_alone(tmp_path: Path):
    path = write(tmp_path, table(costs=False))
    router = fit(outcomes.read(path, split="train"))
    e = evaluation.evaluate(router, outcomes.read(path, split="dev")).to_json()
    assert e["aiq"] is None
    assert e["experts"]["sage"]["cost"] is None
    assert e["curve"][0]["quality"] > 0.85
    json.dumps(e, allow_nan=False)


def test_what_cannot_be_fitted_says_why(tmp_path: Path):
    with pytest.raises(BadTable, match="15 rows are too few"):
        fit(rows(tmp_path, n=20))
    o = rows(tmp_path, n=100)
    with pytest.raises(BadInput, match="no predictor is called 'magic': choose one of"):
        fit(o, predictor="magic")
    with pytest.raises(BadInput, match="no encoder is called 'bert'"):
        fit(o, encoder="bert")
    half_priced = {**o.measures, "cost": np.where([True, True, False], o.cost, np.nan)}
    with pytest.raises(BadTable, match="no cost is known for sage"):
        fit(replace(o, measures=half_priced))


def test_targets_in_the_users_units(router):
    cheap, dear = router.at(max_cost_fraction=0.2), router.at(max_cost_fraction=0.8)
    assert cheap.cost < dear.cost
    assert cheap.cost_fraction <= 0.2 * (1 + 1e-9)
    good = router.at(min_quality=dear.quality)
    assert good.cost <= dear.cost
    assert router.at(max_cost=dear.cost).quality >= dear.quality
    with pytest.raises(BadInput, match="out of reach: at least"):
        router.at(max_cost=1e-12)
    with pytest.raises(BadInput, match="out of reach: at most"):
        router.at(min_quality=0.9999)
    with pytest.raises(BadInput, match="exactly one"):
        router.at(max_cost=1.0, min_quality=0.5)


def test_the_frontier_forecasts_what_unseen_rows_show(router, outcome_table):
    fresh = outcomes.read(outcome_table, split="dev")
    e = evaluation.evaluate(router, fresh)
    for k in range(0, len(router.frontier), 8):
        measured = metrics.mean(e.scores[k])
        low, high = metrics.interval(metrics.mean(e.scores[k], e.weights), 0.999)
        assert low - 0.03 <= router.frontier[k].quality <= high + 0.03, measured


def test_a_price_of_quality_moves_the_choice(router):
    query = Query.of("add subtract total digits 12 please")
    dear = router.strategy(0.0)
    cheap = router.strategy(1e9)
    spent = [
        policies.take(p.cost, s.choose([query], p))
        for s in (dear, cheap)
        for p in [router.predict([query])]
    ]
    assert spent[1] <= spent[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "router.json").unlink(), "is not a router: it has no router.json"),
        (lambda f: (f / "router.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "router.json").write_text("[]"), "does not describe a router"),
        (lambda f: (f / "router.safetensors").write_bytes(b"junk"), "is damaged"),
        (lambda f: (f / "router.safetensors").unlink(), "has no router.safetensors"),
        (lambda f: edit(f, format=99), "router format 99; this version"),
        (lambda f: edit(f, predictor={"name": "os", "options": {}}), "no predictor is called 'os'"),
        (lambda f: edit(f, encoder={}), "the encoder has no name"),
        (lambda f: edit(f, frontier=[{"price": 1}]), "is not complete: frontier.0.cost"),
    ],
)
def test_damaged_and_foreign_folders_are_refused(tmp_path: Path, router, damage, message):
    folder = tmp_path / "router"
    router.save(folder)
    damage(folder)
    with pytest.raises(BadRouter, match=message):
        Router.load(folder)


def edit(folder: Path, **changes) -> None:
    path = folder / "router.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_saving_never_destroys_something_that_is_not_a_router(tmp_path: Path, router):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="is not a router"):
        router.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_serving_imports_no_training_code(router_folder):
    """Loading and deciding need neither scikit-learn, Polars nor torch."""
    script = (
        "import sys; from routewright.router.router import Router;"
        " from routewright.types import Query;"
        f"r = Router.load({str(router_folder)!r}); r.predict([Query.of('hello')]);"
        "print([m for m in ('sklearn', 'polars', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_fitting_multiplies_on_one_thread_whatever_is_imported_meanwhile(outcome_table):
    """SciPy has a BLAS of its own, which comes when a predictor first needs it."""
    script = (
        "import sys; from threadpoolctl import threadpool_info;"
        "from routewright.data import outcomes; from routewright.fitting.fit import fit;"
        "seen = set();"
        "tell = lambda doing, share: seen.update(p['num_threads'] for p in threadpool_info()"
        " if p['user_api'] == 'blas');"
        "rows = outcomes.read(sys.argv[1], split='train');"
        "fit(rows, strategy='single', progress=tell); print(max(seen, default=1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, outcome_table],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.stdout.strip() == "1"


def test_a_strategy_from_data_says_what_is_wrong():
    with pytest.raises(BadInput, match=r"strategy 'cascade' has no option rungs: .* ladder, trust"):
        build({"strategy": "cascade", "rungs": ["a"]})
    with pytest.raises(BadInput, match="strategy 'fixed' needs the option expert"):
        build({"strategy": "fixed"})
    with pytest.raises(BadInput, match="strategy 'single' needs a router"):
        build({"strategy": "single"})


def test_a_router_with_a_predictor_that_was_removed_says_so(router, tmp_path: Path):
    router.save(tmp_path / "R")
    file = tmp_path / "R" / "router.json"
    described = json.loads(file.read_text())
    described["predictor"]["options"]["bases"][0]["name"] = "kernel"
    file.write_text(json.dumps(described))
    with pytest.raises(BadRouter, match=r"predictor 'kernel' was removed, .*: fit the router"):
        Router.load(tmp_path / "R")


def test_far_from_the_training_data_the_means_are_believed(router):
    known = router.predict([Query.of("add subtract total digits 12 please")])
    odd = router.predict([Query.of("Ωμέγα παράδοξο ξένο κείμενο χωρίς γνωστές λέξεις")])
    assert known.trust[0] == 1.0
    assert odd.trust[0] < 0.5
    means = router.mean - router.mean.mean()
    there, far = (np.abs(p.quality[0] - p.quality[0].mean() - means).max() for p in (known, odd))
    assert far < there / 2


def test_evaluate_prints_how_good_each_forecast_is(router, outcome_table):
    e = evaluation.evaluate(router, outcomes.read(outcome_table, split="dev"))
    page = io.StringIO()
    show_forecasts(e, Console(file=page, width=120))
    for m, name in enumerate(router.experts):
        line = next(line for line in page.getvalue().splitlines() if name in line)
        forecast, score = e.prediction.chance[:, m], e.outcomes.score[:, m]
        for figure in (metrics.auc, metrics.brier, metrics.ece):
            assert f"{figure(forecast, score):.3f}" in line


def test_intervals_draw_whole_domains_where_there_are_enough(router, outcome_table):
    rows = outcomes.read(outcome_table, split="dev")

    def weights(count: int):
        named = [replace(query, domain=f"d{i % count}") for i, query in enumerate(rows.queries)]
        e = evaluation.evaluate(router, replace(rows, queries=tuple(named)), replicates=20)
        return e.weights

    many = weights(12)
    assert all(np.array_equal(many[:, i], many[:, i % 12]) for i in range(len(rows)))
    few = weights(3)
    assert any(not np.array_equal(few[:, i], few[:, i % 3]) for i in range(len(rows)))


def test_at_no_price_at_all_the_best_expert_is_asked_where_learning_does_not_pay(tmp_path):
    """Three experts of nearly the same skill, and prompts that say nothing: no mix beats one."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        frame = table(200, seed=seed, signal=0.0)
        frame = frame.with_columns(
            pl.Series(f"score::{name}", (rng.random(200) < 0.8).astype(np.float32))
            for name in ("speller", "adder")
        )
        rows = outcomes.read(write(tmp_path, frame))
        point = fit(rows, predictor="knn").frontier[0]
        best = rows.experts[int(rows.score.mean(axis=0).argmax())]
        assert (point.price, point.plan) == (0, f"always {best}")
        assert point.quality == pytest.approx(rows.score.mean(axis=0).max())


def test_a_router_and_the_model_that_it_refers_to_are_read_from_anywhere_and_moved_together(
    tmp_path, monkeypatch
):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "mini").mkdir(parents=True)
    elsewhere.mkdir()
    tiny_static_model(home / "mini")
    rows = outcomes.read(write(home, table(60)))
    monkeypatch.chdir(home)
    fitted = fit(rows, encoder="static=./mini+surface", predictor="linear")
    fitted.save(Path("routers/a"))
    wanted = fitted.predict(rows.queries).quality
    monkeypatch.chdir(elsewhere)
    loaded = Router.load(home / "routers" / "a")
    assert np.array_equal(loaded.predict(rows.queries).quality, wanted)
    loaded.save(home / "b")
    home.rename(tmp_path / "moved")
    for place in ("routers/a", "b"):
        moved = Router.load(tmp_path / "moved" / place)
        assert np.array_equal(moved.predict(rows.queries).quality, wanted)
