"""`evaluate`: a router, or any strategy, on recorded outcomes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes
from routewright.errors import BadInput, BadTable, UpstreamError
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.report import render
from routewright.router import frontier
from routewright.strategies.auto import Auto
from routewright.strategies.cascade import Cascade
from routewright.strategies.fallback import Fallback
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from routewright.strategies.ranking import Ranking
from routewright.strategies.single import Single
from routewright.types import Ask, Decision


@dataclass(frozen=True)
class SecondOpinion:
    """A user's own: where two cheap experts differ, a third decides."""

    pair: tuple[str, str]
    judge: str

    def plan(self, query):
        one, other = yield tuple(Ask(expert) for expert in self.pair)
        if one.score == other.score:
            return Decision(one, because="both said the same")
        return Decision((yield Ask(self.judge, final=True)), because="they differed")


@pytest.fixture(scope="module")
def dev(outcome_table):
    return outcomes.read(outcome_table, split="dev")


def test_any_strategy_is_measured_as_one_point(dev):
    measured = evaluate(SecondOpinion(("adder", "speller"), "sage"), dev)
    figures = measured.to_json()
    (point,) = figures["curve"]
    differ = dev.score[:, 0] != dev.score[:, 1]
    score = np.where(differ, dev.score[:, 2], dev.score[:, 0])
    cost = dev.cost[:, :2].sum(axis=1) + differ * dev.cost[:, 2]
    assert point["quality"] == pytest.approx(score.mean())
    assert point["cost"] == pytest.approx(cost.mean())
    assert point["cost_fraction"] == pytest.approx(cost.mean() / dev.cost[:, 2].mean())
    low, high = point["quality_ci"]
    assert low < point["quality"] < high
    assert point["strategy"] == "SecondOpinion"
    assert np.isnan(point["lambda"]), "nobody said at which price of quality"
    assert set(figures["experts"]) == {"adder", "speller", "sage"}
    assert figures["predictor"] == {}, "there is no router to predict anything"
    assert measured.runs[0].shares(dev.experts)["sage"] == differ.mean()


def test_a_fixed_expert_is_measured_as_the_expert_that_it_is(dev):
    figures = evaluate(Fixed("sage"), dev).to_json()
    (point,), sage = figures["curve"], figures["experts"]["sage"]
    assert point["quality"] == pytest.approx(sage["quality"])
    assert point["cost"] == pytest.approx(sage["cost"])
    assert point["strategy"] == "fixed"


def test_a_strategy_with_a_router_is_measured_as_the_routers_own_point(router, dev):
    curve = evaluate(router, dev, replicates=50)
    single = [k for k, point in enumerate(router.frontier) if point.spec["strategy"] == "single"]
    for k in single[::8]:
        strategy = router.strategy_at(router.frontier[k])
        (point,) = evaluate(strategy, dev, replicates=50).to_json()["curve"]
        theirs = curve.to_json()["curve"][k]
        assert point.pop("strategy") == theirs.pop("strategy") == "single"
        assert point.pop("quality_ci") == pytest.approx(theirs.pop("quality_ci"))
        assert point == pytest.approx(theirs)
    for outer in (Mix(Fixed("adder"), strategy, 0.5), Fallback(strategy, ("sage",))):
        figures = evaluate(outer, dev, replicates=5).to_json()
        assert figures["predictor"] == curve.to_json()["predictor"], "the router's, wherever it is"


