"""A paced policy keeps its budget on traffic that costs something else than was promised."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from routewright.data.outcomes import Outcomes
from routewright.errors import RoutewrightError
from routewright.fitting.fit import fit
from routewright.gateway.pacing import Change, Pacer, Pacers, State, merge
from routewright.gateway.policies import Policy
from routewright.router.router import Router
from routewright.types import Query
from upstream import Upstream, asked, config_of, front, running

PRICES = np.array([1e-4, 1e-3])  # of small and large
NOUNS = ("lamp", "river", "engine", "candle", "bridge", "planet", "forest", "window", "castle")


def questions(count, seed):
    rng = np.random.default_rng(seed)
    return [f"What does the {' '.join(rng.choice(NOUNS, 4))} {i} mean?" for i in range(count)]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """Nothing tells when the large expert is needed: the frontier is the zero router's."""
    rng = np.random.default_rng(0)
    score = (rng.random((300, 2)) < [0.6, 0.9]).astype(float)
    cost = PRICES * rng.uniform(0.8, 1.2, (300, 1))
    queries = tuple(map(Query.of, questions(300, 0)))
    table = Outcomes(("small", "large"), queries, {"score": score, "cost": cost})
    folder = tmp_path_factory.mktemp("routers") / "router"
    fit(table, strategy="single", predictor="prior").save(folder)
    return Router.load(folder)


class Known:
    """The router with predicted costs that are known, so that thousands of queries are quick."""

    def __init__(self, router):
        self.router, self.belief, self.factor = router, router.predict([Query.of("What?")]), 1.0

    def __getattr__(self, name):
        return getattr(self.router, name)

    def predict(self, queries):
        return replace(self.belief, cost=self.factor * self.router.average_cost[None])


def windows(costs, limits, size=500):
    sums = [np.cumsum([0.0, *column]) for column in (costs, limits)]
    spent, allowed = (total[size:] - total[:-size] for total in sums)
    return spent / allowed


def drive(pacer, router, factors, seed=0):
    """What each of many requests really costs: `factors` times what the table says."""
    rng, costs = np.random.default_rng(seed), []
    for i, factor in enumerate(factors):
        pace = pacer.begin(query := Query.of(f"What is {seed}-{i}?"))
        large = query.lot < pace.point.shares.get("large", 0.0)
        costs.append(PRICES[int(large)] * factor * rng.uniform(0.8, 1.2))
        pace.end(costs[-1], costs[-1] if large else None)
    return np.array(costs)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("shift", [1.0, 0.6, 2.0])
def test_any_500_queries_cost_at_most_2_percent_more_than_the_goal(router, share, shift):
    """From the thousandth query on, everything costs `shift` times what was predicted."""
    goal = share * PRICES[1]
    pacer = Pacer(Known(router), max_cost=goal)
    costs = drive(pacer, router, [1.0] * 1000 + [shift] * 2000)
    ratio = windows(costs, np.full(len(costs), goal))
    assert ratio.max() <= 1.02
    if goal < shift * PRICES[1]:
        assert ratio[-1] >= 0.93, "the budget is used, too"
    static = router.within(max_cost=goal)
    promised = static.shares["large"] * PRICES[1] + static.shares["small"] * PRICES[0]
    assert promised == pytest.approx(goal, rel=0.05), "mixing uses what a point leaves"


def test_a_share_follows_prompts_of_twice_the_length(router):
    known = Known(router)
    pacer = Pacer(known, max_cost_fraction=0.5)
    costs = drive(pacer, router, [1.0] * 800)
    known.factor = 2.0  # as is predicted of them
    longer = drive(pacer, router, [2.0] * 1200, seed=1)
    limits = 0.5 * PRICES[1] * np.array([1.0] * 800 + [2.0] * 1200)
    assert windows([*costs, *longer], limits).max() <= 1.03
    assert longer[200:].mean() >= 0.93 * PRICES[1], "the large expert is still asked"


def test_requests_at_the_same_time_do_not_spend_the_same_money_twice(router):
    goal = 0.25 * PRICES[1]
    pacer = Pacer(Known(router), max_cost=goal)
    pacer.state = State(credit=pacer.room * goal, unit=goal, bias=2.0)  # it has saved a lot
    paces = [pacer.begin(Query.of(f"What is {i}?")) for i in range(400)]
    costs = [p.point.shares.get("large", 0.0) * PRICES[1] for p in paces]
    assert np.mean(costs) <= 1.1 * goal
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pace: pace.end(PRICES[0]), paces * 2))
    assert pacer.state.queries == 400, "each is counted once"
    assert not pacer._pending


