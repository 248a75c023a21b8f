"""The model cards: how long a prompt may be, in OpenAI's and in Anthropic's shape."""

import asyncio

import aiohttp
import pytest

from upstream import config_of, gateway

ADMIN = {"authorization": "Bearer admin-key"}
NOWHERE = "http://127.0.0.1:9/v1"  # nothing listens there, and no expert is asked
ANTHROPIC = {"anthropic-version": "2023-06-01"}
POLICIES = {
    "climbing": {"strategy": "cascade", "options": {"ladder": ["small", "large"]}},
    "far": {"strategy": "fixed", "options": {"expert": "large"}},
    "safe": {"strategy": "fixed", "options": {"expert": "large"}, "fallback": ["small"]},
    "open": {"strategy": "fixed", "options": {"expert": "large"}, "fallback": ["dark"]},
    "mixed": {
        "strategy": "mix",
        "options": {
            "first": {"strategy": "fixed", "expert": "large"},
            "second": {"strategy": "fixed", "expert": "small"},
            "share": 0.5,
        },
    },
}
WINDOWS = {"small": 8192, "large": 128_000, "dark": None}


def served(*requests, policies=POLICIES, windows=WINDOWS, **server):
    """The JSON answers to requests, each of a method, a path, headers and a body."""

    async def run():
        experts = [
            {"name": name, "base_url": NOWHERE, "context_window": window, "price_list": "none"}
            for name, window in windows.items()
        ]
        config = config_of(*experts, policies=policies, server=server)
        async with gateway(config) as url, aiohttp.ClientSession() as session:
            answers = []
            for method, path, headers, body in requests:
                async with session.request(method, url + path, headers=headers, json=body) as reply:
                    answers.append(await reply.json())
            return answers

    return asyncio.run(run())


def get(path="/v1/models", **headers):
    return "GET", path, headers, None


def windows_of(listing):
    return {card["id"]: card["context_window"] for card in listing["data"]}


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("small", 8192),
        ("large", 128_000),
        ("dark", None),
        ("routewright/far", 128_000),
        ("routewright/climbing", 8192),
        ("routewright/safe", 8192),
        ("routewright/mixed", 8192),
        ("routewright/open", None),  # nobody knows what the fallback can read
        ("auto", 8192),  # the first policy
    ],
)
def test_a_card_tells_what_every_expert_behind_the_name_can_read(name, window):
    listing, card = served(get(), get(f"/v1/models/{name}"))
    assert windows_of(listing)[name] == window
    assert (card["context_window"], card["context_length"]) == (window, window)


def test_a_policy_with_a_router_tells_the_smallest_window_of_its_experts(router_folder):
    windows = {"adder": 4096, "speller": 2048, "sage": 8192, "spare": 512}
    router = {"strategy": "auto", "router": str(router_folder)}
    policies = {"pointed": router | {"max_cost_fraction": 0.5}, "priced": router | {"price": 1.0}}
    names = ("routewright/pointed", "routewright/priced", "router-pointed-0.5")
    cards = served(
        *(get(f"/v1/models/{name}") for name in names), policies=policies, windows=windows
    )
    assert [card["context_window"] for card in cards] == [2048] * 3


def test_a_key_is_told_the_window_of_the_experts_that_it_allows(tmp_path):
    store = {"store": f"sqlite:///{tmp_path}/store.db", "admin_key": "admin-key"}
    body = {"name": "team", "experts": ["large", "dark"]}
    key = served(("POST", "/admin/keys", ADMIN, body), **store)[0]["key"]
    (listing,) = served(get(authorization=f"Bearer {key}"), **store)
    windows = windows_of(listing)
    assert windows["routewright/climbing"] == 128_000
    assert windows["routewright/open"] is None
    assert "small" not in windows


def test_a_client_of_anthropic_gets_its_own_shape():
    page, card = served(get(**ANTHROPIC), get("/v1/models/small", **ANTHROPIC))
    assert card == {
        "type": "model",
        "id": "small",
        "display_name": "small",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 8192,
    }
    assert card in page["data"]
    ends = (page["first_id"], page["last_id"], page["has_more"])
    assert ends == (page["data"][0]["id"], page["data"][-1]["id"], False) == ("auto", "dark", False)
