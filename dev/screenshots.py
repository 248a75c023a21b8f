"""Makes the pictures of the dashboard in docs/pictures, from a gateway with the demo's models.

`python dev/screenshots.py [FOLDER]` asks some questions first, so that there is something to see.
Costs are real, and tiny, because the models are. `--all` also takes every page at both widths in
both themes, for those who change the looks; name a FOLDER of your own then.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

import dashboard  # noqa: E402  # of tests/

HOURS = 23
WIDE, PHONE = (1280, 800), (390, 844)
QUESTION = "Which month comes 5 months after August?"
PAGES = {
    "today": "/",
    "frontier": "/dashboard/frontier?policy=thrifty&point=9",
    "decisions": "/dashboard/decisions",
    "decision": "/dashboard/decisions?policy=careful",
    "experts": "/dashboard/experts?since=24h",
    "keys": "/dashboard/keys",
    "key": "/dashboard/keys/web",
    "playground": "/dashboard/playground?a=auto&b=careful",
}
PICTURES = (  # name, page, size of the window, theme
    ("dashboard-today", "today", (1280, 1120), "light"),
    ("dashboard-frontier", "frontier", (1280, 860), "light"),
    ("dashboard-decision", "decision", (1280, 780), "dark"),
    ("dashboard-playground", "playground", (1280, 720), "light"),
    ("dashboard-phone", "frontier", PHONE, "dark"),
)


def main(arguments: list[str]) -> None:
    folders = [argument for argument in arguments if not argument.startswith("--")]
    folder = Path(folders[0]) if folders else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = PICTURES if "--all" not in arguments else tuple(everything())
    with tempfile.TemporaryDirectory() as path, dashboard.running(Path(path) / "demo") as gateway:
        gateway.traffic(120)
        gateway.spread(HOURS * 3600)
        with chromium() as browser:
            for name, page, size, theme in pictures:
                take(browser, gateway, folder / f"{name}.png", PAGES[page], size, theme)
                print(folder / f"{name}.png")


def everything() -> Iterator[tuple[str, str, tuple[int, int], str]]:
    for page in PAGES:
        for width, size in (("wide", WIDE), ("phone", PHONE)):
            for theme in ("light", "dark"):
                yield f"{page}-{width}-{theme}", page, size, theme


@contextmanager
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def take(
    browser: Browser,
    gateway: Any,
    file: Path,
    path: str,
    size: tuple[int, int],
    theme: Any,
) -> None:
    """Takes one picture: what the window shows, or (with `--all`) the whole page."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,
        timezone_id="Europe/Zurich",
        locale="en-GB",
    )
    page = context.new_page()
    page.goto(gateway.url)
    page.get_by_label("Key").fill(dashboard.ADMIN)
    page.get_by_role("button", name="Sign in").click()
    page.goto(gateway.url + path)
    prepare(page, path)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=file, full_page=not file.stem.startswith("dashboard-"))
    context.close()


def prepare(page: Page, path: str) -> None:
    """What a reader would do on the page."""
    if path == PAGES["decision"]:
        page.locator("tr", has_text="→ sage").first.get_by_role("link").click()
    if path == PAGES["playground"]:
        page.get_by_label("Your question").fill(QUESTION)
        page.keyboard.press("Enter")
        page.locator(".reply .steps").nth(1).wait_for(timeout=120_000)
        page.get_by_label("Your question").blur()


if __name__ == "__main__":
    main(sys.argv[1:])