@pytest.mark.parametrize(
    "strategy",
    [
        Fixed("sagee"),
        SecondOpinion(("adder", "speller"), "sagee"),
        Cascade(("adder", "sagee"), trust=2.0),
        Ranking(("adder", "sagee")),
        Fallback(SecondOpinion(("adder", "sagee"), "sage"), ("sage",)),
        Mix(Cascade(("sagee", "sage")), Fixed("adder"), 0.5),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_an_expert_that_the_table_does_not_know_is_named_and_not_skipped(strategy, dev):
    with pytest.raises(BadInput, match=r"'sagee'.* adder, speller, sage"):
        evaluate(strategy, dev)


def test_an_expert_that_was_never_scored_is_no_failed_one(router, dev):
    score = dev.score.copy()
    score[:, 2] = np.nan
    bare = replace(dev, measures={**dev.measures, "score": score})
    with pytest.raises(BadTable, match="'sage' is asked, and the table knows no score of it"):
        evaluate(Cascade(("adder", "sage"), trust=2.0), bare)
    for strategy in (Fixed("sage"), Single(router, 0.0), Auto(router)):
        with pytest.raises(BadTable, match="no score is known for sage in split 'dev'"):
            evaluate(strategy, bare)
    assert evaluate(Cascade(("adder", "speller")), bare).to_json()["curve"][0]["quality"] > 0


def test_an_expert_of_unknown_cost_is_not_free(dev):
    cost = dev.cost.copy()
    cost[:, 2] = np.nan
    with pytest.raises(BadTable, match="no cost is known for sage"):
        evaluate(Cascade(("adder", "sage")), replace(dev, measures={**dev.measures, "cost": cost}))


@dataclass(frozen=True)
class Nobody:
    """Gives up on every query, after an answer."""

    def plan(self, query):
        yield Ask("adder")
        raise UpstreamError("adder", "is not good enough")


def test_a_strategy_that_never_gets_a_score_says_so(dev):
    with pytest.raises(BadTable, match="on none of 100 rows the strategy gets an answer"):
        evaluate(Nobody(), dev)


def test_without_its_domain_a_query_is_decided_as_if_untagged(router, dev):
    tagged, bare = (evaluate(router, dev, without_domain=hide) for hide in (False, True))
    plain = tuple(replace(query, domain=None) for query in dev.queries)
    untagged = evaluate(router, replace(dev, queries=plain))
    np.testing.assert_array_equal(bare.scores, untagged.scores)
    assert (bare.scores != tagged.scores).any(), "the domains told something"
    assert bare.to_json()["domains"].keys() == {"sums", "words"}, "of which the figures still tell"
    np.testing.assert_array_equal(bare.weights, tagged.weights)


def test_a_report_is_about_a_router(dev):
    measured = evaluate(Fixed("sage"), dev, replicates=5)
    with pytest.raises(BadInput, match="a report needs the predictions of a router"):
        render(measured, measured.to_json())


def test_a_question_that_is_repeated_counts_once(outcome_table, router_folder, tmp_path):
    rows = pl.read_parquet(outcome_table).filter(pl.col("split") == "dev").head(60)
    copies = [rows.with_columns(pl.col("id") + f"-{n}") for n in range(9)]
    pl.concat(copies).write_parquet(tmp_path / "copies.parquet")
    rows.write_parquet(tmp_path / "once.parquet")
    once, copied = (
        json.loads(cli(router_folder, tmp_path / name, "--json", "-").stdout)
        for name in ("once.parquet", "copies.parquet")
    )
    (low, high), (least, most) = (f["curve"][0]["quality_ci"] for f in (once, copied))
    assert most - least > 0.7 * (high - low), "nine copies are no evidence"
    n = len(rows)
    assert copied["warnings"][0].startswith(f"{9 * n} rows repeat {n} questions: {n} questions")


# --- the policies of a config ------------------------------------------------------------------


POLICIES = """\
  best: {strategy: fixed, options: {expert: sage}, fallback: [adder]}
  half: {strategy: auto, router: router, max_cost_fraction: 0.5}
  dear: {strategy: single, router: router, price: 0, latency_price: 0}
  climb: {strategy: cascade, options: {ladder: [adder, sage], trust: 0.6}}
  share: {strategy: mix, options: {first: {strategy: fixed, expert: adder},
          second: {strategy: cascade, ladder: [speller, sage]}, share: 0.25}}
"""


@pytest.fixture
def config(tmp_path, router):
    def written(policies: str = POLICIES, experts=("adder", "speller", "sage")):
        router.save(tmp_path / "router")
        entries = ", ".join(
            f"{{name: {name}, base_url: http://localhost:1/v1}}" for name in experts
        )
        text = f"version: 1\nexperts: [{entries}]\npolicies:\n{policies}"
        (tmp_path / "routewright.yaml").write_text(text)
        return tmp_path / "routewright.yaml"

    return written


def cli(*words: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)], env={"COLUMNS": "120"})


