"""A real browser: headless Chromium through Playwright, or a skip that says what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.system.conftest import mosquitto, source_id, start, story  # noqa: F401 - fixtures

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra [browser] is not installed"
)
pytest.importorskip("starlette", reason="the extra [monitor] is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """One browser for the tests of a file.

    Not longer: Playwright runs an event loop on the main thread until it is stopped, and no other
    test that needs one could run there.
    """
    with playwright.sync_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        found = next(filter(None, map(shutil.which, NAMES)), str(own) if own.exists() else None)
        if found is None:
            pytest.skip("Chromium is not installed: apt-get install chromium")
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
        arguments = ["--no-sandbox"] if is_root else []
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a page in a window of its own; it must not complain on the console."""
    contexts, complaints = [], []

    def open_(url, *, width=1600, height=1000, scheme="light", phone=False):
        more = {"device_scale_factor": 2, "is_mobile": True, "has_touch": True} if phone else {}
        size = {"width": 390, "height": 844} if phone else {"width": width, "height": height}
        context = chromium.new_context(viewport=size, color_scheme=scheme, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else 0)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [each for each in complaints if "WebSocket connection" not in each] == []


@pytest.fixture
def shot():
    """Keep a picture of a page where ``MONITOR_SCREENSHOTS`` names a folder."""

    def keep(page, name, *, after_s=0.0):
        folder = os.environ.get("MONITOR_SCREENSHOTS")
        if folder:
            page.wait_for_timeout(1000 * after_s)
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{name}.png")

    return keep
