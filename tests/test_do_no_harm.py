"""A learned point is served only where its gain is proven; what proves nothing is not counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from routewright.data.outcomes import Outcomes
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.router import frontier
from routewright.types import Query

SINGLE = frontier.PointStrategy({"strategy": "single", "price": 1.0}, "learned", {})


def table(rows: int, seed: int, groups: bool = False) -> Outcomes:
    """A small expert that is right on 70 % of the rows and a large one, 80 %, of which neither
    the questions nor anything else says when."""
    rng = np.random.default_rng(seed)
    ease = 0.6 * rng.normal(size=rows)
    right = [ease + 0.8 * rng.normal(size=rows) < at for at in (0.524, 0.842)]
    cost = [price * rng.lognormal(0, 0.3, rows) for price in (6e-5, 1e-3)]
    return Outcomes(
        experts=("small", "large"),
        queries=tuple(Query.of(f"question {seed}-{i}", id=str(i)) for i in range(rows)),
        measures={"score": np.column_stack(right).astype(float), "cost": np.column_stack(cost)},
        groups=tuple(map(str, range(rows))) if groups else (),
    )


def candidate(rows: Outcomes, small: np.ndarray) -> frontier.Candidate:
    """Sends the rows `small` to the small expert and the others to the large one."""
    chosen = np.ones(len(rows), int)
    chosen[small] = 0
    every = np.arange(len(rows))
    return frontier.Candidate(1.0, rows.score[every, chosen], rows.charges[every, chosen], SINGLE)


def is_learned(point: frontier.OperatingPoint) -> bool:
    return point.plan == "learned"


@pytest.mark.parametrize("moved", [3, 6, 12])
def test_failures_that_a_few_rows_do_not_show_are_possible(moved):
    """Rows drawn by lot often show no failure: with six of them, in a fifth of the tables."""
    learned = 0
    for seed in range(60):
        rows = table(300, seed)
        lot = np.random.default_rng(seed).permutation(300)[:moved]
        (point,) = frontier.trace([candidate(rows, lot)], rows, replicates=200)
        learned += is_learned(point)
    assert learned <= 4, "2.5 % are expected, and more than four has a chance of 1 %"


def test_all_points_of_a_frontier_are_one_claim():
    tables = 0
    for seed in range(60):
        rows = table(300, seed)
        lot = np.random.default_rng(seed).permutation(300)
        candidates = [candidate(rows, lot[: 300 * k // 24]) for k in range(25)]
        tables += any(map(is_learned, frontier.trace(candidates, rows, replicates=200)))
    assert tables <= 8, "5 % are expected, and more than eight has a chance of 1 %"


def test_a_gain_that_is_there_is_served():
    rows = table(300, 0)
    knows = np.flatnonzero(rows.score[:, 0] >= rows.score[:, 1])
    (point,) = frontier.trace([candidate(rows, knows)], rows)
    assert is_learned(point)
    assert 0 < point.gain_ci[0] < point.gain < point.gain_ci[1]


def test_rows_that_were_copied_prove_no_more():
    """Candidates that know something, on a table and on four copies of it."""
    rows = table(400, 1, groups=True)
    rng = np.random.default_rng(1)
    better = np.flatnonzero(rows.score[:, 0] >= rows.score[:, 1])
    lots = [rng.choice(better, size, replace=False) for size in (40, 80, 120, 160, 200)]
    lots = [np.append(lot, rng.choice(400, 60, replace=False)) for lot in lots]
    four = rows.rows(np.tile(np.arange(400), 4))
    once = frontier.trace([candidate(rows, lot) for lot in lots], rows)
    copies = [candidate(four, np.concatenate([lot + 400 * i for i in range(4)])) for lot in lots]
    copied = frontier.trace(copies, four)
    assert [is_learned(point) for point in once] == [is_learned(point) for point in copied]
    for one, other in zip(once, copied, strict=True):
        np.testing.assert_allclose(one.gain_ci, other.gain_ci, atol=1e-12)
    ungrouped = frontier.trace(copies, replace(four, groups=()))
    assert any(
        point.gain_ci[0] > other.gain_ci[0] for point, other in zip(ungrouped, copied, strict=True)
    ), "rows that are taken for independent prove more than they should"


def test_fixed_mixes_gain_exactly_nothing():
    router = fit(table(60, 0), strategy="single", predictor="prior")
    assert {point.strategy for point in router.frontier} == {"fixed"}
    for seed in range(5):
        figures = evaluate(router, table(300, seed + 50), replicates=100).to_json()
        for at in figures["at_cost_fraction"].values():
            if at["gain_ci"] is not None:
                low, high = at["gain_ci"]
                assert low <= 0 <= high


def test_a_router_needs_no_domain_by_default(tmp_path):
    """Queries at the gateway seldom have one: what a router promises must hold without it."""
    rng = np.random.default_rng(0)
    subjects = rng.choice(["law", "sums"], 400)
    rows = table(400, 2)
    score = np.column_stack([subjects == "sums", subjects == "law"]).astype(float)
    queries = tuple(
        replace(query, domain=str(subject), messages=({"role": "user", "content": f"{subject}?"},))
        for query, subject in zip(rows.queries, subjects, strict=True)
    )
    rows = replace(rows, queries=queries, measures={**rows.measures, "score": score})
    router = fit(rows, strategy="single", predictor="linear")
    untagged = [replace(query, domain=None) for query in rows.queries]
    np.testing.assert_array_equal(
        router.predict(rows.queries).quality, router.predict(untagged).quality
    )
    assert any(point.strategy == "single" for point in router.frontier)
