"""How a lot stands in an index: the mapping, the document, and the bulk lines of an embedding part."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import shake_128
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.config.settings import ScoringParameters, scoring_parameters
from retrieval.contracts.items import Item, epoch_ms, item_text
from retrieval.errors import InvalidInput
from retrieval.index.fusion import RRF_RANK_CONSTANT, Fusion
from retrieval.index.port import Deletion, IndexedItem, Vector
from retrieval.text.analysis import ANALYSIS, UNSEEN_IN_WORDS, WORD_PATTERN
from retrieval.text.arabic import LETTERS

Engine = Literal["lucene", "faiss"]

VECTOR_FIELD = "embedding"
TEXT_FIELD = "text"
WORD_FIELDS = {"title": "title", "brand": "brand.words", "category": "category.words"}  # field of FieldBoosts -> its words
SPELLING_FIELD = "title.spelling"  # the words of titles with their endings, from which misspelt ones are put right
DEFAULT_LANGUAGE = "en"
STEMMERS = {"en": "porter2", "de": "german", "fr": "french", "es": "spanish"}  # language of Latin letters -> stemmer of OpenSearch
WORD_HEAD_CHARS = 8_000  # of a word that is indexed; Lucene refuses a lot with a word of more than 32,766 bytes
LISTED_CHARS = 400  # of a description in a list; the lot itself is asked for the whole
TIME_FIELDS = ("listed_at", "ends_at", "updated_at")
VECTOR_DECIMALS = 7  # of a float32 below 1, all that it can tell apart
# Lucene links equal vectors to each other alone, and a search that comes among them finds nothing else; a float32 score cannot tell
# vectors apart that are nearer than 5e-4 (docs/adr/0017-equal-vectors.md)
SPREAD_LENGTH = 3e-3
SPREAD_FIELD = "embedding_spread"  # of a stored document whose vector was moved so far
DELETED_FIELD = "deleted_at"  # of the document that stands for a withdrawn lot
EPOCH_MILLIS = {"type": "date", "format": "epoch_millis"}
DELETE_MEMORY = "1d"  # how long a node remembers a delete that somebody else sends; in memory, so until it restarts
SLOW_SEARCH, SLOW_WRITE = "500ms", "1s"  # of one shard, and of one lot; what takes longer goes to the slow log

# Ranks within a shard's list, not its scores, are what counts; the constant is OpenSearch's default in 2.19, where giving
# another has no effect (opensearch-project/neural-search#1370)
HYBRID_PIPELINE: dict[str, Any] = {
    "description": "Reciprocal rank fusion of the k-NN and BM25 lists",
    "phase_results_processors": [
        {"score-ranker-processor": {"combination": {"technique": "rrf", "rank_constant": RRF_RANK_CONSTANT}}}
    ],
}


def fusion_pipeline(fusion: Fusion) -> dict[str, Any]:
    """The search pipeline of one request, for a fusion of the sub-queries of hybrid_body(): k-NN, then keyword."""
    if fusion.kind == "rrf":
        return HYBRID_PIPELINE
    keyword, semantic = fusion.shares
    combination = {"technique": "arithmetic_mean", "parameters": {"weights": [semantic, keyword]}}
    processor = {"normalization": {"technique": fusion.kind}, "combination": combination}
    return {"phase_results_processors": [{"normalization-processor": processor}]}


def pipeline_name(alias: str) -> str:
    """Name of the search pipeline that hybrid queries of an alias pass through."""
    return f"{alias}-rrf"


def check_language(language: str) -> None:
    """Make sure that words of a language can be stemmed.

    Raises:
        InvalidInput: they cannot; the message lists what can.
    """
    if language not in STEMMERS:
        known = ", ".join(STEMMERS)
        raise InvalidInput(f"there is no stemmer for the language {language!r} of an index; known are {known} (Arabic is always)")


def index_body(
    tower_id: str,
    dimensions: int,
    *,
    engine: Engine = "lucene",
    shards: int = 1,
    replicas: int = 0,
    language: str = DEFAULT_LANGUAGE,
) -> dict[str, Any]:
    """Settings and mapping of the physical index.

    Args:
        tower_id: the one tower whose vectors the index may hold; kept in `_meta`.
        dimensions: length of the vectors.
        engine: k-NN engine; HNSW in cosine space either way.
        shards: primary shards.
        replicas: copies of each shard.
        language: by which words in Latin letters are stemmed, one of STEMMERS; words in Arabic letters are stemmed as Arabic.
    """
    return {
        "settings": _settings(shards, replicas, language, scoring_parameters()),
        "mappings": {
            "dynamic": False,
            "_meta": {"tower_id": tower_id, "dimensions": dimensions, "shards": shards, "analysis": ANALYSIS},
            "properties": {VECTOR_FIELD: _vector_field(dimensions, engine), **_lot_fields()},
        },
    }


def template_body(
    alias: str, *, shards: int = 1, replicas: int = 0, language: str = DEFAULT_LANGUAGE, numbers: ScoringParameters | None = None
) -> dict[str, Any]:
    """The index template of an alias: what an index is like that something else than create() makes.

    Such an index has the fields of a lot but for the vector, whose length no template can know, and guesses none from what is
    written to it; without a `_meta` it is never taken for the index of a tower.

    Args:
        alias: physical names begin with it.
        shards: primary shards.
        replicas: copies of each shard.
        language: as in index_body().
        numbers: of BM25; None takes those of this process.
    """
    return {
        "index_patterns": [f"{alias}-*"],
        "priority": 100,
        "template": {
            "settings": _settings(shards, replicas, language, numbers or scoring_parameters()),
            "mappings": {"dynamic": False, "properties": _lot_fields()},
        },
    }


def _settings(shards: int, replicas: int, language: str, numbers: ScoringParameters) -> dict[str, Any]:
    slow = {
        "search.slowlog.threshold.query.warn": SLOW_SEARCH,
        "search.slowlog.threshold.fetch.warn": SLOW_SEARCH,
        "indexing.slowlog.threshold.index.warn": SLOW_WRITE,
        "indexing.slowlog.source": False,  # the lot's id is enough
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
    """Return the analysis settings: of texts in NFC the same words, endings and lengths as text.words() and the embedded index.

    Each stemmer leaves the letters of the other's script alone.
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


