"""The dashboard without a browser: who may look, what they see, what no page can be made to do."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import time

import httpx
import pytest
from sqlalchemy import select

import dashboard
from routewright.config.goals import with_goal
from routewright.errors import BadInput
from routewright.gateway.dashboard import site
from routewright.gateway.dashboard.formats import usd
from routewright.gateway.dashboard.signins import COOKIE
from routewright.records import schema, signins
from routewright.records.store import Store

PAGES = (
    "/",
    "/dashboard/live",
    "/dashboard/frontier",
    "/dashboard/decisions",
    "/dashboard/experts",
    "/dashboard/keys",
    "/dashboard/playground",
)
SCRIPT = "<script>alert('in a prompt')</script>"
TOKEN = re.compile(r'name="token" value="([0-9a-f]{64})"')
ID = re.compile(r'href="/dashboard/decisions/([0-9a-f]{32})"')


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with dashboard.running(tmp_path_factory.mktemp("dashboard")) as running:
        running.traffic(9)
        yield running


class Browser:
    """What a browser does of itself: it keeps the cookie and names the page that sends a form."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.http = httpx.Client(base_url=url, timeout=600)
        self.own = {"origin": url, "sec-fetch-site": "same-origin"}
        self.token = ""
        if key is not None:
            self.signed_in = self.post("/dashboard/signin", key=key)
            assert self.signed_in.status_code == 303, self.signed_in.text
            self.token = TOKEN.search(self.get("/").text)[1]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=headers)

    def post(self, path: str, headers: dict | None = None, **fields: str) -> httpx.Response:
        data = {"token": self.token, **fields}
        return self.http.post(path, data=data, headers=self.own if headers is None else headers)

    def decisions(self) -> list[str]:
        return list(dict.fromkeys(ID.findall(self.get("/dashboard/decisions").text)))


@pytest.fixture
def admin(gateway):
    return Browser(gateway.url, dashboard.ADMIN)


@pytest.fixture
def web(gateway):
    return Browser(gateway.url, gateway.keys["web"])


def store_of(gateway) -> Store:
    return Store("sqlite:///routewright.db", gateway.folder)


# --- who may look -------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_stranger_is_sent_to_sign_in_and_then_back(gateway, page):
    reply = Browser(gateway.url).get(page)
    assert reply.status_code == 303
    where = "" if page == "/" else f"?next={page.replace('/', '%2F')}"
    assert reply.headers["location"] == f"/dashboard/signin{where}"


def test_a_wrong_key_signs_nobody_in(gateway):
    browser = Browser(gateway.url)
    for key in ("", "wrong", gateway.keys["web"][:-1], dashboard.ADMIN + "x"):
        reply = browser.post("/dashboard/signin", key=key)
        assert reply.status_code == 401
        assert "set-cookie" not in reply.headers


def test_nobody_is_sent_to_another_site_after_signing_in(gateway):
    for place in ("//evil.example", "https://evil.example", "/\\evil.example", "/v1/models", "x"):
        reply = Browser(gateway.url).post("/dashboard/signin", key=dashboard.ADMIN, next=place)
        assert reply.headers["location"] == "/"
    place = "/dashboard/decisions?key=web"
    reply = Browser(gateway.url).post("/dashboard/signin", key=dashboard.ADMIN, next=place)
    assert reply.headers["location"] == place


def test_a_key_sees_its_own_requests_and_nothing_of_others(gateway, web, admin):
    of_all, own = admin.decisions(), web.decisions()
    assert (len(of_all), len(own)) == (9, 6)
    for name in of_all:
        assert web.get(f"/dashboard/decisions/{name}").status_code == (200 if name in own else 404)
    for page in PAGES:
        assert "batch" not in web.get(page).text, page
    assert web.get("/dashboard/keys/web").status_code == 200
    assert web.get("/dashboard/keys/batch").status_code == 404
    assert "batch" in admin.get("/dashboard/keys").text
    other = web.get("/dashboard/decisions?key=batch").text
    assert not ID.search(other)


