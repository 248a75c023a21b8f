"""A real Chromium for tests, and what axe finds in its pages. `make browser` installs both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: `make browser` does so"
)
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe is not installed: `make browser` does so"
)
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
GUARD = 120_000  # milliseconds; a page takes a fraction of a second
VIEWS = [(1280, "light"), (390, "dark"), (390, "light"), (1280, "dark")]  # width in px, theme


def require() -> None:
    """Skips a test where there is no browser, and says why."""
    if PROGRAM is None:
        pytest.skip("there is no Chromium: `make browser` installs Debian's")


@contextmanager
def running() -> Iterator:
    """A started browser. While it runs, its thread has an event loop: start everything else that
    needs one before."""
    require()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


def barriers(page) -> list[tuple[str, list[str]]]:
    """What axe calls serious or critical for readers with a disability, with its elements."""
    return [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]])
        for violation in axe.Axe().run(page).response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