def _lot_fields() -> dict[str, Any]:
    """The fields of document_of()."""
    text = {"type": "text", "analyzer": "item_text"}
    keyword = {"type": "keyword", "normalizer": "lowercase"}
    named = {**keyword, "fields": {"words": text}}
    exact = {"type": "keyword"}
    return {
        TEXT_FIELD: text,
        "title": {**text, "fields": {"spelling": {"type": "text", "analyzer": "spelling"}}},
        "item_id": exact,
        "category": named,
        "brand": named,
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


def document_of(item: Item, *, has_image: bool, tower_id: str, release_id: str) -> dict[str, Any]:
    """The document of a lot: its fields with times in epoch milliseconds, its search text, and where its vector is from."""
    fields = {name: value for name, value in asdict(item).items() if value not in (None, "")}
    times: dict[str, Any] = {name: epoch_ms(fields[name]) for name in TIME_FIELDS if name in fields}
    return {
        **fields,
        **times,
        TEXT_FIELD: item_text(item.title, item.description),
        "has_image": has_image,
        "tower_id": tower_id,
        "release_id": release_id,
    }


def bulk_lines(entry: IndexedItem | Deletion, *, spread: bool = False) -> Iterator[str]:
    """The lines of one lot in an embedding part, as OpenSearch's `_bulk` takes them; without an index name.

    Args:
        entry: a lot or a tombstone.
        spread: move the vector a little, each item's in a direction of its own, for the graph of an index; pop_vector() undoes it.
    """
    if isinstance(entry, Deletion):
        yield json.dumps({"delete": _action_of(entry)})
        return
    yield json.dumps({"index": _action_of(entry)})
    source = {**entry.document, VECTOR_FIELD: vector_to_json(entry.vector)}
    if spread:
        moved = np.asarray(source[VECTOR_FIELD]) + _offsets(entry.item_id, len(entry.vector))
        source |= {VECTOR_FIELD: vector_to_json(moved), SPREAD_FIELD: True}
    yield json.dumps(source, ensure_ascii=False)


def deletion_lines(entry: Deletion, moment: datetime) -> Iterator[str]:
    """Write a withdrawn lot as a document, by which OpenSearch knows that an older event comes too late.

    A server remembers the version of a delete in memory alone. This document outlives a restart. No search finds it: it has
    neither words nor a vector, and it ended in 1970.
    """
    yield json.dumps({"index": _action_of(entry)})
    yield json.dumps({"item_id": entry.item_id, "ends_at": 0, DELETED_FIELD: epoch_ms(moment)})


def _action_of(entry: IndexedItem | Deletion) -> dict[str, Any]:
    return {"_id": entry.item_id, "version": entry.version, "version_type": "external_gte"}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of an embedding part that is not what bulk_lines() writes.

    Attributes:
        item_id: the lot that it is about; empty where no one can say.
        reason: what is wrong, with the number of the line.
    """

    item_id: str
    reason: str


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InvalidInput)


def parse_bulk_lines(lines: Iterable[str | bytes]) -> Iterator[IndexedItem | Deletion | BadLine]:
    """Read the lines of an embedding part; a bad line costs its own lot alone, and blank ones are passed over.

    An action names itself: it is an object of one key that holds an object. So reading goes on at the next action, whatever
    stands before it, and what follows a damaged action is taken for its document.
    """
    group: list[tuple[int, Any]] = []  # an action and its document, each with its line number
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        values = _parsed(line)
        if group and (_is_action(values) or len(group) == 2 or _is_action(group[0][1], "delete")):
            yield _read_entry(group)
            group = []
        group.append((number, values))
    if group:
        yield _read_entry(group)


def _parsed(line: str | bytes) -> Any:
    """Parse a line; return the error itself if it is no JSON."""
    try:
        return json.loads(line.decode() if isinstance(line, bytes) else line)
    except UNREADABLE as error:
        return error


def _is_action(values: Any, verb: str = "") -> bool:
    """True for {verb: {...}}, of any verb if none is given."""
    return isinstance(values, dict) and len(values) == 1 and all(isinstance(v, dict) and verb in ("", k) for k, v in values.items())


def _read_entry(group: Sequence[tuple[int, Any]]) -> IndexedItem | Deletion | BadLine:
    (number, action), *documents = group
    item_id = ""
    try:
        if not _is_action(action):
            item_id = _text_of(documents[0][1], "item_id") if documents else ""
            raise action if isinstance(action, Exception) else InvalidInput("an action was expected")
        ((verb, target),) = action.items()
        item_id = _text_of(target, "_id")
        version = _version_of(target)
        if verb == "delete":
            return Deletion(item_id, version)
        if verb != "index" or not documents:
            raise InvalidInput(f"the action {verb!r} is unknown" if verb != "index" else "its document is missing")
        ((number, document),) = documents
        if isinstance(document, Exception):
            raise document
        vector = vector_from_json(document.pop(VECTOR_FIELD))
        if not _text_of(document, "tower_id"):
            raise InvalidInput("the document does not say which tower its vector is of")
        return IndexedItem(item_id, version, document, vector)
    except UNREADABLE as error:
        return BadLine(item_id, f"line {number} is not a bulk line of an embedding part: {error!r}")


def _text_of(values: Any, name: str) -> str:
    """Return a text field of an object; empty if there is none."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, str) else ""


def _version_of(action: Mapping[str, Any]) -> int:
    item_id, version = action["_id"], action["version"]
    if not isinstance(item_id, str) or type(version) is not int or version < 0:
        raise InvalidInput(f"_id must be text and version a whole number from 0, not {item_id!r} and {version!r}")
    return version


def vector_to_json(vector: Vector | NDArray[np.float64]) -> list[float]:
    """The vector as JSON numbers of at most 7 decimals, which every engine reads as the same float32."""
    rounded: list[float] = np.round(vector.astype(np.float64), VECTOR_DECIMALS).tolist()
    return rounded


def pop_vector(item_id: str, document: dict[str, Any]) -> Vector:
    """Take the vector out of a stored document, as it was before bulk_lines() spread it."""
    numbers = document.pop(VECTOR_FIELD)
    if not document.pop(SPREAD_FIELD, False):
        return vector_from_json(numbers)
    return vector_from_json(np.round(np.asarray(numbers, dtype=np.float64) - _offsets(item_id, len(numbers)), VECTOR_DECIMALS))


def _offsets(item_id: str, dimensions: int) -> NDArray[np.float64]:
    """(dimensions,) float64 of length SPREAD_LENGTH in a direction that the id gives, in whole units of the last decimal."""
    digest = shake_128(item_id.encode(errors="surrogatepass")).digest(dimensions)
    signs = 1.0 - 2.0 * (np.frombuffer(digest, dtype=np.uint8) & 1).astype(np.float64)
    return signs * round(SPREAD_LENGTH / math.sqrt(dimensions), VECTOR_DECIMALS)


def vector_from_json(numbers: Any) -> Vector:
    """Read vector_to_json()'s numbers back.

    Raises:
        InvalidInput: not a flat list of finite numbers.
    """
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        vector = np.asarray(numbers, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise InvalidInput("the embedding is not a flat list of finite numbers")
    return vector


def visible_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a document that a buyer may see."""
    hidden = (TEXT_FIELD, VECTOR_FIELD, "tower_id", "release_id")
    return {name: value for name, value in document.items() if name not in hidden}


def listed_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a lot in a list: visible_fields(), a long description cut at a word, `description_cut` to say so."""
    shown = visible_fields(document)
    description = str(shown.get("description", ""))
    if len(description) > LISTED_CHARS:
        head = description[:LISTED_CHARS]
        if not (head[-1].isspace() or description[LISTED_CHARS].isspace()):
            whole_words = head.rsplit(maxsplit=1)[0]
            head = whole_words if len(whole_words) > LISTED_CHARS / 2 else head  # a script without spaces is cut anywhere
        shown |= {"description": head.rstrip(), "description_cut": True}
    return shown