def test_a_key_changes_nothing(gateway, web):
    before = gateway.config.read_text()
    for path, fields in (
        ("/dashboard/keys", {"name": "mine", "admin": "yes"}),
        ("/dashboard/keys/web/rotate", {}),
        ("/dashboard/keys/web/budget", {"day": "1000"}),
        ("/dashboard/keys/web/limits", {"rpm": "1000"}),
        ("/dashboard/keys/batch/revoke", {"name": "batch"}),
        ("/dashboard/frontier/write", {"policy": "thrifty", "point": "0"}),
    ):
        assert web.post(path, **fields).status_code == 403, path
    assert gateway.config.read_text() == before
    with store_of(gateway).read() as connection:
        rows = connection.execute(select(schema.keys.c.name, schema.keys.c.revoked_at)).all()
    assert {name for name, _ in rows} >= {"web", "batch"}
    assert "mine" not in {name for name, _ in rows}
    assert not any(at for name, at in rows if name in ("web", "batch"))


def test_figures_are_those_of_the_admin_api(gateway, admin):
    header = {"authorization": f"Bearer {dashboard.ADMIN}"}
    spend = httpx.get(f"{gateway.url}/admin/spend?since_seconds=86400", headers=header).json()
    assert f"<dd>{usd(spend['total_usd'])} " in admin.get("/").text
    keys = httpx.get(f"{gateway.url}/admin/keys", headers=header).json()["data"]
    page = admin.get("/dashboard/keys").text
    assert all(usd(key["spent_usd"]) in page for key in keys)


# --- sessions -----------------------------------------------------------------------------------


def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(gateway):
    cookie = Browser(gateway.url, dashboard.ADMIN).signed_in.headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= set(cookie.split("; "))
    assert "secure" not in cookie  # on a loopback address without TLS
    browser = Browser(gateway.url)
    headers = {**browser.own, "x-forwarded-proto": "https"}
    reply = browser.post("/dashboard/signin", headers=headers, key=dashboard.ADMIN)
    assert "secure" in reply.headers["set-cookie"].lower().split("; ")


def test_the_store_keeps_no_session_that_anybody_could_use(gateway, admin):
    session = admin.http.cookies[COOKIE]
    with store_of(gateway).read() as connection:
        rows = connection.execute(select(schema.states.c.name, schema.states.c.value)).all()
    assert signins.name_of(session) in {name for name, _ in rows}
    for secret in (session, dashboard.ADMIN):
        assert secret not in json.dumps([[*row] for row in rows])


def test_a_session_ends_with_its_time(gateway):
    admin = Browser(gateway.url, dashboard.ADMIN)
    name = signins.name_of(admin.http.cookies[COOKIE])
    ended = {"ends": time.time() - 1}
    store_of(gateway).update_state(name, lambda value: {**value, **ended})
    assert admin.get("/").status_code == 303


def test_signing_out_ends_the_session_also_for_who_kept_its_cookie(gateway):
    admin = Browser(gateway.url, dashboard.ADMIN)
    copy = dict(admin.http.cookies)
    assert admin.post("/dashboard/signout").headers["location"] == "/dashboard/signin"
    reply = httpx.get(f"{gateway.url}/", cookies=copy)
    assert reply.status_code == 303


def test_a_session_ends_with_the_secret_or_the_life_of_its_key(gateway, admin):
    made = admin.post("/dashboard/keys", name="guest").text
    secret = re.search(r"rw-[0-9a-f]{12}-[\w-]{43}", made)[0]
    guest = Browser(gateway.url, secret)
    rotated = admin.post("/dashboard/keys/guest/rotate", keep="now").text
    assert guest.get("/").status_code == 303
    guest = Browser(gateway.url, re.search(r"rw-[0-9a-f]{12}-[\w-]{43}", rotated)[0])
    assert admin.post("/dashboard/keys/guest/revoke", name="wrong").status_code == 400
    assert guest.get("/").status_code == 200
    assert admin.post("/dashboard/keys/guest/revoke", name="guest").status_code == 303
    assert guest.get("/").status_code == 303