def test_a_configs_own_policies_are_judged_any_strategy_among_them(
    config, outcome_table, router, dev, tmp_path
):
    done = cli(config(), outcome_table, "--json", tmp_path / "figures.json")
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    policies = figures["policies"]
    assert list(policies) == ["best", "half", "dear", "climb", "share"]
    assert {name: told["asked_for"] for name, told in policies.items()} == {
        "best": "",
        "half": "max_cost_fraction 0.5",
        "dear": "price 0, latency_price 0",
        "climb": "",
        "share": "",
    }
    curve = evaluate(router, dev).to_json()
    half = router.within(max_cost_fraction=0.5)
    (mix,) = evaluate(router.strategy_at(half), dev.pool(router.experts)).to_json()["curve"]
    for key in ("quality", "quality_ci", "cost", "cost_fraction"):
        assert policies["half"][key] == pytest.approx(mix[key])
    assert half.cost_fraction == pytest.approx(0.5), "two points are mixed to use the budget"
    climbs = evaluate(Cascade(("adder", "sage"), 0.6), dev).to_json()["curve"][0]
    assert policies["climb"]["cost"] == pytest.approx(climbs["cost"])
    assert policies["best"]["quality"] == pytest.approx(figures["experts"]["sage"]["quality"])
    assert policies["best"]["cost_fraction"] == pytest.approx(1.0)
    low, high = policies["share"]["quality_ci"]
    assert low < policies["share"]["quality"] < high
    assert figures["n"] == len(dev)
    assert figures["references"] == curve["references"]
    for words in ("half (max_cost_fraction 0.5)", "of sage's cost", "quality, % (95 %)", "oracle"):
        assert words in done.stdout


def test_a_policy_stands_beside_what_was_asked_for(config, outcome_table, tmp_path):
    more = "  tight: {strategy: auto, router: router, max_cost_fraction: 0.5}\n"
    path = config(POLICIES + more + "default_policy: half\n")
    # The rows to judge on are those where the router asks the most expensive expert.
    done = cli(path, outcome_table, "--json", tmp_path / "figures.json")
    facts = json.loads((tmp_path / "figures.json").read_text())["policies"]["half"]
    low, high = facts["cost_fraction_ci"]
    assert low < facts["cost_fraction"] < high
    lead = done.stdout.splitlines()[0]
    assert lead.startswith(f"half: {100 * facts['quality']:.1f} % (")
    assert (
        f" at {100 * facts['cost_fraction']:.0f} % ({100 * low:.0f} … {100 * high:.0f} %) of"
        in lead
    )
    assert "you asked for at most 50 %" in lead
    gain = f"That is {100 * facts['gain_over_zero_router']:+.1f} points ("
    assert gain in lead


def test_a_policy_that_costs_more_than_asked_for_says_so(config, outcome_table, router, dev):
    path = config("  half: {strategy: auto, router: router, max_cost_fraction: 0.5}\n")
    sage = {"strategy": "fixed", "expert": "sage"}
    points = tuple(replace(point, spec=sage) for point in router.frontier)
    replace(router, frontier=points).save(path.parent / "router")
    lead = cli(path, outcome_table).stdout.splitlines()[0]
    assert "100 % (100 … 100 %) of sage's cost; you asked for at most 50 % (not kept)" in lead


@pytest.mark.parametrize("learned", [False, True])
def test_a_router_its_policy_and_calibrate_agree_on_what_is_served(
    config, outcome_table, router, learned
):
    path = config("  half: {strategy: auto, router: router, max_cost_fraction: 0.5}\n")
    folder = path.parent / "router"
    experts = router.card["experts"]
    points = [
        replace(
            router.nearest(0.0),
            cost=experts[name]["cost"],
            cost_fraction=experts[name]["cost"] / experts["sage"]["cost"],
            quality=experts[name]["quality"],
            **frontier.fixed_mix({name: 1.0})._asdict(),
        )
        for name in ("adder", "sage")
    ]
    if learned:
        choices = [point for point in router.frontier if point.strategy == "single"]
        points[1] = max(choices, key=lambda point: point.cost)
    replace(router, frontier=tuple(points)).save(folder)
    rows = (outcome_table, "--split", "train")
    of_router, of_config = (cli(judged, *rows).stdout.splitlines()[0] for judged in (folder, path))
    found = re.search(r"(\d.*) of sage's cost", of_config)[1]
    assert f"serves {found} of sage's cost; you asked for at most 50 %" in of_router
    assert learned or " at 50 % (" in found
    assert ("It mixes fixed experts" in of_router) == (not learned)
    html = path.parent / "page.html"
    cli(folder, *rows, "--html", html)
    assert f"reaches {found[:4]} %" in html.read_text().replace("\N{NO-BREAK SPACE}", " ")
    calibrated = CliRunner().invoke(
        app, ["calibrate", str(folder), "--max-cost-fraction", "0.5"], env={"COLUMNS": "120"}
    )
    assert ", 50 % of always asking the most expensive expert" in calibrated.stdout


