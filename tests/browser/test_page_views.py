"""Every view of the page for every reader: small screens, right to left, light and dark, axe."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_visits import DESKTOP, PAGES, PHONE, box_of, visit
from playwright.sync_api import Page, expect
from small_shop import ARABIC


def sideways(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_sideways_scrolling(name, page):
    page.set_viewport_size(PHONE)
    visit(page, PAGES[name])
    assert sideways(page) == 0
    assert box_of(page).bounding_box()["width"] > 120


def test_a_query_from_right_to_left_reads_so(page):
    visit(page)
    box_of(page).fill(ARABIC)
    page.keyboard.press("Enter")
    title = page.locator("[data-item-id=arabic] .open")
    expect(title).to_have_text(ARABIC)
    directions = page.evaluate(
        "title => [document.querySelector('#q'), title].map(e => getComputedStyle(e).direction)", title.element_handle()
    )
    assert directions == ["rtl", "rtl"]


def test_an_arabic_lot_is_found_in_another_spelling_and_stands_from_right_to_left_as_arabic(page):
    page.set_viewport_size(DESKTOP)
    visit(page, "?q=%D8%B3%D9%80%D8%A7%D8%B9%D9%87&mode=keyword&lot=arabic")  # with a tatweel, and heh for teh marbuta
    heading, close = page.locator("#lot-title > span"), page.get_by_role("dialog").get_by_role("button", name="Close")
    expect(heading).to_have_text(ARABIC)
    expect(heading).to_have_attribute("lang", "ar")
    box = heading.bounding_box()
    assert box["x"] + box["width"] <= close.bounding_box()["x"]
    shown = page.locator("[data-item-id=arabic] .title .open")
    assert shown.get_attribute("lang") == "ar"
    assert shown.evaluate("e => getComputedStyle(e).direction") == "rtl"
    # the words end at the right edge of their line, where a reader of Arabic begins
    edges = shown.evaluate(
        "e => { const r = document.createRange(); r.selectNodeContents(e);"
        " return [e.getBoundingClientRect().right, r.getBoundingClientRect().right]; }"
    )
    assert edges[0] - edges[1] < 2
    visit(page, "?q=red+vase")
    assert page.locator(".card .open").first.get_attribute("lang") is None


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_whole_page_can_run_from_right_to_left(size, page):
    page.set_viewport_size(size)
    page.route("**/config.json", lambda route: route.fulfill(json={**route.fetch().json(), "direction": "rtl"}))
    visit(page, "?q=red+vase")
    assert sideways(page) == 0
    brand, box = page.locator("#home").bounding_box(), box_of(page).bounding_box()
    assert brand["x"] > box["x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(name, scheme, page):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    visit(page, PAGES[name])
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_a_lot_shows_its_attributes_as_text_and_each_photo_that_can_be_shown(page):
    found = page.request.get("/search?q=vase&k=50").json()["results"]
    item_id = next(one["item_id"] for one in found if "more_images" in one["fields"])
    visit(page, f"?q=vase&lot={item_id}")
    lot = page.get_by_role("dialog")
    expect(lot.locator(".attributes dt")).to_have_text("Frame material")
    expect(lot.locator(".attributes dd")).to_have_text("oak, <img src=x onerror=window.hacked=1>")
    expect(lot.locator(".strip li")).to_have_count(2)  # of four photos, one is missing and one must not be shown
    lot.get_by_role("button", name="Photo 4").click()
    expect(lot.locator(".photos > .photo img")).to_have_attribute("src", re.compile(r"number=3$"))
    assert page.evaluate("window.hacked") is None
    assert Axe().run(page).violations_count == 0
