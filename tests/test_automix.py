"""AutoMix end to end: the strategy, replayed and over tables, fitted from recorded outcomes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright import checks
from routewright.answers.evidence import UNSURE
from routewright.cli.main import app
from routewright.data import outcomes
from routewright.drive import replay
from routewright.errors import BadInput, BadTable, UpstreamError
from routewright.evaluation import evaluate as evaluation
from routewright.fitting import automix
from routewright.fitting.automix import Cascade
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, replayed, verifications
from routewright.strategies.automix import Automix
from routewright.types import Answer, Query
from tables import swept_as_replayed, write

CLI = CliRunner()
PRICES = {"small": 1.0, "large": 50.0, "verify": 1.0}


def table(n: int = 800, seed: int = 0, noise: float = 0.15) -> pl.DataFrame:
    """A small, a middle and a large model on questions with four options, three onlookers who
    are right when the question is easy, and self-verifications that know a little."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    domains = rng.choice(["law", "maths"], n)
    gold = rng.integers(0, 4, n)
    letters = np.array(list("ABCD"))
    chance = {
        "small": 0.95 - 0.8 * hard,
        "middle": 0.97 - 0.6 * hard,
        "large": np.where(domains == "law", 0.9, 0.97 - 0.5 * hard),
        **dict.fromkeys(("x", "y", "z"), 0.9 - 0.75 * hard),
    }
    rows = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": [f"question {i} {hard[i]:.3f}\n(A) a\n(B) b\n(C) c\n(D) d" for i in range(n)],
        "domain": domains,
        "split": ["train" if i % 4 else "dev" for i in range(n)],
    }
    usd = {"small": 1.0, "middle": 8.0, "large": 50.0, "x": 0.3, "y": 0.3, "z": 0.3}
    for name, p in chance.items():
        right = rng.random(n) < p
        said = np.where(right, gold, (gold + rng.integers(1, 4, n)) % 4)
        rows[f"score::{name}"] = right.astype(np.float64)
        rows[f"cost::{name}"] = usd[name] * (0.8 + 0.4 * rng.random(n)) / 1000
        rows[f"answer::{name}"] = [f"The answer is ({letters[i]})." for i in said]
        sure = np.clip(0.3 + 0.4 * right + rng.normal(0, noise, n), 0, 1)
        rows[f"verify::{name}"] = (np.round(sure * 8) / 8).astype(np.float64)
        rows[f"logprob::{name}"] = np.log(0.05 + 0.9 * sure)
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("automix"), table())


@pytest.fixture(scope="module")
def holed(tmp_path_factory) -> Path:
    """The same with unknown cells of every kind."""
    rng = np.random.default_rng(1)
    frame = table(300)
    for column in [c for c in frame.columns if "::" in c]:
        holes = pl.Series(rng.random(len(frame)) < 0.05)
        cell = pl.when(holes).then(None).otherwise(pl.col(column))
        frame = frame.with_columns(cell.alias(column))
    return write(tmp_path_factory.mktemp("holed"), frame)


VARIANTS = {
    "by default": {"ladder": ["small", "middle", "large"]},
    "one threshold": {
        "ladder": ["small", "large"],
        "policy": {"expert": "small", "edges": [0.5], "then": [{"expert": "large"}, None]},
    },
    "a policy that skips": {
        "ladder": ["small", "middle", "large"],
        "policy": {
            "expert": "small",
            "edges": [0.3, 0.6],
            "then": [
                {"expert": "large"},
                {"expert": "middle", "edges": [0.6], "then": [{"expert": "large"}, None]},
                None,
            ],
        },
    },
    "agreement": {"ladder": ["small", "large"], "agree": ["middle"]},
    "log-probability": {"ladder": ["small", "middle", "large"], "verifier": "logprob"},
    "nobody looked at": {"ladder": ["small", "large"], "policy": {"expert": "small"}},
}