def serve(router_folder, folder, count, cost_of_large=1e-3, store="none", **policy):
    """The experts that answer some questions, and the metrics after them."""
    small, large = Upstream(), Upstream()

    async def run():
        async with running(small, large):
            entries = [
                small.expert("small", input_per_mtok=0.0, output_per_mtok=1e-4 * 1e6 / 2),
                large.expert("large", input_per_mtok=0.0, output_per_mtok=cost_of_large * 1e6 / 2),
            ]
            chosen = {"strategy": "auto", "router": str(router_folder), "pace": True, **policy}
            server = {"store": store}
            config = config_of(*entries, policies={"default": chosen}, server=server)
            config._folder = folder
            async with front(config) as client:
                names = [
                    (await client.chat.completions.create(model="auto", messages=asked(text))).model
                    for text in questions(count, 3)
                ]
                url = str(client.base_url).replace("/v1/", "/metrics")
                return names, (await client._client.get(url)).text

    return asyncio.run(run())


def value(metrics, name):
    (line,) = [line for line in metrics.splitlines() if line.startswith(name + "{")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("store", ["none", "sqlite:///books.db"])
def test_the_gateway_paces_and_goes_on_after_a_restart(router, tmp_path, store):
    router.save(tmp_path / "router")
    budget = {"max_cost": 5e-4, "store": store}
    names, metrics = serve(tmp_path / "router", tmp_path, 40, cost_of_large=4e-3, **budget)
    assert 0 < names.count("large") < 10, "it costs four times what was promised"
    assert value(metrics, "routewright_pace_queries") == 40
    assert value(metrics, "routewright_pace_mean_goal_usd") == pytest.approx(5e-4)
    mean = value(metrics, "routewright_pace_mean_cost_usd")
    assert mean == pytest.approx((4e-3 * names.count("large") + 1e-4 * names.count("small")) / 40)
    high = value(metrics, "routewright_pace_lambda")
    file = tmp_path / "routewright-pacing.json"
    if store == "none":
        assert json.loads(file.read_text())["default"]["state"]["queries"] == 40
    else:
        assert not file.exists(), "the store keeps the state"

    _, again = serve(tmp_path / "router", tmp_path, 1, cost_of_large=4e-3, **budget)
    assert value(again, "routewright_pace_queries") == 41
    assert value(again, "routewright_pace_lambda") == pytest.approx(high, rel=0.5)
    _, other = serve(tmp_path / "router", tmp_path, 1, **{**budget, "max_cost": 6e-4})
    assert value(other, "routewright_pace_queries") == 1, "another goal begins anew"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"default": {"goal": {"max_cost": 0.0005, "max_cost_fraction": null},'
        ' "state": {"credit": "x"}}}',
        '{"default": {"goal": {"max_cost": 0.0005, "max_cost_fraction": null},'
        ' "state": {"credit": 1e999}}}',
        '{"default": {"goal": {"max_cost": 0.0005, "max_cost_fraction": null},'
        ' "state": {"unit": -1.0}}}',
    ],
)
def test_a_damaged_state_is_told_and_pacing_begins_anew(router, tmp_path, content, caplog):
    router.save(tmp_path / "router")
    (tmp_path / "routewright-pacing.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        _, metrics = serve(tmp_path / "router", tmp_path, 1, max_cost=5e-4)
    assert "is damaged" in caplog.text
    assert value(metrics, "routewright_pace_queries") == 1


def test_pacing_without_a_budget_is_a_mistake(routewright, tmp_path, router):
    router.save(tmp_path / "router")
    (tmp_path / "routewright.yaml").write_text(
        "version: 1\n"
        "experts: [{name: small, base_url: 'http://127.0.0.1:1/v1'},"
        " {name: large, base_url: 'http://127.0.0.1:1/v1'}]\n"
        "policies: {default: {strategy: auto, router: router, price: 1.0, pace: true}}\n"
    )
    code, printed, error = routewright("check", tmp_path / "routewright.yaml")
    assert code != 0
    assert "needs a budget to keep" in " ".join((printed + error).split())


class Entries(dict):
    """A store in memory: what every process of a gateway shares."""

    def update_state(self, name, change):
        self[name] = json.loads(json.dumps(change(self.get(name))))
        return self[name]


AMOUNTS = st.integers(0, 4096).map(lambda n: n / 2**20)  # US$ whose sums floats hold exactly
CHANGES = st.builds(
    Change,
    queries=st.integers(0, 100),
    spent=AMOUNTS,
    goals=AMOUNTS,
    credit=AMOUNTS | AMOUNTS.map(lambda x: -x),
    highest=AMOUNTS,
    unit_kept=st.sampled_from([1.0, 0.5]),
    unit=AMOUNTS,
    bias=st.sampled_from([-0.25, 0.0, 0.5]),
    kept=st.sampled_from([1.0, 0.5]),
    asked=AMOUNTS,
    predicted=AMOUNTS,
)


@given(st.lists(CHANGES, max_size=4))
def test_a_change_of_many_requests_equals_their_changes_one_by_one(changes):
    state = State(credit=0.001, unit=0.0005, asked=0.002, predicted=0.001)
    assert merge(state, reduce(Change.then, changes, Change())) == reduce(merge, changes, state)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.none() | st.tuples(AMOUNTS, st.booleans())), max_size=60
    )
)
def test_replicas_lose_and_repeat_nothing(router, steps):
    """Three processes count requests and exchange what they counted, in any order; some exchanges
    fail."""
    entries, known = Entries(), Known(router)
    pacers = [Pacer(known, max_cost=2**-11) for _ in range(3)]
    costs = []
    for who, request in steps:
        if request is None:
            pacers[who].exchange("pacing", entries.update_state)
            continue
        costs.append(request[0])
        pacers[who].begin(Query.of("What?")).end(costs[-1], costs[-1])
        if request[1]:
            with pytest.raises(ConnectionError):
                pacers[who].exchange("pacing", out_of_reach)
    for pacer in (*pacers, *pacers):
        pacer.exchange("pacing", entries.update_state)
    for pacer in pacers:
        assert pacer.state.spent == sum(costs)
        assert pacer.state.goals == len(costs) * 2**-11
        assert pacer.state.queries == len(costs)
        assert pacer.account.shared == State(**entries["pacing"])


