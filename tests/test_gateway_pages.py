"""Web pages, which a browser lets send requests in the name of whoever reads them."""

import asyncio

import aiohttp
import pytest

from routewright import config
from test_gateway_connections import door
from upstream import Upstream, asked, config_of, gateway, running

JSON = {"content-type": "application/json"}
PAGE = "https://chat.example.com"


def answers(*requests, served=door, **server):
    """The status of each request, given by its headers and perhaps a method and a path; checks
    that no expert was asked for those that were refused."""
    upstream = Upstream()

    async def run():
        async with running(upstream):
            settings = config_of(upstream.expert("small"), server=server)
            async with served(settings) as at, aiohttp.ClientSession() as session:
                url = at if isinstance(at, str) else f"http://127.0.0.1:{at[1]}"
                replies = []
                for headers, method, path in requests:
                    body = {"json": {"messages": asked()}} if method == "POST" else {}
                    headers = {k: v.replace("PORT", url[-5:]) for k, v in headers.items()}
                    async with session.request(
                        method, url + path, headers=headers, **body
                    ) as reply:
                        replies.append((reply.status, dict(reply.headers), await reply.text()))
                return replies

    replies = asyncio.run(run())
    asked_for = sum(
        status == 200 and method == "POST"
        for (status, *_), (_, method, _) in zip(replies, requests, strict=True)
    )
    assert upstream.requests == asked_for
    return replies


def post(**headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {**JSON, **named}, "POST", "/v1/chat/completions"


def get(path="/v1/models", **headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}, "GET", path


def statuses(*requests, **more):
    return [status for status, *_ in answers(*requests, **more)]


# --- origins -------------------------------------------------------------------------------

FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:3000"},
    {"origin": "null"},  # a page in a sandboxed frame, and a file
    {"origin": "file://"},
    {"origin": "app://desktop"},
    {"origin": "vscode-webview://1x2y"},
    {"origin": "chrome-extension://abcdef"},
    {"origin": ""},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
    {"origin": "http://127.0.0.1:PORT", "sec-fetch-site": "cross-site"},
    {"origin": "http://127.0.0.1:1"},
]
KINDS = ["text/plain; x=json", "application/json", "application/x-www-form-urlencoded", ""]


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_asks_behind_its_readers_back(kind):
    requests = [
        ({"content-type": kind, **headers}, "POST", "/v1/chat/completions") for headers in FOREIGN
    ]
    assert statuses(*requests) == [403] * len(FOREIGN)


def test_nor_does_a_page_read_anything():
    paths = ("/v1/models", "/metrics", "/health", "/v1/models/router-a-1")
    requests = [get(path, origin="https://evil.example") for path in paths]
    assert statuses(*requests) == [403] * 4
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    ((status, headers, text),) = answers((preflight, "OPTIONS", "/v1/chat/completions"))
    assert status == 403
    assert "Access-Control-Allow-Origin" not in headers
    assert "server.cors_origins" in text


def test_clients_that_are_no_pages_are_served():
    """As is a page of the gateway itself, and an address that somebody types."""
    assert (
        statuses(
            post(),
            post(origin="http://127.0.0.1:PORT", sec_fetch_site="same-origin"),
            post(sec_fetch_site="none"),
            post(sec_fetch_mode="cors"),  # Node's fetch
            ({"content-type": "text/plain"}, "POST", "/v1/chat/completions"),
        )
        == [200] * 5
    )


def test_a_page_whose_origin_is_allowed_is_served():
    preflight = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    checked, refused, asking, other = answers(
        (preflight, "OPTIONS", "/v1/chat/completions"),
        post(origin=PAGE, sec_fetch_site="cross-site"),
        post(origin=PAGE, sec_fetch_site="cross-site", authorization="Bearer secret"),
        post(origin="https://chat.example.com.evil.example", authorization="Bearer secret"),
        cors_origins=[PAGE],
        api_keys=["secret"],
    )
    assert [status for status, *_ in (checked, refused, asking, other)] == [200, 401, 200, 403]
    assert "authorization" in checked[1]["Access-Control-Allow-Headers"]
    for _, headers, _ in (checked, refused, asking):
        assert headers["Access-Control-Allow-Origin"] == PAGE