def test_a_router_that_serves_a_fixed_mix_says_why(config, outcome_table, router):
    sage = {"strategy": "fixed", "expert": "sage"}
    points = tuple(replace(point, spec=sage) for point in router.frontier)
    folder = config().parent / "mixing"
    replace(router, frontier=points).save(folder)
    lead = cli(folder, outcome_table).stdout.splitlines()[0]
    assert "you asked for at most 50 %" in lead
    assert "It mixes fixed experts, because the fit proved no learned choice better." in lead


def test_a_limit_on_costs_has_no_meaning_where_every_expert_is_free(
    config, outcome_table, tmp_path
):
    free = tmp_path / "free.parquet"
    frame = pl.read_parquet(outcome_table)
    frame.with_columns(pl.selectors.starts_with("cost::") * 0).write_parquet(free)
    path = config(
        "  half: {strategy: auto, router: router, max_cost_fraction: 0.5}\n"
        "  least: {strategy: auto, router: router, max_cost: 1}\n"
    )
    lines = cli(path, free, "--html", tmp_path / "page.html").stdout.splitlines()[:2]
    for lead in (*lines, cli(path.parent / "router", free).stdout.splitlines()[0]):
        assert "; the limit has no meaning here: no expert costs anything." in lead
        assert "you asked for" not in lead
    assert "no expert costs anything" in (tmp_path / "page.html").read_text()


def test_a_tie_that_saves_nothing_is_not_spoken_of(outcome_table, router, tmp_path):
    for name, saves in (("sage", False), ("adder", True)):
        replace(router, card=router.card | {"tie": name}).save(tmp_path / "router")
        page = tmp_path / "page.html"
        shown = cli(tmp_path / "router", outcome_table, "--html", page).stdout
        assert ("`tie: cheapest` serves" in shown) == saves
        assert ("`tie: cheapest` serves" in page.read_text()) == saves


def test_few_rows_are_said_to_prove_nothing(config, outcome_table, router_folder, tmp_path):
    few = tmp_path / "few.parquet"
    pl.read_parquet(outcome_table).filter(pl.col("split") == "dev").head(20).write_parquet(few)
    for judged in (config(), router_folder):
        shown = cli(judged, few).stdout
        assert "20 rows are too few to prove anything." in shown
    shown = cli(router_folder, outcome_table).stdout
    assert shown.startswith("A policy with `max_cost_fraction: 0.5` serves ")


def test_one_policy_is_judged_and_printed_as_json_alone(config, outcome_table):
    done = cli(config(), outcome_table, "--policy", "climb", "--json", "-")
    assert list(json.loads(done.stdout)["policies"]) == ["climb"]
    done = cli(config(), outcome_table, "--policy", "clim")
    assert "no policy 'clim' in this config: choose one of best, half" in str(done.exception)


def test_policies_are_compared_with_the_experts_of_the_config_that_the_table_has(
    config, outcome_table
):
    few = config("  best: {strategy: fixed, options: {expert: adder}}\n", ("adder", "oracle"))
    figures = json.loads(cli(few, outcome_table, "--json", "-").stdout)
    assert list(figures["experts"]) == ["adder"]
    other = config("  best: {strategy: fixed, options: {expert: oracle}}\n", ("oracle",))
    done = cli(other, outcome_table)
    assert "none of them is in both" in str(done.exception)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("{strategy: fixed, options: {expert: oracle}}", "asks 'oracle', the table has adder"),
        ("{strategy: cascade, options: {ladder: [adder, oracle], trust: 1}}", "'oracle' is asked"),
        ("{strategy: ranking, options: {experts: [adder, oracle]}}", "'oracle' is asked"),
        ("{strategy: automix, options: {ladder: [adder, oracle]}}", "no expert 'oracle'"),
    ],
)
def test_an_expert_that_a_policy_asks_and_the_table_lacks_is_named(
    config, outcome_table, policy, message
):
    experts = ("adder", "speller", "sage", "oracle")
    done = cli(config(f"  mine: {policy}\n", experts), outcome_table)
    assert isinstance(done.exception, BadTable)
    assert str(done.exception).startswith("policy 'mine': ")
    assert message in str(done.exception)


def test_a_policys_router_needs_all_its_experts_in_the_table(config, outcome_table, tmp_path):
    path = tmp_path / "two.parquet"
    frame = pl.read_parquet(outcome_table)
    frame.select([c for c in frame.columns if not c.endswith("::sage")]).write_parquet(path)
    done = cli(config(), path, "--policy", "half")
    assert "policy 'half': the router knows sage, the table does not" in str(done.exception)


