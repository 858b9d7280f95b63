"""A browser, and a shop that is served to it."""

import os
import shutil
from collections.abc import Iterator

import pytest
from page_visits import DESKTOP
from playwright.sync_api import Browser, Page, sync_playwright
from small_shop import Server, make_shop, new_server


@pytest.fixture(scope="module")
def chromium() -> str:
    """Path of Debian's browser; without it the tests are skipped with the remedy, except in CI."""
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            raise AssertionError("chromium is missing: apt-get install chromium")
        pytest.skip("no chromium on this machine: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory, chromium) -> Iterator[Server]:
    running = new_server(make_shop(tmp_path_factory.mktemp("shop")))
    yield running.start()
    running.stop()


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    """A page of its own on a desktop; no script of it may fail, nor break the content security policy."""
    context = browser.new_context(viewport=DESKTOP, base_url=server.url, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(10_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
    yield page
    context.close()
    assert faults == []
