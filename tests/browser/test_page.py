"""The search page in a real browser, over a real `gavel serve` and a real index."""

import re
from urllib.parse import parse_qs, urlsplit

from axe_playwright_python.sync_playwright import Axe
from page_visits import PAGES, address, box_of, cards, visit
from playwright.sync_api import Route, expect
from small_shop import HOSTILE, new_server


def test_a_search_shows_lots_with_photo_price_bids_and_time_to_the_end(page):
    visit(page)
    box_of(page).fill("red vase")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("red vase")
    lot = cards(page).filter(has_text="Red vase").first
    expect(lot.locator(".price")).to_contain_text("€")
    expect(lot.locator(".bidding")).to_contain_text(re.compile("bid"))
    expect(lot.locator("time")).to_contain_text(re.compile(r"\d+ d \d+ h left"))
    lot.scroll_into_view_if_needed()
    expect(lot.locator("img")).not_to_have_js_property("naturalWidth", 0)
    assert address(page) == {"q": "red vase"}
    assert page.title() == "red vase · Gavel"


def test_the_start_page_leads_into_the_categories(page):
    visit(page)
    page.get_by_role("button", name=re.compile("^watch")).click()
    expect(cards(page).first).to_contain_text("watch")
    assert address(page) == {"q": "watch", "category": "watch"}


def test_filters_narrow_the_answer_and_the_back_button_widens_it_again(page):
    visit(page, "?q=red+vase")
    page.get_by_role("group", name="Category").get_by_text("lamp").click()
    expect(page.get_by_role("list", name="Filters that are set")).to_contain_text("lamp")
    assert {text.split(" · ")[1] for text in cards(page).locator(".origin").all_inner_texts()} == {"lamp"}
    page.get_by_label("Highest price").fill("100")
    page.get_by_label("Highest price").press("Enter")
    expect(page.get_by_role("button", name="Without up to €100.00")).to_be_visible()
    prices = [float(text.removeprefix("€")) for text in cards(page).locator(".price").all_inner_texts()]
    assert prices
    assert max(prices) <= 100
    page.get_by_role("radio", name="4 and up").check()
    expect(page.locator(".filters .badge")).to_have_text("3")
    assert address(page) == {"q": "red vase", "category": "lamp", "max_price": "100", "min_seller_rating": "4"}
    page.go_back()
    page.go_back()
    expect(page.locator(".filters .badge")).to_have_text("1")
    page.get_by_role("button", name="Without lamp").click()
    expect(page.get_by_role("list", name="Filters that are set")).to_have_count(0)


def test_prices_typed_the_wrong_way_round_are_turned(page):
    visit(page, "?q=vase&min_price=90")
    page.get_by_label("Highest price").fill("20")
    page.get_by_label("Highest price").press("Tab")
    page.wait_for_url(re.compile("min_price=20&max_price=90"))
    expect(cards(page).first).to_be_visible()


