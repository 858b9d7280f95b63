"""Settings and mapping of an OpenSearch index, its analyzers, and its fusion pipelines."""

from typing import Any, Literal

from retrieval.config.settings import ScoringParameters, scoring_parameters
from retrieval.contracts.attributes import ATTRIBUTE_TERMS_FIELD, ATTRIBUTE_TEXT_FIELD, ATTRIBUTES_FIELD
from retrieval.contracts.documents import DELETED_FIELD, TEXT_FIELD, TIME_FIELDS, VECTOR_FIELD
from retrieval.index.fusion import RRF_RANK_CONSTANT, Fusion
from retrieval.index.hybrid_tuning import DEFAULT_BOOSTS, FieldBoosts
from retrieval.text.analysis import ANALYSIS, UNSEEN_IN_WORDS, WORD_PATTERN
from retrieval.text.arabic import LETTERS
from retrieval.text.languages import DEFAULT_LANGUAGE

Engine = Literal["lucene", "faiss"]

# name in FieldBoosts -> field of words
WORD_FIELDS = {"title": "title", "brand": "brand.words", "category": "category.words", "attributes": ATTRIBUTE_TEXT_FIELD}

ATTRIBUTES_META = "attributes"  # key in `_meta` with the parameters of attributes; older indices lack it

ATTRIBUTES_SIMILARITY = "attributes"  # name of the similarity of ATTRIBUTE_TEXT_FIELD

SPELLING_FIELD = "title.spelling"  # field of unstemmed words of titles, for corrections

STEMMERS = {"en": "porter2", "de": "german", "fr": "french", "es": "spanish"}  # language -> OpenSearch's stemmer of Latin letters

WORD_HEAD_CHARS = 8_000  # longer words are cut, because Lucene rejects an item with a word of more than 32,766 bytes

EPOCH_MILLIS = {"type": "date", "format": "epoch_millis"}

DELETE_MEMORY = "1d"  # time that a node remembers the version of a delete, in memory, so at most until it restarts

SLOW_SEARCH, SLOW_WRITE = "500ms", "1s"  # slower searches of a shard, and slower writes of an item, go to the slow log

# The fusion uses ranks within a shard's list, not scores. The constant is OpenSearch's default in 2.19, where other values
# have no effect (opensearch-project/neural-search#1370)
HYBRID_PIPELINE: dict[str, Any] = {
    "description": "Reciprocal rank fusion of the k-NN and BM25 lists",
    "phase_results_processors": [
        {"score-ranker-processor": {"combination": {"technique": "rrf", "rank_constant": RRF_RANK_CONSTANT}}}
    ],
}


def fusion_pipeline(fusion: Fusion) -> dict[str, Any]:
    """Return the search pipeline that fuses the sub-queries of hybrid_body(), which are k-NN and keyword, in this order."""
    if fusion.kind == "rrf":
        return HYBRID_PIPELINE
    keyword, semantic = fusion.normalised_weights
    combination = {"technique": "arithmetic_mean", "parameters": {"weights": [semantic, keyword]}}
    processor = {"normalization": {"technique": fusion.kind}, "combination": combination}
    return {"phase_results_processors": [{"normalization-processor": processor}]}


def pipeline_name(alias: str) -> str:
    """Return the name of an alias's search pipeline for hybrid queries."""
    return f"{alias}-rrf"


def index_body(
    tower_id: str,
    dimensions: int,
    *,
    engine: Engine = "lucene",
    shards: int = 1,
    replicas: int = 0,
    language: str = DEFAULT_LANGUAGE,
    boosts: FieldBoosts = DEFAULT_BOOSTS,
    scaled_bm25: bool = False,
) -> dict[str, Any]:
    """Return the settings and mapping of a physical index.

    Args:
        tower_id: id of the tower of all vectors; stored in `_meta`.
        dimensions: length of the vectors.
        engine: k-NN engine; both use HNSW in cosine space.
        shards: number of primary shards.
        replicas: number of copies per shard.
        language: language of words in Latin letters, a key of STEMMERS; words in Arabic letters are stemmed as Arabic.
        boosts: tuning with the BM25 parameters of attributes.
        scaled_bm25: True for a server whose BM25 has the factor k1 + 1, as that of OpenSearch 2 has.
    """
    numbers = scoring_parameters()
    scale = (numbers.bm25_k1 + 1) / (boosts.attributes_k1 + 1) if scaled_bm25 else 1.0
    of_attributes = {"k1": boosts.attributes_k1, "b": boosts.attributes_b, "scale": scale}
    meta = {"tower_id": tower_id, "dimensions": dimensions, "shards": shards, "analysis": ANALYSIS}
    return {
        "settings": _settings(shards, replicas, language, numbers, boosts),
        "mappings": {
            "dynamic": False,
            "_meta": {**meta, ATTRIBUTES_META: of_attributes},
            "properties": {VECTOR_FIELD: _vector_field(dimensions, engine), **_item_fields()},
        },
    }


