"""`evaluate`: a router, or any strategy, on recorded outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from routewright.data import outcomes
from routewright.errors import BadInput, BadTable
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.report import render
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
    """Returns a verification, which is no answer and has no score."""

    def plan(self, query):
        return Decision((yield Ask("adder", "verify")), because="verified")


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
