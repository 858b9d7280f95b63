"""What the browser tests say of a page."""

from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, expect

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}
PAGES = {
    "start": "",
    "results": "?q=red+vase",
    "explain": "?q=red+vase&explain=1&category=vase&max_price=300",
    "compare": "?q=red+vase&compare=keyword",
    "lot": "?q=sextant&mode=keyword&lot=soon",
    "misspelt": "?q=red+vaes",
    "empty": "?q=zeppelin&mode=keyword&brand=Okada",
    "problem": f"?q={'x' * 600}",
}


def visit(page: Page, address: str = "") -> Page:
    """Go to an address of the page and wait until it shows something."""
    page.goto(f"/{address}")
    expect(page.locator("#view:not([aria-busy]) > *").first).to_be_visible()
    return page


def cards(page: Page) -> Locator:
    """The lots of the answer; those that the start page offers are none."""
    return page.locator("#view > .grid:not(.loading) .card")


def box_of(page: Page) -> Locator:
    """The search box."""
    return page.get_by_role("combobox", name="What are you looking for?")


def address(page: Page) -> dict[str, str]:
    """The state that the page's address holds."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
