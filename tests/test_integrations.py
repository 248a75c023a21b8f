"""Routers in other places, and Routewright in LangChain, LiteLLM and scikit-learn."""

import asyncio
import subprocess
import sys

import numpy as np
import pytest

from routewright import hub
from routewright.data import outcomes
from routewright.errors import BadInput, BadRouter
from routewright.router.router import Router
from tool_upstream import ANSWER, before_tools

# --- push and pull ---------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["{}/shelf/one", "file://{}/shelf/one"])
def test_a_router_goes_to_another_place_and_comes_back(
    routewright, router_folder, tmp_path, address
):
    there = address.format(tmp_path)
    code, out, _ = routewright("push", router_folder, there)
    assert code == 0
    assert there in out
    code, out, _ = routewright("pull", there, "--out", tmp_path / "copy")
    assert code == 0
    assert "Router over" in out
    for name in ("router.json", "router.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (router_folder / name).read_bytes()


def test_a_router_is_not_replaced_by_accident(routewright, router_folder, tmp_path):
    there = tmp_path / "one"
    assert routewright("push", router_folder, there)[0] == 0
    code, _, err = routewright("push", router_folder, there)
    assert code == 2
    assert "--replace" in err
    assert routewright("push", router_folder, there, "--replace")[0] == 0


def test_what_is_no_router_is_neither_pushed_nor_pulled(router_folder, tmp_path):
    with pytest.raises(BadInput, match="no router"):
        hub.pull(str(tmp_path / "nothing"), tmp_path / "copy")
    with pytest.raises(BadRouter):
        hub.push(tmp_path, str(tmp_path / "there"))
    with pytest.raises(BadInput, match="is no address"):
        hub.pull("nowhere://a/b", tmp_path / "copy")


def test_a_damaged_router_leaves_the_one_that_is_here(router_folder, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    hub.push(router_folder, str(there))
    hub.pull(str(there), here)
    before = (here / "router.json").read_bytes()
    (there / "router.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(BadRouter):
        hub.pull(str(there), here)
    assert (here / "router.json").read_bytes() == before
    assert Router.load(here).experts == Router.load(router_folder).experts


def test_a_message_holds_no_password(router_folder, tmp_path):
    with pytest.raises(BadInput) as error:
        hub.pull("sftp://ada:s3cret@127.0.0.1:1/x", tmp_path / "copy")
    assert "s3cret" not in str(error.value)


# --- LangChain -------------------------------------------------------------------------------


def test_langchain_sends_the_limits_and_tells_the_decision(tmp_path):
    pytest.importorskip("langchain_openai")
    from routewright.integrations.langchain import ChatRoutewright

    async def work():
        async with before_tools(tmp_path) as url:
            address = {"base_url": f"{url}/v1", "api_key": "k1"}
            reply = await ChatRoutewright(**address, data_class="public").ainvoke("Two and two?")
            with pytest.raises(Exception, match=r"max_cost|afford|no expert"):
                await ChatRoutewright(**address, max_cost=0.0).ainvoke("Two and two?")
            pieces = [
                piece.text async for piece in ChatRoutewright(**address).astream("Two and two?")
            ]
            return reply, "".join(pieces)

    reply, streamed = asyncio.run(work())
    assert reply.text == streamed == ANSWER
    assert reply.response_metadata["routewright"]["policy"]
    assert reply.response_metadata["model_name"] == "small"


# --- LiteLLM ---------------------------------------------------------------------------------


def deployments(router: Router) -> list[dict]:
    return [
        {
            "model_name": "auto",
            "litellm_params": {"model": f"openai/{name}", "api_key": "none"},
            "model_info": {"id": name},
        }
        for name in router.experts
    ]


def test_litellm_gets_the_deployment_of_the_best_expert(router_folder, router, outcome_table):
    from routewright.integrations.litellm import Routing

    rows = outcomes.read(outcome_table, split="dev")
    dear = Routing(router_folder, deployments(router), max_cost_fraction=1.0)
    cheap = Routing(router_folder, deployments(router), max_cost_fraction=0.2)
    asked = {
        name: [
            routing.get_available_deployment("auto", [{"role": "user", "content": q.text}])[
                "model_info"
            ]["id"]
            for q in rows.queries
        ]
        for name, routing in {"dear": dear, "cheap": cheap}.items()
    }
    cost = dict(zip(router.experts, router.average_cost, strict=True))
    spent = {name: sum(cost[expert] for expert in experts) for name, experts in asked.items()}
    assert spent["cheap"] < spent["dear"]
    only = Routing(router_folder, deployments(router)[:1], max_cost_fraction=1.0)
    assert (
        only.get_available_deployment("auto", input="Hello")["model_info"]["id"]
        == (router.experts[0])
    )
    with pytest.raises(BadInput, match="no deployment belongs"):
        Routing(router_folder, [{"model_name": "auto"}], max_cost_fraction=1.0)


def test_litellm_s_router_asks_whom_the_strategy_chooses(router_folder, router):
    litellm = pytest.importorskip("litellm")
    from routewright.integrations.litellm import Routing

    listed = [
        {**d, "litellm_params": {**d["litellm_params"], "mock_response": d["model_info"]["id"]}}
        for d in deployments(router)
    ]
    own = litellm.Router(model_list=listed)
    routing = Routing(router_folder, own.model_list, max_cost_fraction=1.0)
    own.set_custom_routing_strategy(routing)
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    reply = own.completion(model="auto", messages=messages)
    best = routing.get_available_deployment("auto", messages)["model_info"]["id"]
    assert reply.choices[0].message.content == best


# --- scikit-learn ----------------------------------------------------------------------------


def test_scikit_learn_clones_searches_and_scores_the_estimator(outcome_table):
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    from routewright.integrations.scikit import QualityRegressor

    rows = outcomes.read(outcome_table)
    texts = [query.text for query in rows.queries]
    scores, cost = rows.score, rows.cost
    search = GridSearchCV(
        QualityRegressor(encoder="lexical"),
        {"predictor": ["prior", "knn"]},
        cv=2,
        scoring="neg_mean_squared_error",
        error_score="raise",
    )
    search.fit(texts, scores)
    assert search.best_params_["predictor"] in ("prior", "knn")
    model = clone(search.best_estimator_).fit(texts, scores, cost)
    assert model.predict(texts[:5]).shape == (5, len(rows.experts))
    dear, cheap = model.choose(texts), model.choose(texts, max_cost_fraction=0.3)
    usd = np.nanmean(cost, axis=0)
    assert usd[cheap].sum() < usd[dear].sum()
    with pytest.raises(BadInput, match="scores of"):
        QualityRegressor().fit(texts, scores[:, 0])


def test_the_package_imports_none_of_their_libraries():
    code = (
        "import sys, routewright.cli.main, routewright.integrations;"
        "print([m for m in ('fsspec','langchain_core','litellm','sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