# --- other sites --------------------------------------------------------------------------------

POSTS = [
    route.path.format(id="0" * 32, name="web", action="rotate")
    for route in site.build().app.routes
    if "POST" in (getattr(route, "methods", None) or ()) or route.path == "/dashboard/keys"
]
FOREIGN = [
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site"},
    {},  # a browser names at least one of the two
]


@pytest.mark.parametrize("path", POSTS)
def test_no_form_is_taken_from_another_site_or_without_its_token(admin, path):
    assert len(POSTS) >= 6
    for headers in FOREIGN:
        assert admin.post(path, headers=headers).status_code == 403, headers
    for token in ("", "0" * 64, admin.token[:-1]):
        assert admin.post(path, token=token).status_code == 403
    get = admin.http.get(path)
    assert get.status_code in (200, 404, 405)


def test_signing_in_is_not_taken_from_another_site(gateway):
    for headers in FOREIGN:
        reply = Browser(gateway.url).post("/dashboard/signin", headers=headers, key=dashboard.ADMIN)
        assert reply.status_code == 403


def test_other_sites_may_link_here_and_read_nothing(gateway, admin):
    visit = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    stranger = httpx.get(f"{gateway.url}/dashboard/keys", headers=visit)
    assert stranger.status_code == 200
    assert 'http-equiv="refresh"' in stranger.text  # now the browser sends its cookie
    assert "batch" not in stranger.text
    for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
        headers = {**visit, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert admin.get("/dashboard/keys", **headers).status_code == 403


def test_every_reply_forbids_scripts_and_frames_of_others_and_is_not_kept(admin):
    decision = admin.decisions()[0]
    for path in (*PAGES, f"/dashboard/decisions/{decision}", "/dashboard/keys/web", "/dashboard/x"):
        reply = admin.get(path)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:", reply.text)
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", reply.text), "nothing from elsewhere"


def test_every_value_is_escaped(gateway, admin):
    _, decision = gateway.ask(f"{SCRIPT} \"'><img src=x>", "web")
    page = admin.get(f"/dashboard/decisions/{decision}").text
    assert SCRIPT in html.unescape(page)
    for text in (page, admin.get("/dashboard/frontier").text):
        assert SCRIPT not in text
        assert "<img src=x" not in text
    evil = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
    for path in (
        f"/dashboard/decisions?expert={evil}&key={evil}&min_usd={evil}",
        f"/dashboard/decisions?policy={evil}",
        f"/dashboard/frontier?policy={evil}",
        f"/dashboard/playground?a={evil}&b={evil}",
        f"/dashboard/signin?next={evil}",
        f"/dashboard/keys/{evil}",
        f"/?since={evil}",
    ):
        assert "<script>alert" not in admin.get(path).text, path
    made = admin.post("/dashboard/keys", name='"><script>alert(1)</script>')
    assert made.status_code == 400
    assert "<script>alert" not in made.text


# --- what pages do ------------------------------------------------------------------------------


def test_a_filter_is_in_the_address_and_pages_go_on_where_the_last_one_ended(gateway, admin):
    page = admin.get("/dashboard/decisions?policy=careful&key=web").text
    assert '<option value="careful" selected>' in page
    assert 0 < len(set(ID.findall(page))) < 9
    assert "No decision matches" in admin.get("/dashboard/decisions?min_usd=1000").text
    for path in ("?min_usd=cheap", "?min_usd=-1", "?min_seconds=nan", "?since=9d", "?before=x_y"):
        assert admin.get(f"/dashboard/decisions{path}").status_code == 400


def test_a_decision_tells_why_what_was_forecast_and_what_was_paid(gateway, admin):
    _, decision = gateway.ask("What is 3 + 4?", "web", "careful")
    page = admin.get(f"/dashboard/decisions/{decision}").text
    assert "What is 3 + 4?" in page
    assert 'aria-label="Path: abacus, then verify' in page
    assert page.count('<td data-label="kind" class="text">') >= 2


def test_who_asked_scores_a_decision_once(gateway, web, admin):
    _, decision = gateway.ask("What is 5 + 4?", "web")
    path = f"/dashboard/decisions/{decision}"
    assert 'value="good"' not in admin.get(path).text, "as the API: only the key that asked may"
    assert 'value="good"' in web.get(path).text
    assert web.post(f"{path}/score", score="good").status_code == 303
    page = web.get(path).text
    assert "100 %" in page
    assert 'value="good"' not in page
    assert web.post(f"{path}/score", score="bad").status_code == 409


def test_a_budget_and_a_key_are_made_as_the_admin_api_makes_them(gateway, admin):
    fields = {"name": "made.here", "month": "2.5", "rpm": "30", "experts": "abacus, sage"}
    assert "rw-" in admin.post("/dashboard/keys", **fields).text
    assert admin.post("/dashboard/keys/made.here/budget", day="0.5", month="").status_code == 303
    header = {"authorization": f"Bearer {dashboard.ADMIN}"}
    rows = httpx.get(f"{gateway.url}/admin/keys", headers=header).json()["data"]
    row = next(row for row in rows if row["name"] == "made.here")
    assert row["budget"] == {"day": 0.5, "month": None}
    assert (row["rpm"], row["experts"]) == (30, ["abacus", "sage"])
    for wrong in ({"name": "made.here"}, {"name": "a b"}, {"name": "c", "day": "much"}):
        reply = admin.post("/dashboard/keys", **wrong)
        assert reply.status_code in (400, 409)
        assert 'role="alert"' in reply.text


def test_limits_are_changed_as_the_admin_api_changes_them(gateway, admin):
    header = {"authorization": f"Bearer {dashboard.ADMIN}"}
    place = f"{gateway.url}/admin/keys/limited"
    admin.post("/dashboard/keys", name="limited", rpm="30", experts="abacus", day="2")

    def row():
        rows = httpx.get(f"{gateway.url}/admin/keys", headers=header).json()["data"]
        return next(row for row in rows if row["name"] == "limited")

    form = {"rpm": "", "tpm": "5000", "experts": "", "data_classes": "public"}
    assert admin.post("/dashboard/keys/limited/limits", **form).status_code == 303
    assert (row()["rpm"], row()["tpm"]) == (None, 5000)
    assert (row()["experts"], row()["data_classes"]) == (None, ["public"])
    assert row()["budget"] == {"day": 2.0, "month": None}, "what is not named stays"
    changed = httpx.patch(place, headers=header, json={"experts": ["sage"], "budget": None})
    assert changed.json() == row()
    assert (row()["experts"], row()["tpm"], row()["budget"]["day"]) == (["sage"], 5000, None)
    page = admin.get("/dashboard/keys/limited").text
    assert 'name="tpm" inputmode="numeric" placeholder="no limit" value="5000"' in page
    for body, status in (
        ({"rpm": 0}, 400),
        ({"name": "other"}, 400),
        ({"experts": ["nobody"]}, 422),
    ):
        assert httpx.patch(place, headers=header, json=body).status_code == status
    reply = admin.post("/dashboard/keys/limited/limits", experts="nobody")
    assert reply.status_code == 422
    assert "nobody" in reply.text
    httpx.delete(place, headers=header)
    assert httpx.patch(place, headers=header, json={"rpm": 5}).status_code == 409
    assert httpx.patch(f"{place}x", headers=header, json={"rpm": 5}).status_code == 404


def test_the_admin_api_sets_the_goal_of_a_policy_as_the_slider_does(gateway, admin):
    header = {"authorization": f"Bearer {dashboard.ADMIN}"}
    place, before = f"{gateway.url}/admin/policies/thrifty", gateway.config.read_text()

    def point() -> dict[str, float]:
        rows = httpx.get(f"{gateway.url}/admin/policies", headers=header).json()["data"]
        return next(row["operating_point"] for row in rows if row["name"] == "thrifty")

    dearer = point()["usd"]
    body = {"goal": "max_cost_fraction", "value": 0.3}
    reply = httpx.put(place, headers=header, json=body)
    assert reply.json() == {"object": "policy", "name": "thrifty", **body}
    assert gateway.config.read_text() == before.replace(
        "max_cost_fraction: 0.5", "max_cost_fraction: 0.3"
    )
    assert point()["usd"] < dearer
    written = gateway.config.read_text()
    for wrong, status in (
        ({"goal": "min_quality", "value": 7}, 409),  # out of reach
        ({"goal": "price", "value": 1}, 400),
        ({"goal": "max_cost", "value": -1}, 400),
    ):
        assert httpx.put(place, headers=header, json=wrong).status_code == status
        assert gateway.config.read_text() == written
    assert httpx.put(f"{place}x", headers=header, json=body).status_code == 404
    assert httpx.put(place, json=body).status_code == 401
    again = {"goal": "max_cost_fraction", "value": 0.5}
    assert httpx.put(place, headers=header, json=again).status_code == 200
    assert gateway.config.read_text() == before


def test_a_point_is_written_into_the_config_and_served(gateway, admin):
    page = admin.get("/dashboard/frontier?policy=thrifty&point=2").text
    goal = re.search(r"max_cost_fraction: [\d.e-]+", html.unescape(page))[0]
    before = gateway.config.read_text()
    reply = admin.post("/dashboard/frontier/write", policy="thrifty", point="2")
    assert reply.headers["location"].startswith("/dashboard/frontier?policy=thrifty")
    assert gateway.config.read_text() == before.replace("max_cost_fraction: 0.5", goal)
    assert (
        "the nearest point to what the policy serves" in admin.get(reply.headers["location"]).text
    )
    header = {"authorization": f"Bearer {dashboard.ADMIN}"}
    rows = httpx.get(f"{gateway.url}/admin/policies", headers=header).json()["data"]
    point = next(row for row in rows if row["name"] == "thrifty")["operating_point"]
    assert f"{1000 * point['usd']:.3g}" in page


def test_a_config_that_cannot_be_served_is_put_back(gateway, admin):
    before = gateway.config.read_text()
    broken = before.replace("version: 1", "version: 1\nunknown_key: 1")
    gateway.config.write_text(broken)
    try:
        reply = admin.post("/dashboard/frontier/write", policy="thrifty", point="4")
        assert reply.status_code == 409
        assert "unknown_key" in reply.text
        assert gateway.config.read_text() == broken
    finally:
        gateway.config.write_text(before)


def test_a_question_of_ones_own_is_explained_and_not_kept(admin):
    number = len(admin.decisions())
    fields = {"policy": "thrifty", "point": "0", "question": "What is 1 + 1? 4711"}
    page = admin.post("/dashboard/frontier/example", **fields).text
    assert "First:" in page
    assert "4711" not in page
    assert len(admin.decisions()) == number


def test_the_playground_asks_with_the_key_that_signed_in(gateway, web, admin):
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is 8 + 1?"}]}
    path = "/dashboard/playground/ask"
    headers = {**web.own, "x-csrf-token": web.token}
    assert web.http.post(path, json=body, headers=web.own).status_code == 403
    reply = web.http.post(path, json={**body, "stream": True}, headers=headers)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "data: [DONE]" in reply.text
    decision = reply.headers["x-routewright-decision-id"]
    assert decision in web.decisions()
    wrong = web.http.post(path, json={**body, "model": "none"}, headers=headers)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")


# --- other gateways -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory):
    """One without any key, and with a store that keeps no texts."""
    folder = tmp_path_factory.mktemp("open")
    text = dashboard.demo.CONFIG.replace("default_policy: thrifty\n", "")
    text += "server: {allowed_hosts: [routes.example]}\n"
    with dashboard.serving(dashboard.copied(folder, text)) as url:
        yield dashboard.Gateway(folder, url, {"nobody": "none"})


def test_a_gateway_without_keys_shows_itself_on_its_own_machine_alone(open_gateway):
    _, decision = open_gateway.ask("What is 2 + 5, secretly?", "nobody")
    here = Browser(open_gateway.url)
    for page in (*PAGES, f"/dashboard/decisions/{decision}"):
        reply = here.get(page)
        assert reply.status_code == 200
        assert "secretly" not in reply.text, "texts are not kept, so they are not shown"
    assert "are not kept" in reply.text
    for headers in (
        {"host": "routes.example"},
        {"x-forwarded-for": "10.0.0.1"},
        {"forwarded": "a"},
    ):
        assert here.get("/", **headers).status_code == 303
        assert "has no key yet" in here.get("/dashboard/signin", **headers).text
    assert here.get("/", host="evil.example").status_code == 421
    assert here.post("/dashboard/keys", name="first").status_code == 403


def test_without_a_store_every_page_says_what_to_do(tmp_path):
    text = dashboard.demo.CONFIG + "server: {store: none}\n"
    with dashboard.serving(dashboard.copied(tmp_path, text)) as url:
        browser = Browser(url)
        for page in PAGES:
            assert browser.get(page).status_code == 200
        assert "server:\n  store: sqlite" in browser.get("/dashboard/decisions").text


def test_without_a_store_sessions_are_in_memory(tmp_path):
    text = dashboard.demo.CONFIG + "server: {store: none, admin_key: secret, api_keys: [client]}\n"
    with dashboard.serving(dashboard.copied(tmp_path, text)) as url:
        admin = Browser(url, "secret")
        assert "may change things" in admin.get("/").text
        assert "its own requests" in Browser(url, "client").get("/").text
        admin.post("/dashboard/signout")
        assert admin.get("/").status_code == 303


def test_the_dashboard_can_be_turned_off(tmp_path):
    text = dashboard.demo.CONFIG + "server: {dashboard: false}\n"
    with dashboard.serving(dashboard.copied(tmp_path, text)) as url:
        for page in (*PAGES, "/dashboard/signin", "/dashboard/static/dashboard.css"):
            assert httpx.get(url + page).status_code == 404


def test_a_gateway_imports_the_dashboard_only_when_somebody_looks():
    code = (
        "import sys, routewright.gateway.app; print([m for m in ('jinja2', 'markupsafe',"
        " 'routewright.gateway.dashboard.site') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "policies:\n  a:  # mine\n    strategy: auto\n    max_cost: 1  # $\n    router: r\n",
            "policies:\n  a:  # mine\n    strategy: auto\n    max_cost: 0.5  # $\n    router: r\n",
        ),
        (
            "policies:\n  a:\n    strategy: auto\n    router: r\n",
            "policies:\n  a:\n    strategy: auto\n    max_cost: 0.5\n    router: r\n",
        ),
        (
            "policies: {b: {price: 0}, a: {strategy: auto, min_quality: 0.9}}",
            "policies: {b: {price: 0}, a: {strategy: auto, max_cost: 0.5}}",
        ),
        ("policies: {a: {strategy: auto}}", "policies: {a: {strategy: auto, max_cost: 0.5}}"),
    ],
)
def test_only_the_goal_of_a_policy_changes(text, expected):
    assert with_goal(text, "a", "max_cost", 0.5) == expected


@pytest.mark.parametrize(
    "text",
    [
        "policies: {b: &b {strategy: auto}, a: *b}",
        "policies: {b: &b {x: 1}, a: {<<: *b, price: 0}}",
    ],
)
def test_a_policy_that_shares_its_lines_is_left_to_its_owner(text):
    with pytest.raises(BadInput, match="edit the file"):
        with_goal(text, "a", "max_cost", 0.5)