def test_a_latency_price_is_weighed_as_the_gateway_weighs_it(config, outcome_table, dev, router):
    timed = replace(router, latency=np.array([9.0, 9.0, 1.0]))
    assert router.at(max_cost_fraction=0.2).shares.get("sage", 0.0) < 0.5
    path = config(
        "  fast: {strategy: auto, router: router, max_cost_fraction: 0.2, latency_price: 1}\n"
    )
    timed.save(path.parent / "router")
    figures = json.loads(cli(path, outcome_table, "--json", "-").stdout)
    fast = figures["policies"]["fast"]
    assert fast["asked_for"] == "max_cost_fraction 0.2, latency_price 1"
    assert fast["quality"] == pytest.approx(figures["experts"]["sage"]["quality"])
    assert fast["cost_fraction"] == pytest.approx(1.0), "the quick one always, whatever it costs"


def test_a_policy_is_judged_by_the_strategy_of_its_point(config, outcome_table, router):
    path = config("  half: {strategy: auto, router: router, max_cost_fraction: 0.5}\n")
    adder = {"strategy": "fixed", "expert": "adder"}
    points = tuple(replace(point, spec=adder) for point in router.frontier)
    replace(router, frontier=points).save(path.parent / "router")
    figures = json.loads(cli(path, outcome_table, "--json", "-").stdout)
    assert figures["policies"]["half"]["quality"] == figures["experts"]["adder"]["quality"]


def test_queries_are_judged_as_untagged_where_that_is_asked(
    config, outcome_table, router_folder, router, dev
):
    without = evaluate(router, dev, without_domain=True)
    for judged in (router_folder, config()):
        plain, bare = (
            json.loads(cli(judged, outcome_table, "--json", "-", *words).stdout)
            for words in ((), ("--without-domain",))
        )
        key = "policies" if judged.suffix else "curve"
        assert plain[key] != bare[key]
        assert plain["experts"] == bare["experts"]
        if key == "curve":
            (point, *_), (expected, *_) = bare[key], without.to_json()[key]
            assert point["quality"] == pytest.approx(expected["quality"])


def test_options_that_do_not_go_together_say_so(config, outcome_table, router_folder, tmp_path):
    done = cli(router_folder, outcome_table, "--policy", "half")
    assert "--policy names a policy of a config" in str(done.exception)
    done = cli(tmp_path / "none.yaml", outcome_table)
    assert "none.yaml" in str(done.exception)


# --- the report about a config -----------------------------------------------------------------


def html(path, *words) -> str:
    """The text and markup of the report that `evaluate … --html` writes."""
    done = cli(*words, "--html", path)
    assert done.exit_code == 0, (done.output, done.exception)
    return path.read_text(encoding="utf-8")


def test_the_report_about_a_config_speaks_of_the_policy_that_is_served(
    config, outcome_table, tmp_path
):
    path = config(POLICIES + "default_policy: half\n")
    page = html(tmp_path / "report.html", path, outcome_table)
    figures = json.loads(cli(path, outcome_table, "--json", "-").stdout)
    half = figures["policies"]["half"]
    lead = (
        f"Policy &#39;half&#39; reaches {100 * half['quality']:.1f} %"
        f" at {100 * half['cost_fraction']:.0f} % of the cost of always asking sage."
    )
    assert f"<h1>{lead}</h1>" in page
    assert f"<strong>{100 * half['gain_over_zero_router']:+.1f}</strong>" in page
    assert "at most 50 %" in page
    assert "wrote " in cli(path, outcome_table, "--html", tmp_path / "other.html").output
    for name in figures["policies"]:
        assert f"<tr><th>{name}<span" in page
    assert "gain over the fixed mix at the same cost, percentage points" in page
    assert html(tmp_path / "report.html", path, outcome_table) == page
    assert "Policy &#39;climb&#39; reaches" in html(
        tmp_path / "report.html", path, outcome_table, "--policy", "climb"
    )


def test_a_report_about_fixed_experts_calls_no_choice_wrong(config, outcome_table, tmp_path):
    mixed = "{first: {strategy: fixed, expert: adder}, second: {strategy: fixed, expert: sage}"
    policies = {
        "best": "{strategy: fixed, options: {expert: adder}}",
        "both": f"{{strategy: mix, options: {mixed}, share: 0.5}}}}",
    }
    for name, policy in policies.items():
        page = html(tmp_path / f"{name}.html", config(f"  {name}: {policy}\n"), outcome_table)
        assert "which learns no choice" in page
        assert "Where it is wrong" not in page
    climb = "  climb: {strategy: cascade, options: {ladder: [adder, sage], trust: 0.6}}\n"
    assert "Where it is wrong" in html(tmp_path / "c.html", config(climb), outcome_table)


