"""Search by photo on the page: picked, dropped or pasted, alone and with words, over the real route."""

from io import BytesIO
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from hostile_photos import encoded, plain
from page_visits import PHONE, address, box_of, cards, visit
from painted_lots import COLOURS
from PIL import Image
from playwright.sync_api import Page, expect

RED, BLUE = (plain("PNG", COLOURS[name], size=(300, 200)) for name in ("red", "blue"))
HAND_OVER = """({bytes, type, name, how}) => {
  const file = new File([Uint8Array.from(bytes)], name, { type });
  const data = new DataTransfer();
  data.items.add(file);
  const init = { bubbles: true, cancelable: true };
  const [first, last] = how === "drop"
    ? [new DragEvent("dragover", { ...init, dataTransfer: data }), new DragEvent("drop", { ...init, dataTransfer: data })]
    : [null, new ClipboardEvent("paste", { ...init, clipboardData: data })];
  if (first) document.body.dispatchEvent(first);
  const seen = !document.getElementById("drop").hidden;
  document.body.dispatchEvent(last);
  return seen;
}"""


def pick(page: Page, photo: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
    """Choose a file, as the button lets one do."""
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Search by photo").click()
    chosen.value.set_files({"name": name, "mimeType": kind, "buffer": photo})


def hand_over(page: Page, how: str, photo: bytes, kind: str = "image/png") -> Any:
    """Drop or paste a file; says whether the page showed where it may fall."""
    return page.evaluate(HAND_OVER, {"bytes": list(photo), "type": kind, "name": "photo.png", "how": how})


class Sent:
    """What a page asks /search/image from its next visit on; a browser tells its driver of a photo's address alone."""

    NOTE = """
      window.photosSent = [];
      const ask = window.fetch;
      window.fetch = async (url, request) => {
        if (request?.body instanceof Blob) window.photosSent.push([String(url), request.headers["Content-Type"],
          [...new Uint8Array(await request.body.arrayBuffer())]]);
        return ask(url, request);
      };
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        page.add_init_script(self.NOTE)

    def __getitem__(self, place: int) -> tuple[str, str, bytes]:
        """Address, type and body of a photo."""
        url, kind, body = self._page.evaluate("window.photosSent")[place]
        return url, kind, bytes(body)


def first_titles(page: Page, count: int = 4) -> list[str]:
    expect(cards(page).first).to_be_visible()
    return [cards(page).nth(place).get_by_role("heading").inner_text() for place in range(count)]


def test_a_picked_photo_finds_what_looks_like_it_and_is_shown_beside_the_words(page: Page) -> None:
    requests = Sent(page)
    visit(page)
    pick(page, RED)
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")
    assert all(title.startswith("Red") for title in first_titles(page))
    thumb = page.get_by_role("img", name="The photo that is searched by")
    expect(thumb).to_be_visible()
    assert thumb.evaluate("img => img.complete && img.naturalWidth > 0"), "the security policy let it be drawn"
    _, kind, body = requests[0]
    assert (kind, Image.open(BytesIO(body)).size) == ("image/jpeg", (300, 200))


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted(page: Page, how: str) -> None:
    visit(page)
    assert hand_over(page, how, BLUE) == (how == "drop")
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")
    assert all(title.startswith("Blue") for title in first_titles(page))
    expect(page.locator("#drop")).to_be_hidden()


def test_words_beside_the_photo_are_searched_with_it(page: Page) -> None:
    requests = Sent(page)
    visit(page)
    pick(page, RED)
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")
    box_of(page).fill("lamp")
    box_of(page).press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo and lamp")
    assert all(title.startswith("Red lamp") for title in first_titles(page))
    assert "text=lamp" in requests[-1][0]
    page.get_by_role("button", name="Remove the photo").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("for lamp")
    expect(page.get_by_role("img", name="The photo that is searched by")).to_have_count(0)
    expect(box_of(page)).to_be_focused()


def test_filters_more_lots_and_the_back_button_keep_the_photo(page: Page) -> None:
    requests = Sent(page)
    visit(page)
    pick(page, RED)
    expect(cards(page)).to_have_count(24)
    page.get_by_role("button", name="Show more lots").click()
    expect(cards(page)).to_have_count(48)
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("button", name="Explain")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("group", name="Category").get_by_text("vase").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")
    expect(cards(page).first).to_contain_text("vase")
    assert "category=vase" in requests[-1][0]
    assert "explain=true" in requests[-1][0]
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")
    assert "category" not in address(page)
    page.get_by_role("button", name="Remove the photo").click()
    expect(page.locator(".start")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")


def test_a_large_photo_is_scaled_down_before_it_is_sent_and_says_nothing_of_where_it_was_taken(page: Page) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    exif.get_ifd(0x8825)[1] = "N"  # where it was taken
    noise = Image.effect_noise((3000, 2000), 120).convert("RGB")
    photo = encoded(noise, "JPEG", exif=exif, quality=95)
    assert len(photo) > 3_000_000
    requests = Sent(page)
    visit(page)
    pick(page, photo, "photo.jpg", "image/jpeg")
    expect(cards(page).first).to_be_visible()
    body = requests[0][2]
    made = Image.open(BytesIO(body))
    assert len(body) < 1_000_000
    assert made.height > made.width, "it is upright"
    assert max(made.size) <= 1024
    assert not made.getexif()


def test_a_file_that_is_no_picture_is_told_with_a_way_out(page: Page) -> None:
    visit(page, "?q=red+vase")
    pick(page, b"<svg", "photo.jpg", "image/jpeg")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("This photo cannot be searched by")
    expect(notice).to_contain_text("photo.jpg")
    notice.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("for red vase")


def test_what_the_api_says_of_a_photo_is_shown(page: Page) -> None:
    told = {"type": "no_image_branch", "title": "Bad Request", "status": 400, "detail": "tower a1 reads text alone"}
    page.route("**/search/image?*", lambda route: route.fulfill(status=400, json=told))
    visit(page)
    pick(page, RED)
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("These lots cannot be searched by photo")
    expect(notice).to_contain_text("tower a1 reads text alone")
    expect(page.get_by_role("heading", level=1)).to_have_text("Search by photo")


def test_a_photo_can_be_searched_by_and_removed_without_a_mouse(page: Page) -> None:
    page.on("filechooser", lambda chooser: None)  # so that the browser hands choosers over well before the key is pressed
    visit(page)
    box_of(page).focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Search by photo")).to_be_focused()
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files({"name": "red.png", "mimeType": "image/png", "buffer": RED})
    expect(page.get_by_role("heading", level=1)).to_contain_text("like your photo")
    expect(page.get_by_role("status")).to_contain_text("lots found")
    box_of(page).focus()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Remove the photo")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator(".start")).to_be_visible()


def test_a_phone_offers_its_camera_and_nothing_runs_over_the_edge(page: Page) -> None:
    page.set_viewport_size(PHONE)
    visit(page)
    expect(page.locator("#photo-file")).to_have_attribute("accept", "image/*")
    pick(page, RED)
    expect(page.get_by_role("button", name="Remove the photo")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#q").bounding_box()["width"] >= 60, "there is room for words"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("words", ["", "lamp"])
def test_axe_finds_nothing_wrong_with_a_search_by_photo(page: Page, scheme: Any, words: str) -> None:
    page.emulate_media(color_scheme=scheme)
    visit(page)
    box_of(page).fill(words)
    pick(page, RED)
    expect(cards(page).first).to_be_visible()
    assert Axe().run(page).response["violations"] == []