def out_of_reach(name, change):
    change(None)  # made, and not kept
    raise ConnectionError


@pytest.mark.parametrize(("every", "most"), [(1, 1.05), (30, 1.05), (300, 1.08)])
def test_replicas_keep_a_budget_together(router, every, most):
    """Three processes that know of each other only what they exchange once in `every` requests,
    on traffic that costs twice what was predicted."""
    entries, known, goal = Entries(), Known(router), 0.25 * PRICES[1]
    pacers = [Pacer(known, max_cost=goal) for _ in range(3)]
    rng, costs = np.random.default_rng(0), []
    for i in range(3000):
        pace = pacers[rng.integers(3)].begin(query := Query.of(f"What is {i}?"))
        large = query.lot < pace.point.shares.get("large", 0.0)
        costs.append(2 * PRICES[int(large)] * rng.uniform(0.8, 1.2))
        pace.end(costs[-1], costs[-1] if large else None)
        if i % every == 0:
            for k in rng.permutation(3):
                pacers[k].exchange("pacing", entries.update_state)
    ratio = windows(costs, np.full(len(costs), goal))[1000:]
    assert ratio.max() <= most
    assert sum(costs[1000:]) >= 0.92 * 2000 * goal, "the budget is used, too"


def test_replicas_share_a_state_in_postgresql(router, postgres_url):
    """Threads with connections of their own, as processes have them."""
    engine, known = create_engine(postgres_url), Known(router)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE states (name text PRIMARY KEY, state jsonb)"))
        connection.execute(text("INSERT INTO states VALUES ('pacing', NULL)"))

    def update(name, change):
        with engine.begin() as connection:
            query = "SELECT state FROM states WHERE name = :name FOR UPDATE"
            state = change(connection.execute(text(query), {"name": name}).scalar_one())
            values = {"name": name, "state": json.dumps(state)}
            query = "UPDATE states SET state = :state WHERE name = :name"
            connection.execute(text(query), values)
            return state

    def replica(seed):
        pacer = Pacer(known, max_cost=2**-11)
        for i in range(60):
            pacer.begin(Query.of(f"What is {seed}-{i}?")).end(2**-12)
            pacer.exchange("pacing", update)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(replica, range(3)))
    pacer = Pacer(known, max_cost=2**-11)
    pacer.exchange("pacing", update)
    engine.dispose()
    assert (pacer.state.queries, pacer.state.spent) == (180, 180 * 2**-12)


