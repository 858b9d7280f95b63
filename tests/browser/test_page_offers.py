"""What the page offers when the API has it, and what it tells the API."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from page_visits import address, cards, visit
from playwright.sync_api import Page, Route, expect
from small_shop import ROOT, new_server

from catalog.folder import CatalogFolder
from gavel.web.page_app import PAGE


def with_paths(page: Page, paths: dict[str, object]) -> None:
    """Let the API describe itself with these paths besides `/search`."""

    def described(route: Route) -> None:
        openapi = route.fetch().json()
        openapi["paths"] = {"/search": openapi["paths"]["/search"], **paths}
        route.fulfill(json=openapi)

    page.route("**/openapi.json", described)


def test_what_the_api_lacks_is_not_offered(page):
    with_paths(page, {})
    visit(page, "?q=red+vase")
    expect(page.get_by_role("button", name="More like this")).to_have_count(0)
    expect(page.get_by_role("button", name="Search by photo")).to_have_count(0)


def test_similar_lots_are_asked_for_with_the_filters(page):
    asked: list[str] = []

    def similar(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(json=route.fetch(url=route.request.url.split("items/")[0] + "search?q=vase&category=vase").json())

    with_paths(page, {"/items/{item_id}/similar": {"get": {}}})
    page.route("**/items/**", similar)
    visit(page, "?q=red+vase&category=vase")
    page.get_by_role("button", name=re.compile("More like this ?: Red vase")).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("like Red vase")
    expect(cards(page).first).to_contain_text("vase")
    assert "similar" in address(page)
    assert re.search(r"/items/red-vase-\d\d/similar\?k=24", asked[0])


def test_what_was_seen_and_opened_becomes_a_click_log_that_training_reads(page, server, tmp_path):
    visit(page, "?q=green+lamp+page+test")
    expect(cards(page).first).to_be_visible()
    page.wait_for_timeout(300)  # the observer tells in its own time
    opened = cards(page).nth(2)
    item_id = opened.get_attribute("data-item-id")
    with page.expect_request("**/events"):
        opened.get_by_role("link").click()
    page.wait_for_timeout(300)
    (log,) = (server.home / "events").glob("*.ndjson")
    rows = [row for line in log.read_text().splitlines() if (row := json.loads(line))["query"] == "green lamp page test"]
    assert {row["event_type"] for row in rows} == {"impression", "view"}
    assert all(row["served"] for row in rows), "the page sends back what the search gave it"
    assert [(row["item_id"], row["position"]) for row in rows if row["event_type"] == "view"] == [(item_id, 3)]

    out = tmp_path / "clicks"
    items = server.home.parent / "shop" / "items"
    command = [sys.executable, "-m", "gavel.cli.main", "catalog", "prepare", "clicks"]
    options = ["--data", str(server.home / "events"), "--items", str(items), "--out", str(out), "--json"]
    env = {**os.environ, "GAVEL_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (out / "rejects.ndjson").exists()
    clicks = [
        c for split in ("train", "val", "test") for c in CatalogFolder.load(out).clicks(split) if c.query == "green lamp page test"
    ]
    assert len(clicks) == len({row["item_id"] for row in rows})
    assert [(c.item_id, c.event_type) for c in clicks if c.event_type] == [(item_id, "view")]


def test_as_a_static_site_it_asks_an_api_elsewhere(page, server, tmp_path):
    site = shutil.copytree(PAGE, tmp_path / "site")
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=site))
    Thread(target=web.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{web.server_port}"
    api = new_server(server.home, origin).start()
    (site / "config.json").write_text(json.dumps({"api": api.url.rstrip("/"), "photos": f"{api.url}photos/"}))
    try:
        page.goto(f"{origin}/?q=yellow+chair+afar")
        expect(cards(page).filter(has_text="Yellow chair").first.locator("img")).not_to_have_js_property("naturalWidth", 0)
        with page.expect_response("**/events") as told:
            cards(page).first.get_by_role("link").click()
        assert told.value.status == 202
    finally:
        api.stop()
        web.shutdown()
        web.server_close()