def template_body(
    alias: str, *, shards: int = 1, replicas: int = 0, language: str = DEFAULT_LANGUAGE, numbers: ScoringParameters | None = None
) -> dict[str, Any]:
    """Return the index template of an alias, for indices that are not created by create().

    Such an index has the fields of an item without the vector, because a template does not know the length of vectors. No fields
    are inferred from documents. The index never counts as that of a tower, because it has no `_meta`.

    Args:
        alias: alias, with which physical names begin.
        shards: number of primary shards.
        replicas: number of copies per shard.
        language: language of words in Latin letters, a key of STEMMERS.
        numbers: scoring parameters, whose BM25 parameters are used; None takes those of this process.
    """
    return {
        "index_patterns": [f"{alias}-*"],
        "priority": 100,
        "template": {
            "settings": _settings(shards, replicas, language, numbers or scoring_parameters(), DEFAULT_BOOSTS),
            "mappings": {"dynamic": False, "properties": _item_fields()},
        },
    }


def _settings(shards: int, replicas: int, language: str, numbers: ScoringParameters, boosts: FieldBoosts) -> dict[str, Any]:
    slow = {
        "search.slowlog.threshold.query.warn": SLOW_SEARCH,
        "search.slowlog.threshold.fetch.warn": SLOW_SEARCH,
        "indexing.slowlog.threshold.index.warn": SLOW_WRITE,
        "indexing.slowlog.source": False,  # log no document, because the item's id is enough
    }
    return {
        "index": {
            "knn": True,
            "number_of_shards": shards,
            "number_of_replicas": replicas,
            "gc_deletes": DELETE_MEMORY,
            "similarity": {
                "default": {"type": "BM25", "k1": numbers.bm25_k1, "b": numbers.bm25_b},
                ATTRIBUTES_SIMILARITY: {"type": "BM25", "k1": boosts.attributes_k1, "b": boosts.attributes_b},
            },
            **slow,
        },
        "analysis": _analysis(language),
    }


def _analysis(language: str) -> dict[str, Any]:
    """Return the analysis settings. For texts in NFC, they give the same words and lengths as the embedded index.

    Both stemmers run on every word, because each ignores the letters of the other script.
    """
    cut = {"type": "custom", "tokenizer": "word", "char_filter": ["unseen", "arabic_letters"]}
    return {
        "normalizer": {"lowercase": {"type": "custom", "char_filter": ["unseen"], "filter": ["lowercase"]}},  # text.fold_label()
        "char_filter": {
            "unseen": {"type": "pattern_replace", "pattern": UNSEEN_IN_WORDS, "replacement": ""},
            "arabic_letters": {"type": "mapping", "mappings": [f"{_escaped(a)}=>{_escaped(b)}" for a, b in LETTERS.items()]},
        },
        "filter": {
            "latin_stemmer": {"type": "stemmer", "language": STEMMERS[language]},
            "arabic_stemmer": {"type": "stemmer", "language": "arabic"},
            "word_head": {"type": "truncate", "length": WORD_HEAD_CHARS},
        },
        "analyzer": {
            "item_text": {**cut, "filter": ["lowercase", "latin_stemmer", "arabic_stemmer", "word_head"]},
            "spelling": {**cut, "filter": ["lowercase", "word_head"]},
        },
        "tokenizer": {"word": {"type": "pattern", "pattern": WORD_PATTERN, "group": 0}},
    }


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def _vector_field(dimensions: int, engine: Engine) -> dict[str, Any]:
    method = {
        "name": "hnsw",
        "engine": engine,
        "space_type": "cosinesimil",
        "parameters": {"m": scoring_parameters().hnsw_m, "ef_construction": scoring_parameters().hnsw_ef_construction},
    }
    return {"type": "knn_vector", "dimension": dimensions, "method": method}


def _item_fields() -> dict[str, Any]:
    """Return the mapping of the fields of document_of(), and of DELETED_FIELD."""
    text = {"type": "text", "analyzer": "item_text"}
    keyword = {"type": "keyword", "normalizer": "lowercase"}
    label = {**keyword, "fields": {"words": text}}
    exact = {"type": "keyword"}
    return {
        TEXT_FIELD: text,
        "title": {**text, "fields": {"spelling": {"type": "text", "analyzer": "spelling"}}},
        "item_id": exact,
        "category": label,
        "brand": label,
        "current_price": {"type": "float"},
        "bid_count": {"type": "integer"},
        "seller_rating": {"type": "float"},
        "seller": exact,
        ATTRIBUTES_FIELD: {"type": "object", "enabled": False},  # stored alone
        ATTRIBUTE_TEXT_FIELD: {**text, "similarity": ATTRIBUTES_SIMILARITY},
        ATTRIBUTE_TERMS_FIELD: exact,
        **dict.fromkeys(TIME_FIELDS, EPOCH_MILLIS),
        "has_image": {"type": "boolean"},
        "tower_id": exact,
        "release_id": exact,
        DELETED_FIELD: EPOCH_MILLIS,
    }
