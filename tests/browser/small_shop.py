"""A shop to browse: some sixty lots with photos, a tower that a test can wait for, and `gavel serve` over them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import onnx
from colour_tower import SIDE, write_colour_branch
from onnx import TensorProto, helper, numpy_helper
from painted_lots import COLOURS, KINDS, names, paint
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from catalog.folder import write_items
from gavel.opensearch.node import free_port
from gavel.workspace.folders import Workspace
from processing.embedding.thumbnails import Thumbnails
from retrieval.config.settings import Settings
from retrieval.contracts.documents import IndexedItem, document_of
from retrieval.contracts.items import Item
from retrieval.contracts.tower_card import ITEM_TOWER_FILE, QUERY_TOWER_FILE, TOKENIZER_FILE, TowerCard
from retrieval.encoders.query_encoder import OUTPUT, QueryEncoder
from retrieval.index.embedded.store import EmbeddedStore

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 4  # lots of each colour and kind
BRANDS = ("Okada", "Lindqvist", "Ashworth")
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> harpoon'
ARABIC = "ساعة جيب قديمة"
SOON = timedelta(minutes=30)
START_S = 60


def lots(folder: Path) -> list[Item]:
    """Lots of every colour and kind, and one for each trouble."""
    now = datetime.now(UTC)
    made = []
    for number, (colour, kind) in enumerate((c, k) for _ in range(ROUNDS) for c, k in names()):
        item_id = f"{colour}-{kind}-{number:02}"
        photo = paint(folder / "photos" / f"{item_id}.png", colour, 500 + number)
        made.append(
            Item(
                item_id,
                f"{colour.title()} {kind} of the year {1900 + number}",
                description="Bought at an estate sale.",
                image=f"photos/{photo.name}",
                category=kind,
                brand=BRANDS[number % len(BRANDS)],
                current_price=10.0 + 5 * number,
                bid_count=number % 7,
                seller_rating=2.0 + number % 4,
                listed_at=now - timedelta(days=3),
                ends_at=now + timedelta(days=2, hours=number),
                attributes={"Frame_material": ["oak", "<img src=x onerror=window.hacked=1>"]},
                more_images=("photos/missing.png", "../secret.png", f"photos/{photo.name}") if number % 2 else (),
            )
        )
    return [
        *made,
        Item("hostile/../lot?", HOSTILE, HOSTILE, category="harpoon", brand='"><svg onload=window.hacked=1>', current_price=1.0),
        Item("soon", "Brass sextant", category="sextant", current_price=70.0, bid_count=1, ends_at=now + SOON),
        Item("arabic", ARABIC, category="ساعات", current_price=90.0),
        Item("secret", "Photo from elsewhere", image="../secret.png", current_price=5.0),
    ]


def save_word_tower(towers: Path) -> Path:
    """Save a tower that training did not make: one direction a known word, and one that every word shares; photos are colours.

    Returns:
        `towers/<tower_id>`.
    """
    folder = towers / "unnamed"
    folder.mkdir(parents=True)
    words = {"[PAD]": 0, "[UNK]": 1, **{word: number for number, word in enumerate((*COLOURS, *KINDS, "sextant", "harpoon"), 2)}}
    directions = np.eye(len(words), dtype=np.float32)
    directions[:, 1] = 0.3
    nodes = [
        helper.make_node("Gather", ["directions", "input_ids"], ["all"]),  # (B, L, D)
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),  # (B, L)
        helper.make_node("Unsqueeze", ["mask", "last"], ["masks"]),  # (B, L, 1)
        helper.make_node("Mul", ["all", "masks"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "length"], [OUTPUT], keepdims=0),  # (B, D)
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "L"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", len(words)])
    constants = {"directions": directions, "last": np.array([2]), "length": np.array([1])}
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "words", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / QUERY_TOWER_FILE)
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / ITEM_TOWER_FILE).touch()
    write_colour_branch(folder, {name: directions[words[name]] / np.linalg.norm(directions[words[name]]) for name in COLOURS})
    card = TowerCard.create(
        folder,
        preset="words",
        dimensions=len(words),
        max_length=64,
        image_size=SIDE,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        architecture={},
    )
    card.save(folder)
    return folder.rename(towers / card.tower_id)


def make_shop(root: Path) -> Path:
    """Index the lots of a release, in the folders of a workspace.

    Returns:
        The workspace.
    """
    workspace = Workspace(Settings(home=root / "home"))
    encoder = QueryEncoder.load(save_word_tower(workspace.towers))
    items = root / "shop" / "items"
    made = lots(items)
    write_items(items / "lots.parquet", made)
    paint(root / "shop" / "secret.png", "red", 1)
    for photo in (items / "photos").iterdir():
        Thumbnails(workspace.thumbnails).draw(photo.resolve())
    workspace.remember_sources("shop", [items / "lots.parquet"])
    store = EmbeddedStore(workspace.index, workspace.settings.index_alias)
    index = store.create(encoder.tower_id, encoder.card.dimensions)
    documents = [document_of(lot, has_image=lot.image is not None, tower_id=encoder.tower_id, release_id="shop") for lot in made]
    vectors = encoder.encode([lot.title for lot in made])
    entries = [
        IndexedItem(lot.item_id, lot.version, *pair) for lot, pair in zip(made, zip(documents, vectors, strict=True), strict=True)
    ]
    assert index.upsert(entries).indexed == len(made)
    index.refresh()
    store.publish(index.name)
    return workspace.settings.home


@dataclass
class Server:
    """`gavel serve` as a process of its own, that can be stopped and started again at the same address."""

    home: Path
    port: int
    cors_origins: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> "Server":
        """Run, and wait until it answers."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GAVEL_")}
        env = {**kept, "GAVEL_HOME": str(self.home), "PYTHONPATH": str(ROOT), "GAVEL_CORS_ORIGINS": self.cors_origins}
        command = [sys.executable, "-m", "gavel.cli.main", "serve", "--port", str(self.port), "--currency", "EUR"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urlopen(f"{self.url}health") as answer:
                    assert json.load(answer)["status"] == "ok"
                return self
            except (URLError, ConnectionError):
                time.sleep(0.1)
        raise AssertionError("gavel serve did not start")

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


def new_server(home: Path, cors_origins: str = "") -> Server:
    """A server at a free port, not started."""
    return Server(home, free_port(), cors_origins)
