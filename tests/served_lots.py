"""The query API over a few lots, served as `gavel serve` serves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from colour_tower import colour_branch
from lots import TOWER_ID, WordEncoder, lot, publish

from gavel.web.http_server import served_in_thread
from lambdas.query_api.app import create_app
from retrieval.buyers.sqlite_history import BuyerEvents
from retrieval.contracts.events import Interaction
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import utc_now
from retrieval.search.service import SearchLimits, SearchModels, SearchService

KNOWN_BUYER = "b2a7c1d4"  # the example of the API's description
LOTS = [
    lot("v1", "red vase", category="vases", brand="Meissen", current_price=10.0, seller_rating=4.5),
    lot("v2", "blue vase", category="vases", current_price=90.0),
    lot("v3", "old vase", ends_at=utc_now() - timedelta(hours=1)),
    *(lot(f"w{n}", "gold watch", category="watches", current_price=float(n)) for n in range(60)),
]


@contextmanager
def served_lots(folder: Path) -> Iterator[str]:
    """The URL of a server over LOTS, whose index lies in an empty folder."""
    store = EmbeddedStore(folder / "index")
    publish(store, LOTS)
    branch = colour_branch(folder / "tower", {name: WordEncoder().encode([name])[0] for name in ("red", "blue")}, TOWER_ID)
    buyers = BuyerEvents(folder / "buyers.sqlite", 90)
    buyers.append([Interaction(KNOWN_BUYER, "v1", "view", utc_now())])
    service = SearchService(
        store,
        SearchModels(WordEncoder, load_image_encoder=lambda tower_id: branch),
        SearchLimits(cached_answers_s=1),
        buyer_store=buyers,
    )
    service.live()
    with served_in_thread(create_app(lambda: service)) as url:
        yield url
