"""The description of the API in a browser: drawn whole, and from this server alone."""

from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect


def test_the_description_of_the_api_is_drawn_and_nothing_is_asked_of_anybody_else(page: Page, server) -> None:
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda answer: failed.append(answer.url) if not answer.ok else None)
    page.goto("/docs")
    searches = page.locator(".operation", has_text="Search by query string").first
    searches.locator("summary").click()
    for words in ("most_per_brand", "maximum 100", "429 Too Many Requests", "too_many_requests"):
        expect(searches).to_contain_text(words)
    by_body = page.locator(".operation", has_text="Search by JSON body").first
    by_body.locator("summary").click()
    expect(by_body).to_contain_text("luxury vintage watches")
    paths = page.request.get("/openapi.json").json()["paths"]
    described = page.locator(".operation .method").all_inner_texts()
    assert sorted(described) == sorted(method.upper() for methods in paths.values() for method in methods)
    own = urlsplit(server.url).netloc
    assert {urlsplit(url).netloc for url in asked} == {own}
    assert failed == []


def test_redoc_leads_to_it(page: Page) -> None:
    page.goto("/redoc")
    expect(page.get_by_role("heading", level=1)).to_have_text("Gavel: the API")
    assert urlsplit(page.url).path == "/docs"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_it(scheme, page: Page) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/docs")
    page.locator(".operation summary").first.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
