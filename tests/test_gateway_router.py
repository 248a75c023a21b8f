"""Policies with a trained router, served."""

import random

import numpy as np
import openai
import pytest

from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.types import Query
from test_gateway import create, post, raw, served
from upstream import Upstream, asked


def table(rows=60):
    """Sums, which both experts can do, and riddles, which only the dear one can."""
    lot = random.Random(0)
    texts = [
        f"What is {lot.randrange(99)} plus {lot.randrange(99)}?"
        if row % 2
        else f"Solve the riddle of the {lot.choice(['sphinx', 'raven', 'desk', 'egg'])} {row}"
        for row in range(rows)
    ]
    score = np.array([[float("plus" in text), 1.0] for text in texts])
    cost = np.tile([1e-5, 1e-4], (rows, 1))
    queries = tuple(Query.of(text) for text in texts)
    return Outcomes(("small", "large"), queries, {"score": score, "cost": cost})


@pytest.fixture(scope="module", params=["knn", "zooter"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("routers") / "router"
    fit(table(), encoder="lexical", predictor=request.param).save(path)
    return str(path)


def policies(folder, **more):
    return {"default": {"strategy": "single", "router": folder, "price": 1.0, **more}}


SUM, RIDDLE = asked("What is 5 plus 7?"), asked("Solve the riddle of the raven 3")


@pytest.mark.parametrize(("messages", "expert"), [(SUM, "small"), (RIDDLE, "large")])
def test_each_query_goes_where_it_is_worth_it(folder, messages, expert):
    answer = served(
        create(messages=messages), Upstream(), Upstream(), policies=policies(folder, price=5000.0)
    )
    assert answer.model == expert


@pytest.mark.parametrize(("price", "expert"), [(0.0, "large"), (1e9, "small")])
@pytest.mark.parametrize("more", [{}, {"price": None, "max_cost_fraction": 0.9}])
def test_lambda_moves_per_request(folder, price, expert, more):
    limits = {"routewright": {"lambda": price}}
    work = create(messages=RIDDLE, extra_body=limits)
    assert served(work, Upstream(), Upstream(), policies=policies(folder, **more)).model == expert


def test_min_quality_takes_the_cheapest_that_reaches_it(folder):
    def model(messages):
        limits = {"routewright": {"min_quality": 0.5}}
        work = create(messages=messages, extra_body=limits)
        return served(work, Upstream(), Upstream(), policies=policies(folder, price=0.0)).model

    assert (model(SUM), model(RIDDLE)) == ("small", "large")


@pytest.mark.parametrize(("threshold", "expert"), [("1", "small"), ("0", "large")])
@pytest.mark.parametrize("name", ["mf", "default"])
def test_routellm_names_work(folder, name, threshold, expert):
    reply = served(
        raw(f"router-{name}-{threshold}", messages=RIDDLE),
        Upstream(),
        Upstream(),
        policies=policies(folder),
    )
    assert reply.headers["x-routewright-expert"] == expert


@pytest.mark.parametrize("model", ["router-other-0.5", "router-mf-x", "router-0.5"])
def test_routellm_names_that_mean_nothing_are_404(folder, model):
    with pytest.raises(openai.NotFoundError):
        served(create(model), Upstream(), Upstream(), policies=policies(folder))


def test_a_threshold_beyond_1_is_400(folder):
    with pytest.raises(openai.BadRequestError, match="threshold"):
        served(create("router-mf-1.5"), Upstream(), Upstream(), policies=policies(folder))


@pytest.mark.parametrize("more", [{}, {"price": None, "max_cost_fraction": 1.0}])
def test_limits_hold_whatever_the_router_would_like(folder, more):
    cloud = Upstream()
    traits = ({"data_classes": ["public", "restricted"]}, {})
    limits = {"routewright": {"data_class": "restricted"}}
    work = create(messages=RIDDLE, extra_body=limits)
    answer = served(work, Upstream(), cloud, traits=traits, policies=policies(folder, **more))
    assert answer.model == "small"
    assert cloud.requests == 0


def test_route_tells_what_is_believed(folder):
    upstreams = Upstream(), Upstream()
    chosen = policies(folder, price=None, max_cost_fraction=0.9)
    reply = served(post("/route", {"messages": RIDDLE}), *upstreams, policies=chosen)
    small, large = reply["experts"]
    assert small["quality"] < large["quality"]
    assert large["cost"] == pytest.approx(1e-4, rel=0.2)
    assert reply["operating_point"]["cost_fraction"] <= 0.9
    assert [upstream.requests for upstream in upstreams] == [0, 0]


def test_a_router_that_is_not_there_is_told_at_the_start():
    from routewright.errors import BadConfig

    with pytest.raises(BadConfig, match=r"policy 'default'.*not a router"):
        served(create(), Upstream(), policies=policies("/nowhere/router"))


SECONDS = ({"latency": 0.5}, {"latency": 4.5})  # of small and large


@pytest.mark.parametrize("more", [{}, {"price": None, "max_cost_fraction": 1.0}])
@pytest.mark.parametrize(("hurry", "expert"), [(0.0, "large"), (0.01, "large"), (0.5, "small")])
def test_seconds_have_a_price_in_the_policy_and_in_the_request(folder, hurry, expert, more):
    """A riddle is worth about one more point to `large`, which takes four seconds more."""

    def model(in_policy, in_request):
        work = create(messages=RIDDLE, extra_body={"routewright": in_request})
        chosen = policies(folder, **more, **in_policy)
        return served(work, Upstream(), Upstream(), traits=SECONDS, policies=chosen).model

    assert model({"latency_price": hurry}, {}) == expert
    assert model({}, {"latency_price": hurry}) == expert
    assert model({"latency_price": 9.0}, {"latency_price": hurry}) == expert
    assert model({"latency_price": hurry}, {"lambda": 1e9}) == "small", "λ still counts"


def test_route_explains_with_the_price_of_seconds(folder):
    body = {"messages": RIDDLE, "routewright": {"latency_price": 0.5}}
    reply = served(
        post("/route", body), Upstream(), Upstream(), traits=SECONDS, policies=policies(folder)
    )
    assert reply["first_asks"][0]["expert"] == "small"
    assert [row["latency"] for row in reply["experts"]] == [0.5, 4.5]


def test_seconds_that_nobody_knows_cannot_have_a_price(folder):
    from routewright.errors import BadConfig

    work = create(messages=SUM, extra_body={"routewright": {"latency_price": 0.1}})
    with pytest.raises(openai.BadRequestError, match="predicts no latency"):
        served(work, Upstream(), Upstream(), policies=policies(folder))
    with pytest.raises(BadConfig, match="the router knows none"):
        served(work, Upstream(), Upstream(), policies=policies(folder, latency_price=0.1))


def test_a_query_too_dear_for_the_wanted_expert_goes_to_a_cheaper_fallback():
    traits = ({}, {"input_per_mtok": 1e6})
    large = {"strategy": "fixed", "options": {"expert": "large"}, "fallback": ["small"]}
    work = create(extra_body={"routewright": {"max_cost": 0.01}})
    answer = served(work, Upstream(), Upstream(), traits=traits, policies={"default": large})
    assert answer.model == "small"
