"""What `import routewright` gives: names, examples, and values that print as people read them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from routewright.data import outcomes
from routewright.evaluation.evaluate import evaluate
from tables import table, write


def with_long_names(frame, tmp_path):
    """The table with thirty experts, whose names are as long as those on hubs."""
    for n in range(27):
        name = f"an-organisation/a-model-with-a-long-name-{n}b-instruct-v0.1"
        frame = frame.with_columns(
            frame["score::sage"].alias(f"score::{name}"),
            frame["cost::sage"].alias(f"cost::{name}"),
        )
    return outcomes.read(write(tmp_path, frame))


def test_values_are_shown_in_one_short_line(router, outcome_table, tmp_path):
    held_out = outcomes.read(outcome_table, split="dev")
    many = with_long_names(table(40), tmp_path)
    for value in (router, held_out, many, evaluate(router, held_out, replicates=20)):
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)


def test_a_table_prints_the_quality_and_cost_of_each_expert(tmp_path):
    o = outcomes.read(write(tmp_path, table(40)))
    o.score[:, 0], o.cost[:, 0] = np.arange(40) < 10, 0.00123
    o.score[:4, 1], o.cost[:, 2] = np.nan, np.nan
    first, heading, adder, speller, sage = str(o).splitlines()
    assert first == "40 queries in 2 domains, split 'all'"
    assert heading.split() == ["expert", "scored", "quality", "US$", "per", "1,000"]
    assert adder.split() == ["adder", "40", "25.0", "%", "1.23"]
    assert speller.split()[:2] == ["speller", "36"]
    assert sage.split()[-1] == "?"


def test_long_tables_print_a_few_lines(tmp_path):
    lines = str(with_long_names(table(40), tmp_path)).splitlines()
    assert len(lines) < 20
    assert lines[-1] == "… and 15 more"


def test_a_router_prints_its_experts_and_the_range_of_its_points(router):
    first, _, *experts, last = str(router).splitlines()
    assert first == "Router over 3 experts, fitted on 300 queries"
    assert [line.split()[0] for line in experts] == list(router.experts)
    worst, best = (f(point.quality for point in router.frontier) for f in (min, max))
    assert last.startswith(f"{len(router.frontier)} operating points, from {100 * worst:.1f} % for")
    assert f"to {100 * best:.1f} % for" in last
    assert str(replace(router, card={}, frontier=())).startswith("Router over 3 experts\n")


def test_an_evaluation_prints_the_gain_over_the_zero_router(router, outcome_table):
    e = evaluate(router, outcomes.read(outcome_table, split="dev"))
    figures, shown = e.to_json(), str(e)
    half = figures["at_cost_fraction"]["0.5"]
    line = next(line for line in shown.splitlines() if "50 %" in line)
    assert f"{100 * half['quality']:.1f} %" in line
    low, high = half["gain_ci"]
    gain = f"{100 * half['gain_over_zero_router']:+.1f}"
    assert f"{gain} ({100 * low:+.1f} … {100 * high:+.1f})" in line
    assert "best single expert: sage" in shown
    assert f"AIQ {figures['aiq']:.3f}" in shown
    assert len(shown.splitlines()) < 12


@pytest.mark.filterwarnings("error")
def test_an_evaluation_without_costs_prints_qualities_alone(tmp_path):
    from routewright.fitting.fit import fit

    rows = outcomes.read(write(tmp_path, table(120, costs=False)))
    shown = str(evaluate(fit(rows, strategy="single"), rows, replicates=20))
    assert "router at λ = 0" in shown
    assert "AIQ" not in shown
    assert str(rows).splitlines()[2].endswith("?")