def test_reports_name_no_folder_of_this_machine(config, outcome_table, router_folder, tmp_path):
    for judged in (config(), router_folder):
        page = html(tmp_path / "report.html", judged, outcome_table)
        assert outcome_table.name in page
        for folder in (tmp_path, outcome_table.parent, router_folder.parent):
            assert str(folder) not in page


def test_a_report_says_where_rows_prove_nothing(config, outcome_table, router_folder, tmp_path):
    few = tmp_path / "few.parquet"
    pl.read_parquet(outcome_table).filter(pl.col("split") == "dev").head(20).write_parquet(few)
    for judged in (config(), router_folder):
        page = html(tmp_path / "report.html", judged, few)
        assert "too few to prove anything</span></dd>" in page


def test_a_config_without_costs_is_reported_by_quality_alone(config, outcome_table, tmp_path):
    free = tmp_path / "free.parquet"
    rows = pl.read_parquet(outcome_table)
    rows.drop([c for c in rows.columns if c.startswith("cost::")]).write_parquet(free)
    policies = "  climb: {strategy: cascade, options: {ladder: [adder, sage], trust: 0.6}}\n"
    page = html(tmp_path / "report.html", config(policies), free)
    assert "no costs are known, so only quality is judged" in page
    assert "US$" not in page
    assert "nan" not in page


def test_a_policy_that_verifies_is_not_judged_in_silence_without_verifications(
    config, outcome_table, tmp_path
):
    path, with_checks = config(), tmp_path / "checked.parquet"
    frame = pl.read_parquet(outcome_table).drop("^verify.*$", "^verdicts.*$")
    bare = tmp_path / "bare.parquet"
    frame.write_parquet(bare)
    names = ("adder", "speller", "sage")
    frame.with_columns(pl.lit(0.9).alias(f"verify::{name}") for name in names).write_parquet(
        with_checks
    )
    shown = cli(path, bare).stdout
    for policy, expert in (("climb", "adder"), ("share", "speller")):
        assert f"Note: policy '{policy}' asks {expert} to verify its own answers, and" in shown
    assert shown.count("`interview --verify 1` records them") == 2
    assert "these rows record no verification" not in cli(path, with_checks).stdout
    line = ["compare", f"{path}:climb", f"{path}:best", str(bare)]
    assert "policy 'climb' asks adder to verify" in CliRunner().invoke(app, line).stdout


def test_the_oracle_is_never_below_the_best_expert(outcome_table, tmp_path):
    frame = pl.read_parquet(outcome_table).with_row_index("n")
    rows = len(frame)
    half = frame.with_columns(  # the best expert is unknown on half of the rows
        pl.when(pl.col("n") * 2 < rows).then("score::sage").alias("score::sage")
    )
    none = half.with_columns(  # no row has all scores
        pl.when(pl.col("n") * 2 >= rows).then("score::adder").alias("score::adder")
    )
    config = tmp_path / "routewright.yaml"
    config.write_text(
        "version: 1\nexperts: [{name: adder, base_url: http://localhost:1/v1}, {name: sage,"
        " base_url: http://localhost:1/v1}]\n"
        "policies: {big: {strategy: fixed, options: {expert: sage}}}\n"
    )
    for name, table in (("all", frame), ("half", half), ("none", none)):
        path = tmp_path / f"{name}.parquet"
        table.drop("n").write_parquet(path)
        page = tmp_path / "page.html"
        line = ["evaluate", str(config), str(path), "--split", "all", "--html", str(page)]
        result = CliRunner().invoke(app, [*line, "--json", "-"], catch_exceptions=False)
        figures = json.loads(result.stdout)["references"]
        read = outcomes.read(path).pool(["adder", "sage"])
        whole = np.isfinite(read.score).all(axis=1)
        if name == "none":
            assert figures["oracle"] == {"quality": None, "cost": None}
            assert "would reach" not in page.read_text()
        else:
            best = read.score[whole].max(axis=1).mean()
            assert figures["oracle"]["quality"] == pytest.approx(best)
            assert best >= figures["best_single"]["quality"]