@pytest.mark.parametrize("check", checks.STRATEGY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_automix_keeps_the_contract(variant, check):
    check(build({"strategy": "automix", **VARIANTS[variant]}))


# --- the plan ----------------------------------------------------------------------------------

RECORD = {
    "small": Answer("small", "The answer is (B).", cost=1.0, score=0.0),
    ("small", "verify"): Answer("small", kind="verify", confidence=0.25, cost=0.5),
    "large": Answer("large", "C", cost=50.0, score=1.0),
    "x": Answer("x", "B", cost=0.1, score=0.0),
    "y": Answer("y", "(b)", cost=0.1, score=0.0),
    "z": Answer("z", "C", cost=0.1, score=1.0),
}
ASKED = Query.of("which? \n(A) a\n(B) b\n(C) c")


def test_a_doubted_answer_is_replaced_and_everything_is_paid_for():
    decision = replay(Automix(("small", "large")), ASKED, RECORD)
    assert decision.path == "small>verify:0.25>large"
    assert decision.cost == 51.5
    assert decision.because == "small was 25 % sure; large answers"


def test_others_who_agree_keep_an_answer_and_are_paid_in_full():
    strategy = Automix(("small", "large"), agree=("x", "y", "z"))
    decision = replay(strategy, ASKED, RECORD)
    assert decision.path == "small>x>y>z"
    assert decision.cost == pytest.approx(1.3)
    assert decision.because == "67 % of 3 agree with small; small's answer is kept"


def test_others_who_fail_do_not_count_and_if_all_do_nothing_speaks_for_the_answer():
    strategy = Automix(("small", "large"), agree=("x", "y", "z"))
    partly = {
        **RECORD,
        "z": Answer("z", status="failed", reason="is down"),
        "x": Answer("x", status="failed", reason="is down"),
    }
    assert "100 % of 1 agree" in replay(strategy, ASKED, partly).because
    down = {**partly, "y": Answer("y", status="failed", reason="is down")}
    decision = replay(strategy, ASKED, down)
    assert decision.answer.expert == "large"
    assert "0 % of 0 agree" in decision.because


def test_no_verdict_counts_as_no_confidence_and_says_so():
    unread = {**RECORD, ("small", "verify"): Answer("small", kind="verify", cost=0.5)}
    decision = replay(Automix(("small", "large")), ASKED, unread)
    assert decision.answer.expert == "large"
    assert "no verdict of small could be read, which counts as 0" in decision.because
    failed = {key: answer for key, answer in RECORD.items() if key != ("small", "verify")}
    assert "could not be verified" in replay(Automix(("small", "large")), ASKED, failed).because


@pytest.fixture
def mute(tmp_path):
    """Outcomes in which no verdict about a third of small's answers can be read."""
    frame, third = table(120), pl.Series(np.arange(120) % 3 == 0)
    frame = frame.with_columns(
        pl.when(third).then(None).otherwise("verify::small").alias("verify::small"),
        pl.lit(1).alias("verdicts::small"),
        pl.lit(0.002).alias("verify_cost::small"),
    )
    return outcomes.read(write(tmp_path, frame), split="all"), third.to_numpy()


def test_unreadable_verdicts_of_a_table_count_as_when_a_plan_runs(mute):
    rows, third = mute
    strategy, large = Automix(("small", "large")), rows.experts.index("large")
    ran, again = strategy.over(Recorded(rows)), replayed(strategy, Recorded(rows))
    assert np.allclose(ran.cost, again.cost)
    assert np.array_equal(ran.asked, again.asked)
    assert (ran.asked[third, large] == 1).all()
    assert automix.fit(rows, Cascade(("small", "large"))).fact("automix")["rows"] == len(rows)


def test_unreadable_verdicts_are_paid_for_where_answers_are_weighed(mute):
    rows, third = mute
    small = np.full(len(rows), rows.experts.index("small"))
    found = verifications(rows, small)
    assert (found.cost == 0.002).all()
    assert np.array_equal(found.confidence == UNSURE, third)


@pytest.mark.parametrize(
    ("logprobs", "kept", "words"),
    [
        ((-0.1, -0.3), True, "small gave its words a probability of 82 %; small's answer is kept"),
        ((-0.9, -0.7), False, "small gave its words a probability of 45 %; large answers"),
        (None, False, "small told no log-probability, which counts as 0; large answers"),
    ],
)
def test_an_answer_is_kept_by_its_own_log_probability_at_no_further_cost(logprobs, kept, words):
    record = {**RECORD, "small": replace(RECORD["small"], logprobs=logprobs)}
    decision = replay(Automix(("small", "large"), verifier="logprob"), ASKED, record)
    assert decision.because == words
    assert decision.cost == (1.0 if kept else 51.0)


def test_agreement_and_log_probability_are_two_verifiers():
    with pytest.raises(BadInput, match="leave out one of them"):
        Automix(("small", "large"), agree=("x",), verifier="logprob")


def test_if_the_large_model_fails_the_doubted_answer_is_better_than_none():
    decision = replay(
        Automix(("small", "large")),
        ASKED,
        {**RECORD, "large": Answer("large", status="failed", reason="is down")},
    )
    assert decision.answer.expert == "small"
    dead = {name: Answer(name, status="failed", reason="is down") for name in ("small", "large")}
    with pytest.raises(UpstreamError, match="'small' failed"):
        replay(Automix(("small", "large")), ASKED, dead)


def test_if_the_small_model_fails_the_next_one_answers_unverified():
    decision = replay(
        Automix(("small", "large")),
        ASKED,
        {**RECORD, "small": Answer("small", status="failed", reason="is down")},
    )
    assert decision.path == "small:failed>large"


def test_an_answer_is_not_verified_where_nobody_else_may_be_asked():
    only = replace(ASKED, data_class="restricted")
    from routewright.experts.limits import recorded
    from routewright.types import Expert

    decision = replay(
        Automix(("small", "large")), only, RECORD, [recorded("small"), Expert("large")]
    )
    assert decision.path == "small"


def test_a_verifier_cannot_also_answer():
    with pytest.raises(BadInput, match="'x' cannot both answer and verify"):
        Automix(("small", "x"), agree=("x", "y"))
    with pytest.raises(BadInput, match="two experts or more"):
        Automix(("small",))


# --- replay and tables ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["by default", "one threshold", "a policy that skips", "agree"])
def test_a_whole_table_is_decided_as_it_is_replayed(path, holed, variant):
    spec = VARIANTS.get(variant) or {"ladder": ["small", "large"], "agree": ["x", "y", "z"]}
    strategy = build({"strategy": "automix", **spec})
    for file in (path, holed):
        rows = outcomes.read(file)
        swept_as_replayed(strategy, rows)
        undecided = strategy.over(Recorded(rows)).undecided
        assert undecided.mean() < (0.5 if file == path else 0.8), "what a replay must tell"


# --- fitting ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(path) -> Router:
    rows = outcomes.read(path, split="train")
    return automix.fit(rows, Cascade(("small", "large"), ("x", "y", "z")), prices=PRICES)


def test_a_fitted_router_beats_the_straight_line_on_rows_not_seen(fitted, path):
    measured = evaluation.evaluate(fitted, outcomes.read(path, split="dev"))
    found = automix.lifts(measured)
    assert found.lift > 20
    assert found.lift_ci[0] < found.lift < found.lift_ci[1]
    assert measured.to_json()["at_cost_fraction"]["0.5"]["gain_ci"][0] > 0
    assert set(measured.to_json()["experts"]) == {"small", "large"}
    assert measured.to_json()["experts"]["large"]["cost"] == 50.0


def test_every_meta_verifier_is_compared_and_the_evidence_wins_where_there_is_some(fitted):
    facts = fitted.card["automix"]
    by_name = {row["name"]: row for row in facts["compared"]}
    assert set(by_name) == set(automix.NAMES)
    assert by_name["lookup"]["lift"] == by_name["pomdp"]["lift"]
    assert by_name["evidence"]["mean_lift"] > by_name["threshold"]["mean_lift"]
    assert facts["meta_verifier"] == "evidence"


def test_few_rows_are_given_the_plain_threshold(path):
    """The meta-verifier that looks best on a hundred rows is the luckiest."""
    rows = outcomes.read(path, split="train").rows(slice(0, 100))
    router = automix.fit(rows, Cascade(("small", "large"), ("x", "y", "z")), prices=PRICES)
    facts = router.card["automix"]
    assert facts["meta_verifier"] == "threshold"
    assert {row["name"] for row in facts["compared"]} == set(automix.NAMES)


def test_what_is_swept_over_the_table_is_what_is_replayed(fitted, path):
    rows = outcomes.read(path, split="dev").at_prices(**fitted.prices)
    for point in fitted.frontier[::9]:
        for spec in (point.spec.get("first", point.spec), point.spec.get("second")):
            if spec is not None:
                swept_as_replayed(build(spec, fitted), rows, fitted)


def test_a_saved_router_loads_and_decides_alike(fitted, path, tmp_path: Path):
    fitted.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router")
    assert [p.plan for p in loaded.frontier] == [p.plan for p in fitted.frontier]
    rows = outcomes.read(path, split="dev").at_prices(**fitted.prices)
    point = fitted.at(max_cost_fraction=0.4)
    for row in range(20):
        first, second = (
            replay(router.strategy_at(point), rows.queries[row], rows.record(row))
            for router in (fitted, loaded)
        )
        assert (first.path, first.because) == (second.path, second.because)


def test_prices_and_verifiers_are_fields_of_a_router_and_load_from_the_card_of_older_ones(
    fitted, router, path, tmp_path: Path
):
    assert fitted.verifiers == ("x", "y", "z")
    assert fitted.prices["answer"]["large"] == 50.0
    fitted.save(tmp_path / "router")
    file = tmp_path / "router" / "router.json"
    described = json.loads(file.read_text())
    for name in ("prices", "verifiers"):
        assert name not in described["card"]
        assert name not in router.describe(), "a plain router says nothing of them"
        described["card"][name] = described.pop(name)
    file.write_text(json.dumps(described))
    loaded = Router.load(tmp_path / "router")
    assert (loaded.verifiers, loaded.prices) == (fitted.verifiers, fitted.prices)
    assert loaded.card.keys() == fitted.card.keys()
    rows = outcomes.read(path, split="dev")
    old, new = (evaluation.evaluate(r, rows, replicates=5).to_json() for r in (loaded, fitted))
    assert old["curve"] == new["curve"]


@pytest.mark.parametrize("place", ["field", "card"])
def test_a_config_must_have_the_verifiers_of_its_routers(place, fitted, tmp_path: Path):
    fitted.save(tmp_path / "router")
    file = tmp_path / "router" / "router.json"
    described = json.loads(file.read_text())
    if place == "card":
        described["card"]["verifiers"] = described.pop("verifiers")
    file.write_text(json.dumps(described))
    config = tmp_path / "routewright.yaml"
    config.write_text(
        "version: 1\n"
        "experts: [{name: small, base_url: http://x/v1}, {name: large, base_url: http://x/v1}]\n"
        "policies: {default: {strategy: auto, router: router}}\n"
    )
    checked = run("check", config)
    assert "experts that are not here: x, y, z" in checked.output


def test_no_harm_is_done_where_the_verifier_knows_nothing(tmp_path: Path):
    frame = table(600)
    rng = np.random.default_rng(5)
    noise = pl.Series("verify::small", rng.integers(0, 9, len(frame)) / 8)
    rows = outcomes.read(write(tmp_path, frame.with_columns(noise)), split="train")
    router = automix.fit(rows, Cascade(("small", "large")), prices=PRICES, only="lookup")
    assert sum(point.strategy == "fixed" for point in router.frontier) >= len(router.frontier) - 3


def test_a_ladder_of_three_is_worth_more_than_its_ends(path):
    rows = outcomes.read(path, split="train")
    dev = outcomes.read(path, split="dev")
    gains = {}
    for ladder in (("small", "large"), ("small", "middle", "large")):
        router = automix.fit(rows, Cascade(ladder), only="pomdp")
        figures = evaluation.evaluate(router, dev).to_json()
        gains[len(ladder)] = figures["at_cost_fraction"]["0.25"]["quality"]
        assert router.card["automix"]["meta_verifier"] == "pomdp"
    assert gains[3] > gains[2] + 0.02


def test_fifty_rows_give_a_router_and_say_how_unsure_it_is(path):
    rows = outcomes.read(path, split="train").rows(slice(0, 50))
    router = automix.fit(rows, Cascade(("small", "large")), prices=PRICES)
    for row in router.card["automix"]["compared"]:
        low, high = row["mean_lift_ci"]
        assert high - low > 20, "fifty rows cannot be sure"


def test_where_the_large_model_is_no_better_there_is_no_lift_and_a_reason(path):
    rows = outcomes.read(path, split="train")
    scores = rows.measures["score"].copy()
    scores[:, rows.experts.index("large")] = 0.0
    useless = replace(rows, measures={**rows.measures, "score": scores})
    router = automix.fit(useless, Cascade(("small", "large")), prices=PRICES)
    assert "is no better than the small one" in router.card["automix"]["compared"][0]["undefined"]
    assert all(point.strategy == "fixed" for point in router.frontier)
    json.dumps(router.summary(), allow_nan=False)


def test_what_cannot_be_fitted_says_why(path):
    rows = outcomes.read(path, split="train")
    with pytest.raises(BadTable, match="no expert 'larg': did you mean 'large'"):
        automix.fit(rows, Cascade(("small", "larg")))
    with pytest.raises(BadInput, match="no cost of 'middle' can be set"):
        automix.fit(rows, Cascade(("small", "large")), prices={"middle": 1.0})
    with pytest.raises(BadInput, match="no meta-verifier is called 'magic'"):
        automix.fit(rows, Cascade(("small", "large")), only="magic")
    with pytest.raises(BadTable, match="of 10 rows 10 hold what AutoMix needs"):
        automix.fit(rows.rows(slice(0, 10)), Cascade(("small", "large")))
    bare = replace(rows, answers=None)
    with pytest.raises(BadInput, match="agreement needs columns answer::EXPERT"):
        automix.fit(bare, Cascade(("small", "large"), ("x",)))
    mute = {name: cells for name, cells in rows.measures.items() if name != "verify"}
    with pytest.raises(BadInput, match="self-verification needs columns verify::EXPERT"):
        automix.fit(replace(rows, measures=mute), Cascade(("small", "large")))


def test_a_committee_is_the_best_of_the_cheap_ones(path):
    frame = pl.read_parquet(path)
    rng = np.random.default_rng(0)
    parrot = [f"The answer is ({'ABCD'[i]})." for i in rng.integers(0, 4, len(frame))]
    frame = frame.with_columns(
        pl.Series("answer::parrot", parrot),
        pl.Series("score::parrot", np.zeros(len(frame))),
        pl.Series("cost::parrot", np.full(len(frame), 1e-4)),
    )
    rows = outcomes.read(write(path.parent, frame, "parrot.parquet"), split="train")
    assert set(automix.committee(rows, ("small", "large"), 3)) == {"x", "y", "z"}
    with pytest.raises(BadTable, match=r"8 experts are needed .* 4 are cheap"):
        automix.committee(rows, ("small", "large"), 8)


# --- the command line ---------------------------------------------------------------------------


def run(*words: object):
    return CLI.invoke(app, [str(word) for word in words])


def test_one_command_fits_and_the_others_work_with_its_router(path, tmp_path: Path):
    out = tmp_path / "router"
    fit = run(
        *("fit", path, "--out", out, "--strategy", "automix", "--small", "small"),
        *("--large", "large", "--agree", "x,y,z", "--costs", "small=1,large=50,verify=1"),
    )
    assert fit.exit_code == 0, fit.output
    for name in (*automix.NAMES, "always small: US$1,000.00 per 1,000 queries"):
        assert name in fit.output
    evaluated = run("evaluate", out, path, "--json", tmp_path / "figures.json")
    assert evaluated.exit_code == 0, evaluated.output
    assert "AutoMix (evidence): ΔIBC +" in evaluated.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["at_cost_fraction"]["0.5"]["gain_over_zero_router"] > 0
    calibrated = run("calibrate", out, "--max-cost-fraction", "0.4")
    assert "ask small; ask large if large's expected gain is" in calibrated.output
    assert "large " in calibrated.output.split("Experts asked")[1].split("\n")[0]
    assert run("route", out, "what?").output.strip() == "small"


def test_log_probabilities_are_fitted_on_and_are_free(path, tmp_path: Path):
    out, words = tmp_path / "router", ("--option", "ladder=small,large")
    logprob = (*words, "--option", "verifier=logprob")
    fit = run("fit", path, "--out", out, "--strategy", "automix_threshold", *logprob)
    assert fit.exit_code == 0, fit.output
    assert "trusted by the mean probability of its tokens, which is free" in fit.output
    assert "AutoMix (threshold): ΔIBC +" in run("evaluate", out, path).output
    calibrated = " ".join(run("calibrate", out, "--max-cost-fraction", "0.4").output.split())
    assert "ask large if the mean probability of its tokens is below" in calibrated
    router, rows = Router.load(out), outcomes.read(path, split="train")
    specs = [point.spec for point in router.frontier]
    assert any("logprob" in json.dumps(spec) for spec in specs)
    paid = automix.fit(rows, Cascade(("small", "large")), only="threshold")
    lifts = [one.fact("automix")["compared"][0]["lift"] for one in (router, paid)]
    assert lifts[0] > lifts[1]  # the same knowledge, but verifications have a cost


def test_a_single_meta_verifier_and_a_ladder_by_name(path, tmp_path: Path):
    fit = run(
        *("fit", path, "--out", tmp_path / "r", "--strategy", "automix_pomdp"),
        *("--option", "ladder=small,middle,large", "--option", "verifier=verify=3", "--json"),
    )
    assert fit.exit_code == 0, fit.output
    described = json.loads(fit.output)
    assert [row["name"] for row in described["card"]["automix"]["compared"]] == ["pomdp"]
    assert described["card"]["automix"]["ladder"] == ["small", "middle", "large"]
    specs = [point["spec"] for point in described["frontier"]]
    assert {spec["samples"] for spec in specs if spec["strategy"] == "automix"} == {3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--small", "small"], "needs --option small=A --option large=B, or --option ladder=A"),
        (["--small", "small", "--large", "huge"], "no expert 'huge'"),
        (["--option", "small=small", "--option", "large=huge"], "no expert 'huge'"),
        (
            ["--option", "smal=small"],
            "strategy 'automix' has no option smal: did you mean 'small'?",
        ),
        (["--ladder", "small,large", "--predictor", "knn", "--option", "k=x"], "must be a whole"),
        (["--ladder", "small,large", "--small", "small"], "not both"),
        (
            ["--small", "small", "--large", "large", "--verifier", "vote"],
            "choose verify, verify=K, logprob, or agreement",
        ),
        (
            ["--ladder", "small,large", "--verifier", "logprob", "--costs", "verify=1"],
            "comes with the answer",
        ),
        (["--ladder", "small,large", "--verifier", "logprob", "--agree", "x"], "option agree goes"),
        (
            ["--small", "small", "--large", "large", "--costs", "small"],
            "costs takes NAME=USD",
        ),
        (["--small", "small", "--large", "large", "--costs", "x=1"], "no cost of 'x' can be set"),
        (["--small", "small", "--large", "large", "--agree", "large"], "both answer and verify"),
    ],
)
def test_options_that_cannot_be_used_say_why(path, tmp_path: Path, words, message):
    done = run("fit", path, "--out", tmp_path / "r", "--strategy", "automix", *words)
    assert isinstance(done.exception, BadInput)
    assert message in str(done.exception)


