"""The dashboard in a real Chromium, as its readers use it. `make browser` installs one."""

from __future__ import annotations

import re

import httpx
import pytest

import chromium
import dashboard

GUARD = chromium.GUARD
expect = chromium.playwright.expect
PAGES = (
    "/",
    "/dashboard/frontier",
    "/dashboard/decisions",
    "/dashboard/decisions/ID",
    "/dashboard/experts",
    "/dashboard/keys",
    "/dashboard/keys/web",
    "/dashboard/playground?a=auto&b=best",
    "/dashboard/signin",
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    chromium.require()
    with dashboard.running(tmp_path_factory.mktemp("browser")) as running:
        running.traffic(6)
        yield running


@pytest.fixture(scope="module")
def browser(gateway):
    with chromium.running() as started:
        yield started


@pytest.fixture
def visit(browser, gateway):
    """Opens a window, signed in as administrator; at its end, nothing may have gone wrong in it."""
    contexts, problems = [], []

    def open_window(key=dashboard.ADMIN, **settings):
        settings = {"timezone_id": "Asia/Tokyo", "locale": "en-GB", **settings}
        context = browser.new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(GUARD)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "requestfailed", lambda r: r.failure != "net::ERR_ABORTED" and problems.append(r.url)
        )
        page.goto(gateway.url)
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Today")).to_be_visible()
        return page

    expect.set_options(timeout=GUARD)
    yield open_window
    for context in contexts:
        context.close()
    refusal = "status of 422"  # that a test provokes
    assert [text for text in problems if refusal not in text] == []


@pytest.mark.parametrize(("width", "theme"), chromium.VIEWS)
def test_every_page_fits_and_is_accessible(visit, gateway, width, theme):
    page = visit(viewport={"width": width, "height": 800}, color_scheme=theme)
    decision = httpx.get(
        f"{gateway.url}/admin/decisions",
        headers={"authorization": f"Bearer {dashboard.ADMIN}"},
    ).json()["data"][0]["id"]
    for path in PAGES:
        page.goto(gateway.url + path.replace("ID", decision))
        if path.endswith("keys"):
            page.get_by_text("More limits").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert chromium.barriers(page) == [], path


def test_a_streamed_answer_arrives_from_two_policies(visit, gateway):
    page = visit()
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("two policies side by side").check()
    assert "b=" in page.url, "the choice can be shared"
    with page.expect_response("**/playground/ask") as asked:
        page.get_by_label("Your question").fill("What is 2 + 2? <img src=x onerror=alert(1)>")
        page.keyboard.press("Enter")
    assert asked.value.headers["content-type"].startswith("text/event-stream")
    replies = page.locator("article.reply")
    expect(replies.locator(".steps")).to_have_count(2)
    assert page.locator("article img").count() == 0
    for reply in replies.all():
        expect(reply.locator("p").first).not_to_be_empty()
        expect(reply.locator(".foot").first).to_contain_text("US$")
    replies.first.get_by_role("link", name="why").click()
    expect(page.get_by_role("heading", name="What was forecast")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    page.get_by_text("Limits of each request").click()
    page.get_by_label("Cost at most, US$").fill("0.000000001")
    page.get_by_label("Your question").fill("What is 2 + 3?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".log .problem").first).to_contain_text("no expert may answer")


def test_the_slider_previews_a_point_and_one_click_serves_it(visit, gateway):
    page = visit()
    page.get_by_role("link", name="Frontier").click()
    page.wait_for_url("**/frontier")  # and until its scripts have run
    slider = page.get_by_role("slider")
    before, place = slider.get_attribute("aria-valuetext"), int(slider.input_value())
    expect(page.locator("#point")).to_contain_text("the same")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile(f"point={place - 3}$"))
    expect(slider).not_to_have_attribute("aria-valuetext", before)
    expect(page.locator("#point")).to_contain_text("points of quality")
    goal = page.locator("#yaml").inner_text().split()[-1]
    page.reload()
    assert int(page.get_by_role("slider").input_value()) == place - 3
    page.get_by_label("Whom would this point ask?").fill("What is 3 * 3?")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#example")).to_contain_text("First:")
    page.get_by_role("button", name="Write to routewright.yaml").click()
    expect(page.get_by_role("status")).to_contain_text("in force")
    assert f"max_cost_fraction: {goal}\n" in gateway.config.read_text()


def test_a_key_is_made_rotated_and_revoked(visit, gateway):
    def status(secret):
        headers = {"authorization": f"Bearer {secret}"}
        return httpx.get(f"{gateway.url}/v1/models", headers=headers).status_code

    page = visit()
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name").fill("phone")
    page.get_by_role("button", name="Make the key").click()
    first = page.locator("#secret").inner_text()
    page.get_by_role("link", name="To the key").click()
    page.get_by_role("button", name="Rotate").click()
    second = page.locator("#secret").inner_text()
    assert (status(first), status(second)) == (401, 200)
    page.get_by_role("link", name="To the key").click()
    page.get_by_text("Make this key invalid").click()
    page.get_by_label("Write its name").fill("phone")
    page.get_by_role("button", name="Revoke phone").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("revoked")
    assert status(second) == 401


def test_the_theme_is_the_systems_until_its_reader_chooses(visit):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = visit(color_scheme="dark")
    dark = background()
    button = page.get_by_role("button", name="Theme")
    button.click()
    light = background()
    assert light != dark
    page.reload()
    assert background() == light
    button.click()
    assert background() == dark


def test_a_filtered_list_is_a_link_that_others_open_and_back_works(visit, gateway):
    page = visit()
    page.get_by_role("link", name="Decisions").click()
    page.get_by_label("Policy").select_option("careful")
    page.get_by_role("button", name="Filter").click()
    address = page.url
    assert "policy=careful" in address
    row = page.locator("tbody tr").first
    expect(row).to_contain_text("careful")
    expect(row.locator("time")).not_to_contain_text("UTC")  # but in Tokyo's time
    row.get_by_role("link").click()
    page.go_back()
    assert page.url == address
    page.set_content(f'<a href="{address}">a link on another site</a>')
    page.get_by_role("link").click()  # for which browsers keep the cookie back at first
    expect(page.get_by_label("Policy")).to_have_value("careful")


def test_it_works_with_the_keyboard_alone(visit):
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(4):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Decisions")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Decisions")).to_be_visible()
    current = page.get_by_role("navigation", name="Pages").locator("[aria-current=page]")
    expect(current).to_have_text("Decisions")


def test_a_key_reads_its_own_requests(visit, gateway):
    page = visit(key=gateway.keys["batch"])
    expect(page.locator("footer")).to_contain_text("read-only: its own requests")
    page.get_by_role("link", name="Frontier").click()
    expect(page.get_by_role("button", name="Write")).to_have_count(0)
    expect(page.locator("#yaml")).to_contain_text("max_cost_fraction")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
