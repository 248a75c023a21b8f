"""One result for every strategy over recorded outcomes: score, cost, and who was asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from routewright import checks
from routewright.data import outcomes
from routewright.errors import BadInput
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, run
from routewright.strategies.auto import Auto
from routewright.strategies.cascade import Cascade
from routewright.strategies.fallback import Fallback
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from routewright.strategies.single import Single
from routewright.types import Ask, Decision
from tables import swept_as_replayed


@pytest.fixture(scope="module")
def dev(outcome_table):
    return outcomes.read(outcome_table, split="dev")


@dataclass(frozen=True)
class SecondOpinion:
    """A user's own strategy, which has no form over arrays."""

    pair: tuple[str, str]
    judge: str

    def plan(self, query):
        one, other = yield tuple(Ask(expert) for expert in self.pair)
        if (one.score or 0) == (other.score or 0):
            return Decision(one, because="they agree")
        return Decision((yield Ask(self.judge, final=True)), because="they differ")


def test_a_strategy_of_ones_own_is_replayed_and_says_who_was_asked(dev):
    ran = run(SecondOpinion(("adder", "speller"), "sage"), Recorded(dev))
    differ = dev.score[:, 0] != dev.score[:, 1]
    assert 0 < differ.sum() < len(dev)
    asked = np.column_stack([np.ones((len(dev), 2)), differ])
    np.testing.assert_array_equal(ran.asked, asked)
    np.testing.assert_array_equal(ran.score, np.where(differ, dev.score[:, 2], dev.score[:, 0]))
    paid = dev.cost[:, :2].sum(axis=1) + differ * dev.cost[:, 2]
    np.testing.assert_allclose(ran.cost, paid, rtol=1e-12)
    assert ran.shares(dev.experts) == {"adder": 1.0, "speller": 1.0, "sage": differ.mean()}


def test_a_mix_is_the_weighted_mean_of_its_parts_whatever_they_are(dev, router):
    rows = Recorded(dev, router)
    parts = Cascade(("adder", "sage"), 0.6), Single(router, 3000.0)
    first, second = (run(part, rows) for part in parts)
    mixed = run(Mix(*parts, share=0.3), rows)
    for table, one, other in zip(mixed[:3], first[:3], second[:3], strict=True):
        np.testing.assert_allclose(table, 0.7 * one + 0.3 * other, rtol=1e-12)


def test_where_an_outcome_is_not_recorded_the_fallback_is_asked_as_in_a_replay(dev):
    score = dev.score.copy()
    score[::3, 0] = np.nan
    holes = replace(dev, measures={**dev.measures, "score": score})
    ran = swept_as_replayed(Fallback(Fixed("adder"), ("sage",)), holes)
    assert ran.shares(dev.experts) == pytest.approx({"adder": 2 / 3, "sage": 1 / 3}, abs=0.01)
    alone = run(Fixed("adder"), Recorded(holes))
    assert np.isnan(alone.score[::3]).all(), "without one it stays unknown"


def test_a_row_of_which_nothing_is_recorded_is_unknown(dev):
    score = dev.score.copy()
    score[4] = np.nan
    ran = run(
        Cascade(dev.experts), Recorded(replace(dev, measures={**dev.measures, "score": score}))
    )
    assert np.isnan([ran.score[4], ran.cost[4], *ran.asked[4]]).all()
    assert np.isfinite(ran.score).sum() == len(dev) - 1


def test_a_query_with_limits_of_its_own_is_decided_by_its_plan(dev):
    queries = [
        replace(query, max_cost=0.05, price=0.0) if i % 2 else query
        for i, query in enumerate(checks.queries(20))
    ]
    table = checks.table(queries)
    for name in ("auto", "frugal", "cascade_routing", "single"):
        swept_as_replayed(checks.example(name), table, checks.ROUTER)


@pytest.mark.parametrize("strategy", [Single, Auto])
def test_every_strategy_sees_the_rows_through_its_own_router(strategy, dev, router):
    other = replace(router, signal=0.0)
    rows = Recorded(dev, router)
    own, others = (run(strategy(one, 3000.0), rows) for one in (router, other))
    assert (own.asked != others.asked).any()
    np.testing.assert_array_equal(others.asked, run(strategy(other, 3000.0), Recorded(dev)).asked)


def test_who_is_asked_is_said_of_the_tables_experts_in_the_tables_order(dev, router):
    turned = dev.pool(("sage", "speller", "adder"))
    for spec in ({"strategy": "single", "price": 3000.0}, {"strategy": "frugal", "trust": 0.8}):
        strategy = build(spec, router)
        there, here = run(strategy, Recorded(turned, router)), run(strategy, Recorded(dev, router))
        np.testing.assert_array_equal(there.asked, here.asked[:, ::-1])
        np.testing.assert_array_equal(there.score, here.score)


def test_an_expert_that_the_table_lacks_is_named(dev):
    with pytest.raises(BadInput, match="asks 'oracle', the table has adder, speller, sage"):
        run(Fixed("oracle"), Recorded(dev))


def test_what_several_settings_share_is_computed_once(dev):
    rows, made = Recorded(dev), []
    for on in ((dev, "auto"), (dev, "auto"), (dev, "letter"), (rows, "auto")):
        rows.cached("thing", on, lambda: made.append(1))
    assert len(made) == 3