def test_options_of_automix_are_not_swallowed_by_other_strategies(path, tmp_path: Path):
    done = run("fit", path, "--out", tmp_path / "r", "--small", "small")
    assert "option small goes with --strategy automix" in str(done.exception)


def test_an_option_and_its_earlier_flag_are_one_thing(path, tmp_path: Path):
    flags = ("--small", "small", "--large", "large", "--costs", "small=1,large=50,verify=1")
    options = ("small=small", "large=large", "costs=small=1,large=50,verify=1")
    spelt = [word for option in options for word in ("--option", option)]
    routers = []
    for i, words in enumerate((flags, spelt)):
        fit = ("fit", path, "--out", tmp_path / f"r{i}", "--strategy", "automix_lookup", "--json")
        done = run(*fit, *words)
        assert done.exit_code == 0, done.output
        routers.append(json.loads(done.output))
    assert routers[0]["frontier"] == routers[1]["frontier"]


def test_where_verification_costs_too_much_nothing_is_looked_at(path):
    dear = {"small": 1.0, "large": 50.0, "verify": 49.0}
    rows = outcomes.read(path, split="train")
    router = automix.fit(rows, Cascade(("small", "large")), prices=dear, only="lookup")
    cheap = [point for point in router.frontier if point.cost_fraction < 0.9]
    assert len(cheap) > 20, "mixing small and large is still offered at every cost"
    assert all(point.strategy == "fixed" for point in cheap)
    assert router.card["automix"]["compared"][0]["lift"] < 0


def test_a_table_with_holes_can_be_fitted_on_and_evaluated(holed, tmp_path: Path):
    rows = outcomes.read(holed, split="train")
    router = automix.fit(rows, Cascade(("small", "middle", "large"), ("x", "y")))
    figures = evaluation.evaluate(router, outcomes.read(holed, split="dev")).to_json()
    assert figures["n"] == 75
    assert 0.4 < figures["curve"][0]["quality"] < 1
