"""Settings and mapping of an OpenSearch index, its analyzers, and its fusion pipelines."""

from typing import Any, Literal

from retrieval.config.settings import ScoringParameters, scoring_parameters
from retrieval.contracts.documents import DELETED_FIELD, TEXT_FIELD, TIME_FIELDS, VECTOR_FIELD
from retrieval.index.fusion import RRF_RANK_CONSTANT, Fusion
from retrieval.text.analysis import ANALYSIS, UNSEEN_IN_WORDS, WORD_PATTERN
from retrieval.text.arabic import LETTERS
from retrieval.text.languages import DEFAULT_LANGUAGE

Engine = Literal["lucene", "faiss"]

WORD_FIELDS = {"title": "title", "brand": "brand.words", "category": "category.words"}  # field of FieldBoosts -> its words

SPELLING_FIELD = "title.spelling"  # the words of titles with their endings, for corrections

STEMMERS = {"en": "porter2", "de": "german", "fr": "french", "es": "spanish"}  # language of Latin letters -> stemmer of OpenSearch

WORD_HEAD_CHARS = 8_000  # of an indexed word; Lucene refuses an item with a word of more than 32,766 bytes

EPOCH_MILLIS = {"type": "date", "format": "epoch_millis"}

DELETE_MEMORY = "1d"  # how long a node remembers a delete; only in memory, so at most until it restarts

SLOW_SEARCH, SLOW_WRITE = "500ms", "1s"  # of one shard, and of one item; slower ones go to the slow log

# It uses ranks within a shard's list, not scores. The constant is OpenSearch's default in 2.19, where another one
# has no effect (opensearch-project/neural-search#1370)
HYBRID_PIPELINE: dict[str, Any] = {
    "description": "Reciprocal rank fusion of the k-NN and BM25 lists",
    "phase_results_processors": [
        {"score-ranker-processor": {"combination": {"technique": "rrf", "rank_constant": RRF_RANK_CONSTANT}}}
    ],
}


def fusion_pipeline(fusion: Fusion) -> dict[str, Any]:
    """Return the search pipeline of a request that fuses the sub-queries of hybrid_body(): k-NN, then keyword."""
    if fusion.kind == "rrf":
        return HYBRID_PIPELINE
    keyword, semantic = fusion.normalised_weights
    combination = {"technique": "arithmetic_mean", "parameters": {"weights": [semantic, keyword]}}
    processor = {"normalization": {"technique": fusion.kind}, "combination": combination}
    return {"phase_results_processors": [{"normalization-processor": processor}]}


def pipeline_name(alias: str) -> str:
    """Return the name of the search pipeline for hybrid queries of an alias."""
    return f"{alias}-rrf"


def index_body(
    tower_id: str,
    dimensions: int,
    *,
    engine: Engine = "lucene",
    shards: int = 1,
    replicas: int = 0,
    language: str = DEFAULT_LANGUAGE,
) -> dict[str, Any]:
    """Return the settings and mapping of a physical index.

    Args:
        tower_id: the only tower of its vectors; stored in `_meta`.
        dimensions: length of the vectors.
        engine: k-NN engine; HNSW in cosine space either way.
        shards: primary shards.
        replicas: copies of each shard.
        language: of the stemmer for words in Latin letters, one of STEMMERS; words in Arabic letters are stemmed as Arabic.
    """
    return {
        "settings": _settings(shards, replicas, language, scoring_parameters()),
        "mappings": {
            "dynamic": False,
            "_meta": {"tower_id": tower_id, "dimensions": dimensions, "shards": shards, "analysis": ANALYSIS},
            "properties": {VECTOR_FIELD: _vector_field(dimensions, engine), **_item_fields()},
        },
    }


def template_body(
    alias: str, *, shards: int = 1, replicas: int = 0, language: str = DEFAULT_LANGUAGE, numbers: ScoringParameters | None = None
) -> dict[str, Any]:
    """Return the index template of an alias, for indices that are not created by create().

    Such an index has the fields of an item without the vector, because a template cannot know its length. It infers no fields
    from documents. Without a `_meta` it never counts as the index of a tower.

    Args:
        alias: physical names begin with it.
        shards: primary shards.
        replicas: copies of each shard.
        language: as in index_body().
        numbers: for BM25; None takes those of this process.
    """
    return {
        "index_patterns": [f"{alias}-*"],
        "priority": 100,
        "template": {
            "settings": _settings(shards, replicas, language, numbers or scoring_parameters()),
            "mappings": {"dynamic": False, "properties": _item_fields()},
        },
    }


def _settings(shards: int, replicas: int, language: str, numbers: ScoringParameters) -> dict[str, Any]:
    slow = {
        "search.slowlog.threshold.query.warn": SLOW_SEARCH,
        "search.slowlog.threshold.fetch.warn": SLOW_SEARCH,
        "indexing.slowlog.threshold.index.warn": SLOW_WRITE,
        "indexing.slowlog.source": False,  # the item's id is enough
    }
    return {
        "index": {
            "knn": True,
            "number_of_shards": shards,
            "number_of_replicas": replicas,
            "gc_deletes": DELETE_MEMORY,
            "similarity": {"default": {"type": "BM25", "k1": numbers.bm25_k1, "b": numbers.bm25_b}},
            **slow,
        },
        "analysis": _analysis(language),
    }


def _analysis(language: str) -> dict[str, Any]:
    """Return the analysis settings, with the same words and lengths for NFC texts as text.words() and the embedded index.

    Each stemmer ignores the letters of the other script.
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
    """Return the fields of document_of()."""
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
        **dict.fromkeys(TIME_FIELDS, EPOCH_MILLIS),
        "has_image": {"type": "boolean"},
        "tower_id": exact,
        "release_id": exact,
        DELETED_FIELD: EPOCH_MILLIS,
    }