def test_any_page_may_be_allowed_where_there_are_keys():
    keyed = {"cors_origins": ["*"], "api_keys": ["secret"]}
    page = {"origin": "https://any.example", "authorization": "Bearer secret"}
    assert statuses(post(**page), post(origin="null"), **keyed) == [200, 401]


# --- hosts ---------------------------------------------------------------------------------

OURS = ["localhost", "localhost:PORT", "LOCALHOST", "127.0.0.1:1", "127.0.0.2", "[::1]:4100"]
THEIRS = ["evil.example", "evil.example:PORT", "localhost.evil.example", "127.0.0.1.evil.example"]
THEIRS += ["192.168.0.9", "localhost@evil.example", "localhost/evil", "[evil]", "local host", ":1"]


@pytest.mark.parametrize("served", [door, gateway])  # `serve`, and the application alone
def test_a_page_that_gives_its_own_name_our_address_is_refused(served):
    requests = [post(host=host) for host in THEIRS] + [get("/health", host=THEIRS[0])]
    replies = answers(*requests, served=served)
    assert [status for status, *_ in replies] == [421] * len(requests)
    assert "server.allowed_hosts" in replies[0][2]
    rebound = post(host="evil.example:PORT", origin="http://evil.example:PORT")
    assert statuses(rebound, served=served) == [421]
    assert statuses(*(post(host=host) for host in OURS), served=served) == [200] * len(OURS)


def test_names_can_be_allowed():
    hosts = [
        "gw.example.com",
        "GW.example.com:443",
        "a.lan",
        "b.a.lan",
        "localhost",
        "lan",
        "x.com",
    ]
    allowed = ["gw.example.com", "*.lan"]
    requests = [post(host=host) for host in hosts]
    assert statuses(*requests, allowed_hosts=allowed) == [200] * 5 + [421] * 2
    assert statuses(*requests, allowed_hosts=["*"]) == [200] * 7


def test_an_address_that_others_reach_has_any_name_unless_it_is_set():
    """But a page that has rebound its own name is still no page of ours."""

    def public(settings):
        return door(settings, loopback=False)

    page = post(host="evil.example", origin="http://evil.example")
    assert statuses(post(host="gw.lan"), page, served=public) == [200, 403]
    named = {"allowed_hosts": ["gw.lan"]}
    assert statuses(post(host="gw.lan"), post(host="x"), served=public, **named) == [200, 421]
    own = post(host="gw.lan", origin="https://gw.lan")
    assert statuses(own, served=public, **named) == [200]


# --- the config ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"cors_origins": ["null"]}, "sandboxed frame"),
        ({"cors_origins": ["*"]}, "lets every web page spend your money"),
        ({"cors_origins": ["https://a.example/"]}, "is not the origin of a web page"),
        ({"cors_origins": ["a.example"]}, "is not the origin of a web page"),
        ({"allowed_hosts": ["https://a.example"]}, "is not a host name"),
        ({"allowed_hosts": ["a.example:80"]}, "is not a host name"),
        ({"allowed_hosts": ["*.*"]}, "is not a host name"),
        ({"admin_key": "pla in"}, "holds white space"),
    ],
)
def test_check_says_what_would_let_pages_in(tmp_path, server, told):
    assert told in problems(tmp_path, server)


def test_check_accepts_names_and_origins(tmp_path):
    server = {
        "cors_origins": [
            "https://a.example",
            "http://localhost:3000",
            "app://desktop",
            "http://[::1]:1",
        ],
        "allowed_hosts": ["a.example", "*.a.example", "10.0.0.1", "::1", "*", "my_host"],
    }
    assert problems(tmp_path, server) == ""


def problems(folder, server):
    path = folder / "routewright.yaml"
    expert = {"name": "small", "base_url": "http://127.0.0.1:9/v1"}
    settings = config_of(expert).model_dump(mode="json", exclude_unset=True)
    path.write_text(str({**settings, "server": server}))
    return "\n".join(problem.text(path) for problem in config.examine(path).problems)
