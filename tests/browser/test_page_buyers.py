"""What the page shows of its buyer: popular and new lots at first, then those like what was opened, until it shall be forgotten."""

import json
from urllib.request import urlopen

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_visits import DESKTOP, PHONE, cards, visit
from playwright.sync_api import Page, expect

TITLE = "#offers-title"


def offers(page: Page):
    """The lots that the start page offers."""
    return page.locator("#offers .grid:not(.loading) .card")


def number(page: Page) -> str:
    """Under which the tab's events are told."""
    return page.evaluate("sessionStorage.getItem('gavel-session')")


def kept(server, buyer_id: str) -> list[str]:
    """Item ids of a buyer's history, the latest first."""
    with urlopen(f"{server.url}buyers/{buyer_id}") as answer:
        return [act["item_id"] for act in json.load(answer)["acts"]]


def until_kept(page: Page, server, item_id: str) -> None:
    """Wait until a lot is the latest of the page's buyer; what the page told may still be on its way."""
    for _ in range(100):
        if kept(server, number(page))[:1] == [item_id]:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{item_id} did not come into the history")


def look_at(page: Page, server, query: str) -> str:
    """Open the first lot that a search finds, and close it again; its item_id."""
    visit(page, f"?q={query.replace(' ', '+')}")
    item_id = cards(page).first.get_attribute("data-item-id")
    cards(page).first.locator(".open").click()
    expect(page.locator("#lot")).to_be_visible()
    until_kept(page, server, item_id)
    page.keyboard.press("Escape")
    expect(page.locator("#lot")).to_be_hidden()
    return item_id


def go_home(page: Page) -> None:
    page.locator("#home").click()
    expect(offers(page).first).to_be_visible()


def test_a_new_buyer_sees_popular_and_new_lots_and_is_told_so(page):
    visit(page)
    expect(page.locator(TITLE)).to_have_text("Popular and new lots")
    expect(page.locator("#offers")).to_contain_text("You have not opened a lot yet")
    expect(offers(page)).to_have_count(12)
    expect(offers(page).first).to_contain_text("6 bids")
    expect(page.locator("#forget")).to_have_count(0)


def test_what_was_opened_brings_lots_like_it_and_the_next_search_knows_its_buyer(page, server):
    visit(page)
    looked_at = [look_at(page, server, "red watch"), look_at(page, server, "blue watch")]
    assert kept(server, number(page)) == looked_at[::-1]
    go_home(page)
    expect(page.locator(TITLE)).to_have_text("Because of what you looked at")
    seen = page.get_by_role("list", name="Lots that you looked at last").locator("li")
    assert [one.get_attribute("data-seen") for one in seen.all()] == looked_at[::-1]
    assert all("watch" in title for title in offers(page).locator(".title").all_inner_texts()[:4])
    assert not set(looked_at) & {one.get_attribute("data-item-id") for one in offers(page).all()}
    with page.expect_request(lambda asked: "/search?" in asked.url) as asked:
        page.get_by_role("button", name="vase").first.click()
    assert f"buyer_id={number(page)}" in asked.value.url


def test_the_lots_that_were_looked_at_stand_before_the_categories_when_there_are_any(page, server):
    visit(page)
    expect(offers(page).first).to_be_visible()
    assert page.locator(".tiles").bounding_box()["y"] < page.locator("#offers").bounding_box()["y"]
    look_at(page, server, "red watch")
    go_home(page)
    assert page.locator(".tiles").bounding_box()["y"] > page.locator("#offers").bounding_box()["y"]


@pytest.mark.parametrize("of", [".seen a", "#offers .card .open"])
def test_an_offered_lot_opens_from_the_keyboard_and_closes_where_it_was(of, page, server):
    visit(page)
    look_at(page, server, "red watch")
    go_home(page)
    link = page.locator(of).first
    title = link.inner_text()
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#lot-title")).to_have_text(title)
    page.keyboard.press("Escape")
    expect(page.locator("#lot")).to_be_hidden()
    expect(link).to_be_focused()
    page.go_back()
    expect(page.locator("#lot-title")).to_have_text(title)


def test_a_link_to_an_offered_lot_opens_it(page):
    visit(page)
    address = offers(page).first.locator(".open").get_attribute("href")
    title = offers(page).first.locator(".open").inner_text()
    visit(page, address)
    expect(page.locator("#lot-title")).to_have_text(title)


def test_a_forgotten_buyer_is_a_new_one_under_another_number(page, server):
    visit(page)
    look_at(page, server, "red watch")
    go_home(page)
    before = number(page)
    page.locator("#forget").focus()
    page.keyboard.press("Enter")
    expect(page.locator(TITLE)).to_have_text("Popular and new lots")
    expect(page.locator(TITLE)).to_be_focused()
    expect(page.locator("#status")).to_have_text("What you looked at is forgotten")
    assert kept(server, before) == []
    assert number(page) not in (None, before)
    look_at(page, server, "blue vase")
    assert len(kept(server, number(page))) == 1


def test_the_footer_forgets_too_and_the_list_on_the_page_is_told_under_the_new_number(page, server):
    visit(page)
    look_at(page, server, "red watch")
    before = number(page)
    page.get_by_role("contentinfo").get_by_role("button", name="Forget me").click()
    expect(page.locator("#status")).to_have_text("What you looked at is forgotten")
    second = cards(page).nth(1)
    second.locator(".open").click()
    until_kept(page, server, second.get_attribute("data-item-id"))
    assert number(page) != before
    assert kept(server, before) == []


def test_who_cannot_be_forgotten_now_is_told_and_may_try_again(page, server):
    visit(page)
    look_at(page, server, "red watch")
    before = number(page)
    problem = {"type": "feedback_unavailable", "title": "Service Unavailable", "status": 503, "detail": "the store is away"}
    page.route("**/buyers/*", lambda route: route.fulfill(status=503, json=problem, content_type="application/problem+json"))
    page.get_by_role("contentinfo").get_by_role("button", name="Forget me").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was forgotten yet")
    assert number(page) == before
    page.unroute("**/buyers/*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#status")).to_have_text("What you looked at is forgotten")


def test_an_api_without_buyers_offers_nothing_of_the_kind(page):
    def older(route):
        described = route.fetch().json()
        del described["paths"]["/buyers/{buyer_id}"]
        route.fulfill(json=described)

    page.route("**/openapi.json", older)
    visit(page)
    expect(page.locator(".start h1")).to_be_visible()
    expect(page.locator("#offers")).to_have_count(0)
    expect(page.get_by_role("button", name="Forget me")).to_have_count(0)
    with page.expect_request(lambda asked: "/search?" in asked.url) as asked:
        visit(page, "?q=vase")
    assert "buyer_id" not in asked.value.url


def test_a_store_that_is_away_leaves_popular_lots_and_says_so(page):
    def away(route):
        route.fulfill(json={**route.fetch().json(), "source": "popular_and_fresh", "degraded": ["buyer"]})

    page.route("**/retrieve?*", away)
    visit(page)
    expect(page.locator("#offers")).to_contain_text("cannot be reached right now")
    expect(offers(page).first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_the_history_can_be_read_by_everybody(direction, size, scheme, page, server):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(size)
    page.route("**/config.json", lambda route: route.fulfill(json={**route.fetch().json(), "direction": direction}))
    visit(page)
    look_at(page, server, "red watch")
    go_home(page)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
