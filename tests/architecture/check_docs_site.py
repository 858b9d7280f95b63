"""The documentation site loads nothing from a foreign host. `make docs` builds the site and runs this; no other command does."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "site"
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Loads(HTMLParser):
    """Collects the addresses that a page loads by itself; links that a reader may follow are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)


def test_no_page_loads_anything_from_a_foreign_host() -> None:
    pages = sorted(SITE.rglob("*.html"))
    assert len(pages) > 20
    foreign = []
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        foreign += [f"{page.name}: {address}" for address in loads.addresses if "//" in address]
    assert foreign == []


@pytest.mark.parametrize(
    ("page", "words"),
    [("http-api.html", "/search/image"), ("python-api.html", "SearchService"), ("settings.html", "GAVEL_HOME")],
)
def test_the_reference_is_generated(page: str, words: str) -> None:
    assert words in (SITE / page).read_text(encoding="utf-8")
