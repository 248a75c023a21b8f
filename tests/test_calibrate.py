"""Targets in the user's units, and the sentences that answer them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from routewright import config as configs
from routewright.cli.calibrate import calibrate, find_point, in_words, most_expensive
from routewright.cli.main import app
from routewright.drive import replay
from routewright.errors import BadConfig, BadInput
from routewright.gateway.policies import Policies
from routewright.router import frontier, targets
from routewright.router.frontier import OperatingPoint
from routewright.types import Answer, Query

EXPERTS = {"gpt-4o": 0.8, "mixtral 8x7b": 0.6, "new": float("nan")}


# --- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "0.0003",
        ".0003",
        "3e-4",
        "$0.0003",
        "0.30/1000",
        "$0.30 per 1000",
        "$0.30 per 1,000 queries",
        " 0.3 USD / 1k ",
        "$300 per 1M",
        "0.0003 per query",
        "at most $0.30 per 1,000 queries",
        "≤ 0.30/1000",
    ],
)
def test_every_way_to_write_a_cost_is_dollars_per_query(text):
    assert targets.dollars(text) == pytest.approx(0.0003)


@pytest.mark.parametrize(
    "text", ["", "cheap", "-1", "0.3/0", "0.3/", "nan", "inf", "1 2", "0.3%", "at least 1"]
)
def test_a_cost_that_is_none_names_itself_and_the_accepted_forms(text):
    with pytest.raises(BadInput, match="is not understood: write US") as error:
        targets.dollars(text)
    assert f"'{text}'" in str(error.value)
    assert "0.30/1000" in str(error.value)


@pytest.mark.parametrize("n", range(0, 101, 7))
def test_percentages_and_fractions_mean_the_same(n):
    assert targets.share(f"{n}%") == targets.share(f"{n / 100}") == n / 100
    assert targets.share(f" {n} % ") == n / 100
    assert targets.quality(f"{n}% of gpt-4o", EXPERTS) == pytest.approx(0.8 * n / 100)
    assert targets.quality(f"{n / 100}", EXPERTS) == n / 100


@pytest.mark.parametrize("text", ["20", "101%", "-5%", "half", "", "1.01"])
def test_a_share_beyond_the_whole_is_refused(text):
    with pytest.raises(BadInput, match=r"is not understood: write a percentage \(20%\) or 0.2"):
        targets.share(text)


def test_a_quality_relative_to_an_expert_takes_names_with_spaces():
    assert targets.quality("0.5 of mixtral 8x7b", EXPERTS) == pytest.approx(0.3)
    assert targets.quality("95 %  OF gpt-4o", EXPERTS) == pytest.approx(0.76)
    assert targets.quality("at least 95 % of gpt-4o", EXPERTS) == pytest.approx(0.76)
    assert targets.quality(">= 0.8", EXPERTS) == 0.8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("95% of gpt-4", "no expert 'gpt-4': did you mean 'gpt-4o'"),
        ("95% of new", "does not know the quality of 'new'"),
        ("95%", "of which expert.*'95% of NAME'"),
        ("80", "'80' is not understood"),
        ("good", "'good' is not understood"),
        ("at most 0.8", "'at most 0.8' is not understood"),
    ],
)
def test_a_quality_that_cannot_be_read_says_the_way_out(text, message):
    with pytest.raises(BadInput, match=message):
        targets.quality(text, EXPERTS)


# --- shares --------------------------------------------------------------------------------


class Shared(OperatingPoint):
    """A point that records whom it asks."""

    shares: dict[str, float]


def point(quality: float, **shares: float) -> OperatingPoint:
    made = Shared(0.0, quality, 0.5, quality, (0.5, 0.6), 0.0, (0.0, 0.0), {}, "always small")
    object.__setattr__(made, "shares", shares)
    return made


def test_the_best_point_within_a_share_is_found():
    points = [point(0.9, large=1.0), point(0.8, large=0.2, small=0.8), point(0.6, small=1.0)]
    assert targets.within_share(points, "large", 1.0) is points[0]
    assert targets.within_share(points, "large", 0.2) is points[1]
    assert targets.within_share(points, "large", 0.1) is points[2]


def test_a_share_out_of_reach_says_what_can_be_reached():
    with pytest.raises(BadInput, match=r"large cannot be kept to 5.0 % .*: at least 20.0 %"):
        targets.within_share([point(0.8, large=0.2)], "large", 0.05)


def test_points_that_do_not_record_whom_they_ask_are_refused():
    with pytest.raises(BadInput, match=r"does not record which share .* fit it again"):
        targets.within_share([point(0.9, large=0.1), point(0.9)], "large", 0.5)


# --- the door ------------------------------------------------------------------------------


def run(*arguments: str):
    app = typer.Typer()
    app.command()(calibrate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_cost_per_thousand_is_kept(router, router_folder):
    limit = router.at(max_cost_fraction=0.5).cost
    said = json.loads(run(router_folder, "--max-cost", f"{1000 * limit}/1000", "--json").stdout)
    assert said["cost"] <= limit * (1 + 1e-9)
    point = router.at(max_cost=limit)
    named = {"lambda": point.price, "strategy": point.strategy}
    assert said == json.loads(json.dumps({**named, **point.to_json()}))


def test_a_share_of_an_experts_quality_is_reached_at_the_least_cost(router):
    goal = 0.95 * router.card["experts"]["sage"]["quality"]
    found = find_point(router, "--min-quality", "95% of sage")
    assert found.quality >= goal
    assert all(p.cost >= found.cost for p in router.frontier if p.quality >= goal)


def test_percentages_of_the_most_expensive_are_taken(router, router_folder):
    half = run(router_folder, "--max-cost-fraction", "50%", "--json")
    assert json.loads(half.stdout)["cost"] == router.within(max_cost_fraction=0.5).cost


def test_at_most_a_share_to_the_most_expensive_expert(router):
    shares = {"sage": 0.4, "adder": 0.6}
    points = [point(0.7, **shares), point(0.9, sage=0.9, adder=0.1)]
    shared = replace(router, frontier=tuple(points))
    assert most_expensive(shared) == "sage"
    found = find_point(shared, "--max-share", "50%")
    assert found is points[0]
    assert "Experts asked: adder 60 %, sage 40 %." in in_words(shared, found)


def test_the_answer_is_in_words_with_its_interval(router, router_folder):
    found = router.within(max_cost_fraction=0.5)
    said = run(router_folder, "--max-cost-fraction", "0.5").output
    low, high = found.quality_ci
    quality = f"{100 * found.quality:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    assert quality in said
    assert f"US${1000 * found.cost:.3g} per 1,000 queries" in said
    assert "of the quality of" in said
    assert found.plan in said


def test_a_point_where_learning_did_not_pay_says_so(router):
    fixed = point(0.7, sage=1.0)
    assert "A learned choice was not shown to pay here" in in_words(router, fixed)


def of_fixed_mixes(router, *points: dict[str, float]):
    """The router with these mixes of fixed experts as its operating points."""
    quality, cost = (
        {name: facts[key] for name, facts in router.card["experts"].items()}
        for key in ("quality", "cost")
    )
    made = []
    for price, shares in enumerate(points):
        reached, spent = (
            sum(share * of[name] for name, share in shares.items()) for of in (quality, cost)
        )
        numbers = (price, spent, spent / max(cost.values()), reached, (reached, reached), 0.0)
        strategy = frontier.fixed_mix(shares)
        made.append(OperatingPoint(*numbers, (0.0, 0.0), **strategy._asdict()))
    return replace(router, frontier=tuple(made))


@pytest.mark.parametrize(
    ("low", "high", "plan"),
    [
        (
            {"adder": 0.7, "sage": 0.3},
            {"adder": 0.2, "sage": 0.8},
            r"sage for \d+ % of queries, else adder",
        ),
        ({"adder": 1.0}, {"adder": 0.1, "sage": 0.9}, r"sage for \d+ % of queries, else adder"),
        (
            {"adder": 0.5, "speller": 0.5},
            {"speller": 0.2, "sage": 0.8},
            r"sage for \d+ % of queries, speller for \d+ %, else adder",
        ),
    ],
)
def test_a_mix_of_fixed_mixes_is_one_fixed_mix(router, tmp_path, low, high, plan):
    of_fixed_mixes(router, high, low).save(tmp_path / "router")
    said = run(tmp_path / "router", "--max-cost-fraction", "50%").output
    assert re.search(f"What it does: {plan}\\.\n", said)
    point = json.loads(run(tmp_path / "router", "--max-cost-fraction", "50%", "--json").stdout)
    strategy = router.strategy_at(OperatingPoint.from_json(fields_of(point)))
    answers = {name: Answer(name) for name in router.experts}
    reasons = [replay(strategy, Query.of(f"query {i}"), answers).because for i in range(200)]
    assert {reason.count("in a mix") for reason in reasons} == {1}
    assert {f"{100 * share:.0f} %" for share in point["shares"].values()} == {
        re.search(r"\d+ %", reason)[0] for reason in reasons
    }


def fields_of(printed: dict) -> dict:
    return {key: value for key, value in printed.items() if key not in ("lambda", "strategy")}


def test_exactly_one_target_is_required(router_folder):
    both = run(router_folder, "--max-cost", "1", "--max-share", "20%")
    assert isinstance(both.exception, BadInput)
    assert "give exactly one of --max-cost" in str(both.exception)
    assert isinstance(run(router_folder).exception, BadInput)


@pytest.mark.parametrize(
    "target",
    [
        ("--max-cost-fraction", "50%"),
        ("--max-cost-fraction", "1"),
        ("--max-cost", "at most $1 per query"),
        ("--min-quality", "90% of sage"),
        ("--max-share", "30%"),
    ],
)
def test_the_line_to_paste_serves_the_point_that_was_found(router, router_folder, tmp_path, target):
    said = run(router_folder, *target).output
    assert "Put this under `policies:` in routewright.yaml, in place of the policy" in said
    experts = ", ".join(f"{{name: {n}, base_url: http://localhost:1/v1}}" for n in router.experts)
    path = tmp_path / "routewright.yaml"
    path.write_text(f"version: 1\nexperts: [{experts}]\npolicies:\n{said.splitlines()[-1]}\n")
    policy = Policies(configs.load(path)).by_name["default"]
    assert policy.point == find_point(router, *target)
    assert policy.fallback == ("sage",), "the best single expert answers if another one fails"


def test_every_way_to_name_a_share_of_the_cost_serves_the_same_mix(router, tmp_path):
    facts = {"adder": (0.1, 0.6), "sage": (1.0, 0.9)}  # share of the cost, quality
    ends = [
        replace(
            router.frontier[0],
            **frontier.fixed_mix({name: 1.0})._asdict(),
            cost=0.01 * share,
            cost_fraction=share,
            quality=quality,
        )
        for name, (share, quality) in facts.items()
    ]
    replace(router, frontier=tuple(ends)).save(tmp_path / "router")
    experts = ", ".join(f"{{name: {n}, base_url: http://localhost:1/v1}}" for n in router.experts)
    policy = "{strategy: auto, router: router, max_cost_fraction: 0.5}"
    path = tmp_path / "routewright.yaml"
    path.write_text(f"version: 1\nexperts: [{experts}]\npolicies: {{default: {policy}}}\n")
    policies = Policies(configs.load(path))
    served = policies.by_name["default"].point
    assert served.spec["strategy"] == "mix"
    assert policies.find("router-default-0.5").point == served
    words = ["route", str(tmp_path / "router"), "x", "--max-cost-fraction", "50%", "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["plan"] == served.plan


def test_a_cost_fraction_that_may_have_meant_a_percentage_is_refused(router_folder, tmp_path):
    said = run(router_folder, "--max-cost-fraction", "50").exception
    assert isinstance(said, BadInput)
    assert str(said).endswith("write 50% or 0.5")
    routed = CliRunner().invoke(
        app, ["route", str(router_folder), "x", "--max-cost-fraction", "50"]
    )
    assert str(routed.exception).endswith("write 50% or 0.5")
    path = tmp_path / "routewright.yaml"
    text = "version: 1\nexperts: [{name: sage, base_url: http://localhost:1/v1}]\npolicies:\n  p: "
    for value, fix in ((50, "write 50% or 0.5"), (12.5, "write 12.5% or 0.125")):
        path.write_text(f"{text}{{strategy: auto, router: R, max_cost_fraction: {value}}}\n")
        with pytest.raises(BadConfig) as error:
            configs.load(path)
        assert fix in str(error.value)


@pytest.mark.parametrize("text", ["1.5", "101%", "at most 150 %"])
def test_a_cost_fraction_above_the_whole_is_refused(router_folder, text):
    said = run(router_folder, "--max-cost-fraction", text).exception
    assert isinstance(said, BadInput)
    assert str(said).startswith(f"cost fraction '{text}' is above 1, ")
    assert "write at most 100% or 1; a higher limit is a cost in US$ (`calibrate --max-cost`)" in (
        str(said)
    )


def test_a_cost_fraction_of_a_config_may_be_a_percentage(router_folder, tmp_path):
    policy = f"{{strategy: auto, router: {router_folder}, max_cost_fraction: 50%}}"
    experts = ", ".join(
        f"{{name: {n}, base_url: http://x:1/v1}}" for n in ("adder", "speller", "sage")
    )
    path = tmp_path / "routewright.yaml"
    path.write_text(f"version: 1\nexperts: [{experts}]\npolicies: {{p: {policy}}}\n")
    assert configs.load(path).policies["p"].max_cost_fraction == 0.5
