"""The two adapters give one answer: the same release, 200 queries, the same lots in the same order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from index_lots import NOW, TOWER_ID, clustered, lot
from opensearch_stores import opensearch_store

from retrieval.contracts.documents import IndexedItem, Vector
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.index.filters import Filter, parse_attribute_filters
from retrieval.index.fusion import Fusion
from retrieval.index.hybrid_tuning import FieldBoosts, Tuning
from retrieval.index.opensearch.store import OpenSearchStore
from retrieval.index.port import Candidate, VectorIndex
from retrieval.ranker.features import feature_matrix

LOTS, QUERIES, K, WIDTH = 2_000, 200, 50, 64
WORDS = """
watch watches watching gold golden silver vintage antique clock vase porcelain painting oil canvas signed bronze lamp
table chair oak mahogany carved ring diamond emerald necklace brooch coin stamp letter book first edition leather
binding camera lens guitar violin bow piano record vinyl poster map globe compass telescope microscope sword medal badge
uniform helmet toy train doll teddy bear puzzle game card comic figure model ship car engine bicycle tools plane saw
hammer glass crystal bowl plate teapot spoon fork rug carpet tapestry quilt lace silk dress coat hat shoes handbag purse
fan mirror frame box chest drawer
""".split()  # noqa: SIM905, as words they are read at a glance


@dataclass(frozen=True)
class Query:
    """One search in all its forms."""

    text: str
    vector: Vector
    filters: Filter


@dataclass(frozen=True)
class Pair:
    """The same lots in both adapters."""

    faiss: VectorIndex
    opensearch: VectorIndex


def lots() -> Iterator[IndexedItem]:
    """Lots with Zipfian texts, some of them long, some lots ended, some without price."""
    generator = np.random.default_rng(11)
    for i, vector in enumerate(clustered(LOTS, WIDTH, seed=12)):
        length = int(generator.integers(2, 12)) if i % 3 else int(generator.integers(30, 300))
        words = [WORDS[min(int(rank), len(WORDS)) - 1] for rank in generator.zipf(1.2, size=length)]
        yield lot(
            f"lot-{i:05}",
            vector,
            title=" ".join(words[:8]),
            description=" ".join(words[8:]),
            brand=("", "Silver Fox", "Bear and Sons Watches", "Plate")[i % 7 % 4],
            category=("Watches", "Art", "Books", "Toys")[i % 4],
            current_price=None if i % 11 == 0 else float(generator.integers(1, 1_000)),
            seller_rating=float(generator.integers(0, 50)) / 10,
            ends_at=NOW.replace(hour=10 + i % 14),
            attributes={}
            if i % 5 == 0
            else {"material": words[-1:], "Kind": WORDS[i % 40], "signed": "yes", "year": 1900 + i % 99},
        )


def queries() -> list[Query]:
    """Queries of one to four words, every second one under a filter."""
    generator = np.random.default_rng(13)
    filters = [
        Filter(now=NOW),
        Filter(categories=("art",), now=NOW),
        Filter(now=NOW.replace(hour=1)),
        Filter(min_price=100, max_price=600, min_seller_rating=2.5, now=NOW.replace(hour=1)),
        Filter(now=NOW.replace(hour=1), attributes=parse_attribute_filters(["SIGNED:Yes", "year:1910..1990"])),
    ]
    return [
        Query(" ".join(generator.choice(WORDS, size=int(generator.integers(1, 5)))), vector, filters[i % 5])
        for i, vector in enumerate(clustered(QUERIES, WIDTH, seed=14))
    ]


@pytest.fixture(scope="module")
def pair(opensearch_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One release in both adapters; exact_below=0 makes the embedded index use its graph however small the release is."""
    embedded = EmbeddedStore(tmp_path_factory.mktemp("agree"), exact_below=0)
    stores = opensearch_store(opensearch_url)
    indices = Pair(embedded.create(TOWER_ID, WIDTH), next(stores).create(TOWER_ID, WIDTH))
    for index in (indices.faiss, indices.opensearch):
        report = index.upsert(lots())
        assert (report.indexed, report.rejected) == (LOTS, ())
        index.refresh()
    yield indices
    next(stores, None)


def ids(found: list[Candidate]) -> list[str]:
    """Ids in order."""
    return [c.item_id for c in found]


def scored(found: list[Candidate]) -> list[tuple[str, float]]:
    """Ids in order, with scores to compare."""
    return [(c.item_id, c.score) for c in found]


def test_exact_search_gives_the_same_lots_in_the_same_order(pair: Pair) -> None:
    for query in queries():
        answers = [scored(index.semantic(query.vector, K, query.filters, exact=True)) for index in (pair.faiss, pair.opensearch)]
        assert answers[0] == answers[1]
        assert len(answers[0]) == K


