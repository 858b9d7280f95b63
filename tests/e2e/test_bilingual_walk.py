"""The walk of docs/two-languages.md as real processes: train, embed, build, serve, curl, over texts in two languages."""

import csv
import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bilingual_shop import lots, write_bilingual_catalog
from command_runs import GAVEL, answer, environment, gavel

from gavel.opensearch.node import free_port

pytestmark = pytest.mark.timeout(900)  # a tower is trained first

GROUPS = {item.item_id: item.category for item, _, _ in lots()}
RINGS = [item.item_id for item, kind, _ in lots() if kind[0] == "ring"]
SMALL = """
[training]
learning_rate = 3e-3
[training.tower]
hidden = 64
max_length = 24
[training.tower.text.config]
model_type = "distilbert"
dim = 32
hidden_dim = 64
n_layers = 1
n_heads = 2
max_position_embeddings = 32
"""


def write_products(path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("product_id", "name", "description", "price", "metadata"))
        for number, (item, _, _) in enumerate(lots()):
            table.writerow((item.item_id, item.title, "", number + 1, json.dumps({"catalog_id": item.category})))
        table.writerow(("", "بلا رقم", "", 1, "{}"))
    return path


def write_events(path: Path) -> Path:
    """Forty buyers who each stay with one group, one of whom buys rings, and a line that nobody can use."""
    start, by_group = (
        datetime.now(UTC) - timedelta(days=60),
        {group: [i for i in GROUPS if GROUPS[i] == group] for group in set(GROUPS.values())},
    )
    groups = sorted(by_group)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("distinct_id", "product_id", "event_name", "created_at"))
        for buyer in range(40):
            own = by_group[groups[buyer % len(groups)]]
            for day in range(0, 56, 7):
                for step in range(3):
                    lot = own[(buyer + day + 5 * step) % len(own)]
                    table.writerow(
                        (
                            f"buyer-{buyer}",
                            lot,
                            ("View", "AddToCart", "Purchase")[step],
                            (start + timedelta(days=day, minutes=step)).isoformat(),
                        )
                    )
        for day, ring in enumerate(RINGS):
            table.writerow(("خالد", ring, "Purchase", (start + timedelta(days=day)).isoformat()))
        table.writerow(("buyer-1", RINGS[0], "Stared", start.isoformat()))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two-languages") / "home"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_products(folder / "products.csv")
    write_events(folder / "events.csv")
    write_bilingual_catalog(folder / "shop")
    (folder / "small.toml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def built(home: Path, files: Path) -> dict[str, Any]:
    """What each step of the walk reported."""
    products, events = str(files / "products.csv"), str(files / "events.csv")
    train = ("--config", str(files / "small.toml"), "train", "--catalog", str(files / "shop"), "--text-only")
    steps = {
        "train": (*train, "--dimensions", "32", "--epochs", "15", "--batch-size", "64"),
        "embed": ("embed", products),
        "index": ("index",),
        "check": ("events", "check", events, "--products", products),
        "import": ("buyers", "import", events),
        "buyers": ("train", "buyers", "--events", events),
        "export": ("export", "faiss"),
    }
    return {name: answer(home, *arguments) for name, arguments in steps.items()}


@pytest.fixture(scope="module")
def shop(home: Path, built: dict[str, Any]) -> Iterator[httpx.Client]:
    """The server over what was built."""
    port = free_port()
    with (
        subprocess.Popen([*GAVEL, "serve", "--port", str(port)], env=environment(home), stdout=subprocess.DEVNULL) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, transport=httpx.HTTPTransport(retries=60)) as client,
    ):
        try:
            _wait_until_served(client, server)
            yield client
        finally:
            server.terminate()


def _wait_until_served(client: httpx.Client, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError("gavel serve did not answer")


def groups_of(product_ids: list[str]) -> list[str]:
    return [GROUPS[product_id] for product_id in product_ids]


def test_every_step_accounts_for_its_rows(built: dict[str, Any]) -> None:
    embedded = built["embed"]
    assert (embedded["items_in"], embedded["embedded"], embedded["rejected"]) == (len(GROUPS) + 1, len(GROUPS), 1)
    assert built["index"]["lots"] == len(GROUPS)
    assert embedded["tower_id"] == built["train"]["tower_id"] == built["export"]["tower_id"]
    assert built["check"]["rejected"] == 1
    assert built["import"]["kept"] == 40 * 8 * 3 + len(RINGS)


def test_a_query_in_either_language_finds_lots_in_both(shop: httpx.Client) -> None:
    for query in ("gold ring", "خاتم من الذهب"):
        lots = shop.get("/search", params={"q": query, "mode": "semantic", "k": 6}).json()["results"]
        assert groups_of([lot["item_id"] for lot in lots]) == ["jewellery"] * 6
        assert {lot["fields"]["title"].isascii() for lot in lots} == {True, False}


def test_the_vector_of_a_query_is_the_same_by_command_and_over_http(shop: httpx.Client, home: Path) -> None:
    served = shop.post("/encode_query", json={"query": "خاتم من الذهب"}).json()
    assert served["dimension"] == len(served["query_embedding"]) == 32
    assert answer(home, "encode", "خاتم من الذهب") == served


def test_a_buyer_of_rings_is_encoded_and_shown_jewellery(shop: httpx.Client) -> None:
    recent = [{"product_id": ring, "event_type": "purchase"} for ring in RINGS]
    encoded = shop.post("/encode_buyer", json={"recent_interactions": recent}).json()
    assert encoded["dimension"] == len(encoded["buyer_embedding"]) == 32
    by_body = shop.post("/retrieve", json={"recent_interactions": recent, "k": 5}).json()
    by_id = shop.get("/retrieve", params={"buyer_id": "خالد", "k": 5}).json()
    for retrieved in (by_body, by_id):
        assert groups_of(retrieved["product_ids"]) == ["jewellery"] * 5
        assert not set(RINGS) & set(retrieved["product_ids"])
        assert len(retrieved["scores"]) == 5
    assert by_id["source"] == "history"


def test_sanity_says_the_same_of_the_tower(home: Path, built: dict[str, Any]) -> None:
    run = gavel(home, "sanity", "--json")
    report = json.loads(run.stdout)
    assert report["model"] == built["train"]["tower_id"]
    assert run.returncode == (0 if report["holds"] else 1)
    pairs = {tuple(check["request"]): check["answer"] for check in report["checks"] if check["kind"] == "pair"}
    assert pairs["gold ring", "قلادة من الذهب"] > pairs["gold ring", "زيت محرك صناعي"]