def test_a_store_takes_over_from_the_file_once(router, tmp_path):
    file, entries = tmp_path / "pacing.json", Entries()
    known = Known(router)

    def pacers(**goal):
        return Pacers(file, {"default": Pacer(known, **goal)})

    before = pacers(max_cost=5e-4)
    before.by_policy["default"].begin(Query.of("What?")).end(1e-3)
    before.save()
    content = file.read_text()
    for count in (2, 3):  # replicas that find the same file
        replica = pacers(max_cost=5e-4)
        replica.update = entries.update_state
        replica.by_policy["default"].begin(Query.of("What?")).end(1e-3)
        assert not replica.due()
        replica.save()
        assert replica.by_policy["default"].state.queries == count
    assert file.read_text() == content

    other = pacers(max_cost=6e-4)
    other.update = entries.update_state
    other.exchange()
    assert other.by_policy["default"].state.queries == 0, "another goal begins anew"
    assert len(entries) == 2, "and leaves the state of replicas that still have the old one"


def test_a_store_that_fails_is_told_and_pacing_goes_on(router, tmp_path, caplog):
    def fail(name, change):
        raise RoutewrightError("the database is away")

    pacers = Pacers(tmp_path / "pacing.json", {"default": Pacer(Known(router), max_cost=5e-4)})
    pacers.update = fail
    pacers.by_policy["default"].begin(Query.of("What?")).end(1e-3)
    with caplog.at_level(logging.WARNING):
        pacers.save()
    assert "was not kept: the database is away" in caplog.text
    pacers.update = Entries(**{"pacing default max_cost=0.0005": {"credit": "x"}}).update_state
    with caplog.at_level(logging.WARNING):
        pacers.exchange()
    assert "in the store is damaged" in caplog.text
    assert pacers.by_policy["default"].state.queries == 1


def test_a_reload_goes_on_with_requests_in_progress(router, tmp_path):
    known = Known(router)
    old = Pacers(tmp_path / "pacing.json", {"default": Pacer(known, max_cost=5e-4)})
    pace = old.by_policy["default"].begin(Query.of("What?"))
    new = Pacers(tmp_path / "pacing.json", {"default": Pacer(known, max_cost=5e-4)})
    new.inherit(old)
    pace.end(1e-3)
    assert new.by_policy["default"].state.spent == 1e-3


class Counting(Router):
    """A router that counts the queries that it predicts."""

    predicted = 0

    def predict(self, queries):
        type(self).predicted += len(queries)
        return super().predict(queries)


def test_a_paced_request_is_predicted_once(tmp_path, router_folder):
    router, Counting.predicted = Counting.load(router_folder), 0
    policy = Policy("default", router.strategy(), router=router, point=router.frontier[0])
    query = Query.of("What is 2 + 2?")
    for point in router.frontier:  # whatever strategy it names
        pacer = Pacer(router, max_cost=max(point.cost, 1e-9))
        Counting.predicted = 0
        paced, _ = replace(policy, pacer=pacer).paced(query)
        next(paced.strategy_for(query).plan(query))
        assert Counting.predicted == 1


def test_a_point_is_drawn_apart_from_the_mix_inside_it(router):
    """Both draw by the lot: of the queries that get the better of two points, as many get its
    better expert as of all queries."""
    pacer = Pacer(Known(router), max_cost=0.5 * PRICES[1])
    # A multiplier that leads half-way between two mixes.
    low, high = pacer.points[len(pacer.points) // 2 :][:2]
    bias = math.log((low.cost + high.cost) / 2 / pacer.goal)
    pacer.state = State(credit=pacer.room / 2 * pacer.goal, unit=pacer.goal, bias=bias)
    lots = {id(low): [], id(high): []}
    for i in range(2000):
        pace = pacer.begin(query := Query.of(f"What is {i}?"))
        pacer._pending.clear()
        lots[id(pace.point)].append(query.lot)
    for drawn in lots.values():
        assert len(drawn) == pytest.approx(1000, abs=100)
        assert np.mean(drawn) == pytest.approx(0.5, abs=0.05)