def test_hnsw_answers_overlap(pair: Pair) -> None:
    shared = wanted = 0
    for query in queries():
        ours, theirs = (
            {c.item_id for c in index.semantic(query.vector, K, query.filters)} for index in (pair.faiss, pair.opensearch)
        )
        shared, wanted = shared + len(ours & theirs), wanted + max(len(ours), len(theirs))
    assert shared / wanted >= 0.95


def test_keyword_search_gives_the_same_lots_in_the_same_order(pair: Pair) -> None:
    for query in queries():
        ours, theirs = (scored(index.keyword(query.text, K, query.filters)) for index in (pair.faiss, pair.opensearch))
        assert [item_id for item_id, _ in ours] == [item_id for item_id, _ in theirs], query.text
        factor = theirs[0][1] / ours[0][1] if ours else 1.0  # 1, or k1 + 1 on an OpenSearch that still has it in its BM25
        assert [factor * score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-5)


def misspelt(word: str, generator: np.random.Generator) -> str:
    """A word with a letter left out, doubled, replaced or swapped with the next, once or twice."""
    for _ in range(int(generator.integers(1, 3))):
        at = int(generator.integers(1, len(word)))
        change = int(generator.integers(4))
        letter = "aeiourst"[int(generator.integers(8))]
        word = word[:at] + ("", word[at : at + 1] * 2, letter, word[at : at + 2][::-1])[change] + word[at + (1, 1, 1, 2)[change] :]
    return word


def test_misspelt_words_are_put_right_alike(pair: Pair) -> None:
    generator = np.random.default_rng(15)
    words = sorted({wrong for word in WORDS for _ in range(4) if len(wrong := misspelt(word, generator)) >= 4})
    ours, theirs = (
        {word: meant for start in range(0, len(words), 8) for word, meant in index.corrections(words[start : start + 8]).items()}
        for index in (pair.faiss, pair.opensearch)
    )
    assert ours == theirs
    assert len(words) > 250
    assert len(ours) > len(words) / 3


@pytest.fixture(scope="module")
def boosted(pair: Pair, opensearch_url: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same lots, searched with words counting more in some fields."""
    tuning = Tuning(boosts=FieldBoosts(title=0.5, brand=2.0, category=0.3, attributes=0.7))
    embedded = EmbeddedStore(tmp_path_factory.mktemp("boosted"), tuning=lambda tower_id: tuning).create(TOWER_ID, WIDTH)
    embedded.upsert(lots())
    embedded.refresh()
    alias = pair.opensearch.name.partition(f"-{TOWER_ID}")[0]
    served = OpenSearchStore(opensearch_url, alias, tuning=lambda tower_id: tuning).find(TOWER_ID)
    assert served is not None
    return Pair(embedded, served)


def test_boosted_fields_give_the_same_lots_in_the_same_order(pair: Pair, boosted: Pair) -> None:
    changed = 0
    for query in queries():
        ours, theirs = (scored(index.keyword(query.text, K, query.filters)) for index in (boosted.faiss, boosted.opensearch))
        factor = theirs[0][1] / ours[0][1] if ours else 1.0
        assert [item_id for item_id, _ in ours] == [item_id for item_id, _ in theirs], query.text
        assert [factor * score for _, score in ours] == pytest.approx([score for _, score in theirs], rel=1e-5)
        changed += ids(pair.faiss.keyword(query.text, K, query.filters)) != [item_id for item_id, _ in ours]
    assert changed > QUERIES / 2


@pytest.mark.parametrize("fusion", [None, Fusion("rrf", (0.7, 0.3), 20), Fusion("min_max", (0.3, 0.7)), Fusion("l2")], ids=str)
def test_hybrid_search_gives_the_same_order_where_the_graphs_agree(pair: Pair, fusion: Fusion | None) -> None:
    agreed = 0
    for query in queries():
        ours, theirs = (
            [c.item_id for c in index.semantic(query.vector, K, query.filters)] for index in (pair.faiss, pair.opensearch)
        )
        if ours != theirs:
            continue  # another list in, another fusion out
        agreed += 1
        found = [index.hybrid(query.text, query.vector, K, query.filters, fusion) for index in (pair.faiss, pair.opensearch)]
        fused = [scored(candidates) for candidates in found]
        assert [item_id for item_id, _ in fused[0]] == [item_id for item_id, _ in fused[1]], query.text
        # BM25 is computed in floats, in OpenSearch 2 with a factor more
        assert [score for _, score in fused[0]] == pytest.approx([score for _, score in fused[1]], rel=1e-5, abs=1e-6)
        features = [feature_matrix(query.text, query.vector, candidates, NOW) for candidates in found]
        np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-6)  # a booster scores alike on either
    assert agreed >= QUERIES / 2