def test_everything_can_be_done_from_the_keyboard(page):
    visit(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the lots")).to_be_focused()
    page.keyboard.press("/")
    box = box_of(page)
    expect(box).to_be_focused()
    page.keyboard.type("oka")
    expect(box).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(box).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    option = page.get_by_role("option", name="Okada")
    expect(option).to_have_attribute("aria-selected", "true")
    assert box.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Enter")
    expect(cards(page).first).to_be_visible()
    assert address(page) == {"q": "Okada"}
    first = cards(page).first.get_by_role("link")
    first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert "lot" in address(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(first).to_be_focused()
    expect(page).not_to_have_url(re.compile("lot="))  # which follows a moment later


def test_suggestions_come_from_what_the_shop_has(page):
    visit(page)
    box = box_of(page)
    box.press_sequentially("red v")
    page.get_by_role("option", name="red vase", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("red vase")
    box.fill("wat")
    expect(page.get_by_role("option").first).to_have_text("watchcategory")
    box.fill("nothing like it")
    expect(page.get_by_role("listbox")).to_be_hidden()


def test_the_switch_asks_another_way_and_compare_shows_two_side_by_side(page):
    visit(page, "?q=red+vase")
    page.get_by_role("radio", name="Keyword").check()
    page.wait_for_url(re.compile("mode=keyword"))
    expect(cards(page).first).to_contain_text("vase")
    page.get_by_label("Compare with").select_option("semantic")
    expect(page.locator(".column")).to_have_count(2)
    expect(page.get_by_role("region", name="Keyword").locator(".card").first).to_contain_text("#1")
    assert address(page) == {"q": "red vase", "mode": "keyword", "compare": "semantic"}
    page.get_by_label("Compare with").select_option("")
    expect(page.locator(".column")).to_have_count(0)


def test_more_lots_come_page_by_page_until_there_are_no_more(page):
    asked: list[dict[str, list[str]]] = []
    page.on("request", lambda request: "/search?" in request.url and asked.append(parse_qs(urlsplit(request.url).query)))
    visit(page, "?q=vase&mode=semantic")
    expect(cards(page)).to_have_count(24)
    page.get_by_role("button", name="Show more lots").click()
    expect(cards(page)).to_have_count(48)
    assert [(one["k"], one.get("offset")) for one in asked] == [(["24"], None), (["24"], ["24"])]
    assert cards(page).evaluate_all("all => all.map((one) => Number(one.dataset.rank))") == list(range(1, 49))
    page.go_back()
    expect(cards(page)).to_have_count(24)
    page.go_forward()
    expect(cards(page)).to_have_count(48)
    page.get_by_role("button", name="Show more lots").click()
    expect(cards(page)).to_have_count(68)
    expect(page.get_by_role("button", name="Show more lots")).to_have_count(0)


def test_a_link_to_many_lots_shows_as_many(page):
    visit(page, "?q=vase&mode=semantic&k=60")
    expect(cards(page)).to_have_count(60)


def test_a_misspelt_search_offers_what_was_meant_as_a_link_that_keeps_the_filters(page):
    visit(page, "?q=red+vaes&category=vase")
    meant = page.get_by_role("link", name="red vase", exact=True)
    expect(page.locator(".meant")).to_have_text("Did you mean red vase?")
    meant.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("red vase")
    assert address(page) == {"q": "red vase", "category": "vase"}
    expect(page.locator(".meant")).to_have_count(0)
    visit(page, "?q=sextnat&mode=keyword")
    expect(page.get_by_role("heading", name="No lot matches")).to_be_visible()
    page.get_by_role("link", name="sextant").click()
    expect(cards(page).first).to_contain_text("Brass sextant")


def test_varied_lots_are_less_alike(page):
    visit(page, "?q=red+vase&mode=semantic")
    plain = cards(page).evaluate_all("all => all.map((one) => one.dataset.itemId)")
    page.get_by_role("button", name="Varied").click()
    expect(page.get_by_role("button", name="Varied")).to_have_attribute("aria-pressed", "true")
    page.wait_for_url(re.compile("varied=1"))
    expect(cards(page).first).to_have_attribute("data-item-id", plain[0])
    assert cards(page).evaluate_all("all => all.map((one) => one.dataset.itemId)") != plain


def test_the_explain_panel_tells_how_the_answer_came_about(page):
    visit(page, "?q=red+red+vase")  # which no other test asks: an answer from the cache has no stages
    expect(page.locator(".bar")).to_have_attribute("aria-label", re.compile("Retrieve .* ms"))
    page.get_by_role("button", name="Explain").click()
    panel = page.get_by_role("region", name="How this answer came about")
    for word in ("hybrid", "first stage, not re-ranked", "every stage answered", "Retrieve"):
        expect(panel).to_contain_text(word)
    expect(cards(page).first.locator(".why")).to_contain_text("Similarity")
    assert address(page)["explain"] == "1"


def test_what_the_api_explains_of_a_lot_is_shown_as_it_comes(page):
    def explained(route: Route) -> None:
        answer = route.fetch().json()
        moved = {"expected": 1.5, "bid_count": -0.25, "title_overlap": 0.75}
        told = {"semantic_rank": 4, "keyword_rank": None, "bm25": 3.25, "features": {"bid_count": 2.0}, "contributions": moved}
        answer["results"][0]["explanation"] = told
        answer["degraded"] = ["rerank"]
        route.fulfill(json=answer)

    page.route("**/search?*", explained)
    visit(page, "?q=red+vase&explain=1")
    lot = cards(page).first
    expect(lot.locator(".why")).to_contain_text("Meaning#4Words–")
    assert lot.locator(".moves li").all_inner_texts() == ["Title overlap\n+0.75", "Bid count\n−0.25"]
    lot.get_by_text("All that is known").click()
    expect(lot).to_contain_text("3.250")
    expect(page.get_by_role("note")).to_contain_text("rerank")


def test_the_time_to_the_end_runs_and_an_ended_lot_says_so(page):
    page.clock.install()
    visit(page, "?q=sextant&mode=keyword")
    left = page.locator("[data-item-id=soon] time")
    expect(left).to_have_text(re.compile(r"^\d\d:\d\d left$"))
    expect(left).to_have_attribute("data-state", "soon")
    before = left.inner_text()
    page.clock.run_for(2_000)
    expect(left).not_to_have_text(before)
    page.clock.fast_forward("31:00")
    expect(left).to_have_text("Ended")
    expect(page.locator("[data-item-id=soon]")).to_have_class(re.compile("ended"))


def test_markup_in_a_lot_stays_text(page):
    visit(page, "?q=harpoon&mode=keyword")
    lot = cards(page).first
    expect(lot.get_by_role("heading")).to_have_text(HOSTILE)
    lot.get_by_role("link").click()
    expect(page.get_by_role("dialog")).to_contain_text("onerror")
    page.keyboard.press("Escape")
    box_of(page).fill("<img")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], main script, main svg[onload]").count() == 0


def test_the_page_forbids_itself_scripts_of_others(page):
    answer = page.goto("/")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    refused = page.evaluate("() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } }")
    assert refused


def test_a_lot_without_a_photo_has_a_drawing_in_its_place(page):
    visit(page, "?q=sextant&mode=keyword")
    expect(page.locator("[data-item-id=soon] .no-photo")).to_have_text("No photo")


def test_no_lot_found_offers_wider_ways(page):
    visit(page, PAGES["empty"])
    expect(page.get_by_role("heading", name="No lot matches")).to_be_visible()
    page.get_by_role("button", name="By meaning, not by words").click()
    expect(cards(page).first).to_be_visible()
    assert address(page)["mode"] == "semantic"


def test_a_refused_search_is_told_in_words_with_the_remedy(page):
    visit(page, PAGES["problem"])
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This search cannot be run")
    expect(alert).to_contain_text("512")
    expect(alert).to_contain_text("search again")


def test_a_stopped_server_is_told_and_the_search_goes_on_when_it_is_back(page, server):
    other = new_server(server.home).start()
    try:
        page.goto(f"{other.url}?q=red+vase")
        expect(cards(page).first).to_be_visible()
        other.stop()
        box_of(page).fill("blue watch")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("The search does not answer")
        assert Axe().run(page).response["violations"] == []
        other.start()
        page.get_by_role("button", name="Try again").click()
        expect(cards(page).first).to_contain_text("watch")
    finally:
        other.stop()
