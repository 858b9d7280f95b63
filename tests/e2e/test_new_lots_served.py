"""Single lots into a workspace: by `PUT /items/{id}` to a running `gavel serve`, and by `gavel items put`."""

import base64
import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from command_runs import GAVEL, environment, gavel
from PIL import Image
from small_tower import save_spread_tower

from gavel.opensearch.node import free_port
from models.artefacts.item_encoder import ItemEncoder
from processing.embedding.job import embed
from retrieval.contracts.tower_card import TowerCard
from retrieval.encoders.photos import decode_photo
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ingestion import index_release

TITLES = [f"{colour} {kind} {n}" for n in range(20) for colour in ("red", "gold") for kind in ("vase", "watch")]
TOKEN = "correct horse"
pytestmark = pytest.mark.timeout(600)  # towers are exported first


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a tower of texts and photos and a live index of TITLES."""
    home = tmp_path_factory.mktemp("shop")
    items = home / "items.ndjson"
    rows = [{"item_id": f"lot-{n}", "title": title, "updated_at": "2026-11-20"} for n, title in enumerate(TITLES)]
    items.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tower = save_spread_tower(TITLES, home / "towers", use_image=True)
    embed([items], tower, home / "embeddings", release_id="night", batch_size=40, workers=0)
    store = EmbeddedStore(home / "index")
    index_release(home / "embeddings" / "night", store)
    store.close()
    return home


class Served:
    """A running `gavel serve`.

    Attributes:
        process: the server.
        client: a client with the write token.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", client: httpx.Client) -> None:
        self.process, self.client = process, client

    def put(self, item_id: str, **row: Any) -> dict[str, Any]:
        answer = self.client.put(f"/items/{item_id}", json=row)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def search(self, query: str, **parameters: Any) -> list[str]:
        answer = self.client.get("/search", params={"q": query, **parameters}).json()
        return [result["item_id"] for result in answer["results"]]


@pytest.fixture(scope="module")
def served(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port, output = free_port(), tmp_path_factory.mktemp("served") / "output"
    command = [*GAVEL, "serve", "--port", str(port)]
    variables = environment(home) | {"GAVEL_WRITE_TOKEN": TOKEN}
    with output.open("wb") as text, subprocess.Popen(command, env=variables, stdout=text, stderr=subprocess.STDOUT) as process:
        try:
            ends = time.monotonic() + 90
            while "/docs" not in output.read_text():
                assert time.monotonic() < ends
                time.sleep(0.2)
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=300, trust_env=False
            ) as client:
                yield Served(process, client)
        finally:
            process.terminate()
            process.wait(20)
            print(output.read_text())  # shown by pytest if the test fails


def picture(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (90, 90), colour).save(out, "PNG")
    return out.getvalue()


def stored_vector(home: Path, item_id: str) -> np.ndarray:
    store = EmbeddedStore(home / "index")
    try:
        (candidate,) = store.live().fetch([item_id])
        return np.array(candidate.vector)
    finally:
        store.close()


def test_a_lot_that_is_put_is_found_by_the_next_search_with_the_vector_of_the_night(home: Path, served: Served) -> None:
    for mode in ("keyword", "semantic", "hybrid"):
        assert "new-1" not in served.search("gold elephant", mode=mode, k=100)
    told = served.put("new-1", title="gold elephant watch", photo=base64.b64encode(picture("red")).decode())
    (tower,) = (home / "towers").iterdir()
    assert (told["outcome"], told["tower_id"], told["has_photo"]) == ("applied", tower.name, True)
    for mode in ("keyword", "semantic", "hybrid"):
        assert "new-1" in served.search("gold elephant", mode=mode, k=100)
    assert served.search("elephant", mode="keyword") == ["new-1"]
    assert TowerCard.load(tower, verify=True).has_item_encoder  # made for the first lot
    encoder = ItemEncoder.load(tower, "cpu")
    photo = decode_photo(picture("red"), encoder.card.image_size)
    assert encoder.encode(["gold elephant watch"], [photo])[0] @ stored_vector(home, "new-1") > 0.999
    assert served.client.get("/photos/new-1").headers["content-type"] == "image/jpeg"


def test_the_server_does_not_load_torch(served: Served) -> None:
    served.put("new-2", title="red vase")
    libraries = Path(f"/proc/{served.process.pid}/maps").read_text()
    assert "onnxruntime" in libraries
    assert "libtorch" not in libraries


def test_the_command_line_tells_the_outcome_of_every_row(home: Path, served: Served, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(picture("blue"))
    rows = [
        {"item_id": "new-3", "title": "platinum giraffe", "image": "photo.png"},
        {"item_id": "new-4", "title": "a vase", "current_price": -1},
        {"item_id": "lot-1", "title": "an old row", "updated_at": "2020-01-01"},
    ]
    file = tmp_path / "new.ndjson"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "no JSON\n")
    run = gavel(home, "items", "put", str(file), "--json")
    assert run.returncode == 1, run.stderr
    results = json.loads(run.stdout)
    assert [result["outcome"] for result in results] == ["applied", "refused", "stale", "refused"]
    assert "current_price" in results[1]["reason"]
    assert results[0]["has_photo"]
    assert results[3]["item_id"] == "line 4"
    assert served.search("giraffe", mode="keyword") == ["new-3"]
    assert served.client.get("/photos/new-3").status_code == 200


def test_the_command_reads_one_lot_from_standard_input(home: Path, served: Served) -> None:
    run = gavel(home, "items", "put", "-", stdin=json.dumps({"item_id": "new-5", "title": "silver\nhippopotamus"}, indent=2))
    assert run.returncode == 0, run.stderr
    assert "new-5: written" in run.stdout
    assert "1 applied" in run.stdout
    assert served.search("hippopotamus", mode="keyword") == ["new-5"]


@pytest.mark.parametrize(("content", "says"), [("", "there is no lot"), ("[]", "there is no lot")])
def test_a_file_without_lots_is_refused(home: Path, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "lots.json").write_text(content)
    run = gavel(home, "items", "put", str(tmp_path / "lots.json"))
    assert (run.returncode, says in run.stderr) == (2, True)


def test_the_night_confirms_a_lot_and_its_older_row_changes_nothing(home: Path, served: Served, tmp_path: Path) -> None:
    version = served.put("new-6", title="copper rhinoceros")["version"]
    tower = next((home / "towers").iterdir())
    for release, title, updated_at in (("older", "tin cow", version - 1_000), ("later", "iron whale", version + 1_000)):
        (tmp_path / "items.ndjson").write_text(json.dumps({"item_id": "new-6", "title": title, "updated_at": updated_at}) + "\n")
        embed([tmp_path / "items.ndjson"], tower, home / "embeddings", release_id=release, batch_size=40, workers=0)
        run = gavel(home, "index", release)
        assert run.returncode == 0, run.stderr
        shown = served.client.get("/items/new-6").json()["fields"]["title"]
        assert shown == ("copper rhinoceros" if release == "older" else title)
    assert served.search("whale", mode="keyword") == ["new-6"]
