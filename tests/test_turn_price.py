"""The λ at which the turns of conversations keep a budget that is a share of the dearest's cost."""

import numpy as np
import pytest

from routewright.gateway.turn_price import LEAST_TURNS, TurnCost, TurnPrice


def turns(count, seed=0):
    """Turns of growing conversations with a cheap and a dear expert, of which the dear one is
    better by about the same everywhere."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        usd = np.array([0.001, 0.01]) * (1 + i % 20)
        quality = np.array([0.5, 0.8]) + rng.normal(0, 0.01, 2)
        yield quality, TurnCost(usd / (1 + i % 20), usd, usd[1]), rng.random()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_turns_cost_the_share_that_was_asked_for(share):
    price, spent, dearest = TurnPrice(), 0.0, 0.0
    for quality, cost, lot in turns(2000):
        if (value := price.price(quality, cost, share, lot)) is None:
            continue
        spent += cost.usd[np.argmax(quality - value * cost.cost)]
        dearest += cost.dearest
    assert spent / dearest == pytest.approx(share, abs=0.03)


def test_what_is_affordable_always_is_never_refused():
    price = TurnPrice()
    values = [price.price(quality, cost, 1.0, lot) for quality, cost, lot in turns(100)]
    assert values[: LEAST_TURNS - 1] == [None] * (LEAST_TURNS - 1)
    assert set(values[LEAST_TURNS - 1 :]) == {0.0}


def test_an_expert_without_a_price_or_a_score_is_no_obstacle():
    price = TurnPrice()
    for quality, cost, lot in turns(100):
        quality[0], cost.usd[0] = np.nan, np.nan
        value = price.price(quality, cost, 0.5, lot)
    assert np.isfinite(value)
