"""Search one embedded index: SQLite stores the items, FAISS and inverted lists follow it (docs/adr/0002-embedded-index.md)."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.contracts.item_states import ItemState, StateOutcome, StateUpdate
from retrieval.contracts.items import epoch_ms
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.ann.automatic import AutomaticIndex
from retrieval.index.embedded.database import NO_COMMIT, CommitSeq, ItemDatabase, StoredItem, damaged
from retrieval.index.embedded.follower import enough_memory
from retrieval.index.embedded.keywords import KeywordFollower
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.states import STATES_FILE, StateDatabase
from retrieval.index.embedded.title_terms import TitleFollower, corrections
from retrieval.index.embedded.top_k import Hit, Ranking, top_k, top_k_field, top_k_keyword, top_k_vectors
from retrieval.index.embedded.vectors import VectorFollower, VectorView
from retrieval.index.filters import Filter, matches, utc_now
from retrieval.index.fusion import Fusion, fuse
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.port import Candidate, TopField
from retrieval.index.ranking import add_ranks, cosines_with, scores_of
from retrieval.index.validation import batches, entry_chars
from retrieval.text.languages import DEFAULT_LANGUAGE, check_language
from retrieval.text.stemming import has_same_stem

logger = logging.getLogger(__name__)

LOTS_FILE = "lots.sqlite"
LANGUAGE_FILE = "language.txt"  # language of an index of an older version, whose database stores none; English if it is missing
EXACT_BELOW = 1_000
ENTRIES_PER_COMMIT = 1_000
ATTEMPTS = 12  # a search is repeated so often if writers replace its results before their documents are read


@dataclass(frozen=True, slots=True)
class VectorIndexInfo:
    """A description of a vector index.

    Attributes:
        spec: its spec, with the number of lists of the last training.
        reason: reason for its index type.
        vectors: number of its vectors, with deleted ones.
        trained: True if searches use the index type; False while there are too few vectors to train it, and all are compared.
        index_bytes: bytes of the index, by formula.
    """

    spec: str
    reason: str
    vectors: int
    trained: bool
    index_bytes: int


class EmbeddedIndex:
    """One physical index in a folder. Threads may share it. Other processes may read it, and write while no other one does.

    Args:
        folder: folder that create() filled; its name is the name of the index.
        exact_below: if at most so many items match the filters, all are compared (see AnnIndex.nearest); 0 never prefers that.
        spec: spec of the vector index, or the rules that choose it; None takes an HNSW graph with this process's scoring
            parameters.
        tuning: boosts of keyword searches and fusion of hybrid searches; None takes the defaults.
        states: file of the states of items, which several indices may share; None takes a file in the folder.

    Raises:
        InvalidInput: the parameters of the spec do not suit the vectors.
        IndexUnavailable: the database is missing or damaged.

    Attributes:
        language: language by which words in Latin letters are stemmed.
        closed: True after close().
    """

    def __init__(
        self,
        folder: Path,
        exact_below: int = EXACT_BELOW,
        spec: IndexSpec | AutomaticIndex | None = None,
        tuning: Tuning | None = None,
        states: Path | None = None,
    ) -> None:
        self._folder = folder
        self._exact_below = exact_below
        self._tuning = tuning or Tuning()
        self._database = ItemDatabase(folder / LOTS_FILE)
        self.language = self._database.language or _read_language(folder / LANGUAGE_FILE)
        self._states = StateDatabase(states or folder / STATES_FILE)
        self._vectors = VectorFollower(self._database, spec or embedded_spec(), self._states)
        boosts, live_rows = self._tuning.boosts, self._vectors.live_rows
        self._keywords = KeywordFollower(self._database, folder, boosts, self.language, live_rows)
        self._titles = TitleFollower(self._database, folder)
        self._min_commit = CommitSeq(0)  # commit that every search must include
        self.closed = False

    @classmethod
    def create(cls, folder: Path, tower_id: str, dimensions: int, language: str = DEFAULT_LANGUAGE) -> None:
        """Create an empty index.

        Args:
            folder: new, empty folder.
            tower_id: id of the tower of the vectors.
            dimensions: length of the vectors.
            language: language of words in Latin letters.
        """
        (folder / LANGUAGE_FILE).write_text(language)  # for older versions of Gavel, which read the language here
        ItemDatabase.create(folder / LOTS_FILE, tower_id, dimensions, language)

    @property
    def name(self) -> str:
        """Return the physical name, <alias>-<tower_id>-<UTC stamp>."""
        return self._folder.name

    @property
    def tower_id(self) -> str:
        """Return the id of the tower that encoded the vectors."""
        return self._database.tower_id

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""
        return self._database.dimensions

    @property
    def rebuilding_vectors(self) -> bool:
        """True while new items are merged into the vector index, or it is built again."""
        return self._vectors.rebuilding

    @property
    def rebuilding_keywords(self) -> bool:
        """True while new items are merged into the inverted lists."""
        return self._keywords.rebuilding

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of items, ended ones included; with filters, the number of items that match."""
        with enough_memory(self.name):
            if filters is None:
                return self._database.count()
            view = self._current_vectors()
            with view.lock.reading():
                return int(np.count_nonzero(view.columns.matches(filters)))

    def damaged(self) -> int:
        """Return the number of items that are left out because their rows are damaged."""
        return self._database.damaged_count()

    def newest_update(self) -> int | None:
        """Return the latest `updated_at` of an item, in ms since 1970; None if no item has one."""
        return self._database.newest_update()

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again."""
        with enough_memory(self.name):
            return self._database.deletions()

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write items and apply deletions, in order, in transactions of at most 1,000; acknowledged writes are durable."""
        report = UpsertReport()
        with enough_memory(self.name):
            for batch in batches(entries, ENTRIES_PER_COMMIT, entry_chars):
                report += self._database.write(batch, overwrite=overwrite)
        return report

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        self._min_commit = self._database.commit_seq()
        self._current_vectors()
        try:
            self._vectors.rebuild_if_due(self._min_commit)
        except IndexUnavailable as error:
            logger.warning("%s: %s; the new lots are searched beside the others", self.name, error)

    def prepare(self) -> None:
        """Build and save everything that a first search needs."""
        self.refresh()
        with enough_memory(self.name):
            for follower in (self._vectors, self._keywords, self._titles):
                follower.rebuild(self._min_commit)
        self._database.seal()

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """Return the items with the highest cosine to `vector`; exact=True compares with every matching item."""
        self._check_vector(vector)
        results = self._answer(filters, lambda: self._rank_vectors(vector, k, filters, exact))
        return add_ranks(results, semantic=results)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest tuned BM25 score for `text`; items that share no word with it are left out."""
        results = self._answer(filters, lambda: self._rank_keywords(text, k, filters))
        return add_ranks(results, keyword=results)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """Return the k best of the fused lists of semantic() and keyword(); fusion=None takes the tuned fusion."""
        self._check_vector(vector)
        lists: tuple[Ranking, Ranking] = ((), ())

        def rank() -> Ranking:
            nonlocal lists
            keyword, semantic = lists = self._rank_keywords(text, k, filters), self._rank_vectors(vector, k, filters, exact=False)
            row_ids = {hit.item_id: hit.row_id for hit in (*keyword, *semantic)}
            best = fuse(scores_of(keyword), scores_of(semantic), fusion or self._tuning.fusion)[: max(k, 0)]
            return [Hit(row_ids[item_id], item_id, score) for item_id, score in best]

        results = self._answer(filters, rank)
        return add_ranks(results, semantic=lists[1], keyword=lists[0])

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the highest values of a field; items without the field are left out."""
        return self._answer(filters, lambda: self._rank_field(field, k, filters))

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """Return misspelt word -> the most similar word of a title, for words in lower case that no item has."""
        return corrections(self.near_titles(words))

    def near_titles(self, words: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return word -> {similar title word: number of titles with it}, for the words that occur in no item."""
        with enough_memory(self.name):
            vectors = self._current_vectors()
            keywords = self._keywords.current(self._min_commit)
            unknown = [word for word in words if not keywords.contains(word)]
            if not unknown:
                return {}
            with vectors.lock.reading():
                labels = vectors.columns.labels
            titles = self._titles.current(NO_COMMIT)  # any commit, because corrections need not be up to date
            in_labels = {word for word in unknown for label in labels if has_same_stem(word, label, self.language)}
            return {word: titles.near(word) for word in unknown if word not in in_labels}

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return the items of these ids in the order of the ids; unknown ids are left out, ended items are not."""
        with enough_memory(self.name):
            items = self._database.by_item_id(list(dict.fromkeys(item_ids)))
            documents = self._with_states(items.values())
            return [Candidate(i, 0.0, documents[i], items[i].vector) for i in item_ids if i in items]

    def update_states(self, updates: Sequence[StateUpdate]) -> list[StateOutcome]:
        """Carry out updates of states, in order; acknowledged updates are durable, and the next search uses them."""
        with enough_memory(self.name):
            outcomes = self._states.write(updates, epoch_ms(utc_now()))
            known = self.known([outcome.item_id for outcome in outcomes])
        return [one if one.item_id in known else StateOutcome(one.item_id, "unknown") for one in outcomes]

    def states(self, item_ids: Sequence[str]) -> dict[str, ItemState]:
        """Return item_id -> state of these items; items without a state are left out."""
        return self._states.of_items(item_ids)

    def state_stamp(self, filters: Filter) -> int:
        """Return a number that changes when an update of a state may have made an item match the filters."""
        return self._states.stamp(filters)

    def known(self, item_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that an item has."""
        return self._database.known(item_ids)

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """Return at most `count` stored (D,) vectors of random matching items; the same ones for the same seed."""
        view = self._current_vectors()
        with enough_memory(self.name), view.lock.reading():
            vector_ids = np.flatnonzero(view.columns.matches(filters))
            sampled = np.random.default_rng(seed).choice(vector_ids, min(count, len(vector_ids)), replace=False)
            return list(view.vectors.take(sampled))

    def describe_vectors(self) -> list[VectorIndexInfo]:
        """Return a description of the vector index, as the only element."""
        view = self._current_vectors()
        with view.lock.reading():
            main, choice = view.vectors.main, self._vectors.choice
            reason = choice.reason if choice else "GAVEL_EMBEDDED_INDEX names it"
            size = main.spec.index_bytes(max(len(view.vectors), 1), self.dimensions)
            return [VectorIndexInfo(str(main.spec), reason, len(view.vectors), main.is_trained, size)]

    def within(self, seconds: float) -> "EmbeddedIndex":
        """Return this index without a time limit, because an embedded search cannot be cancelled."""
        return self

    def close(self) -> None:
        """Save the parts that the next start would have to build again, and close the database."""
        if self.closed:
            return
        self.closed = True
        for follower in (self._keywords, self._titles, self._vectors):
            follower.close()
        self._database.close()
        self._states.close()

    def _rank_vectors(self, vector: Vector, k: int, filters: Filter, exact: bool) -> Ranking:
        if k <= 0:
            return []
        query = _unit(vector)
        view = self._current_vectors()
        with view.lock.reading():
            columns, vectors = view.columns, view.vectors
            mask = columns.matches(filters)
            if not mask.any():
                return []
            nearest = vectors.exact(query, k, mask) if exact else vectors.nearest(query, k, mask, self._exact_below)
            return top_k_vectors(nearest, cosines_with(vector, vectors.take(nearest)), columns, k)

    def _rank_keywords(self, text: str, k: int, filters: Filter) -> Ranking:
        if k <= 0:
            return []
        min_commit, settled = self._min_commit, False
        while True:
            vectors = self._vectors.current(min_commit)  # before the keywords, because its columns tell which items are deleted
            keywords = self._keywords.current(min_commit)
            with vectors.lock.reading():
                columns = vectors.columns
                if settled or not len(columns) or columns.row_ids[-1] <= keywords.last_row_id:
                    segments = keywords.scores(text)
                    return top_k((hit for segment in segments for hit in top_k_keyword(*segment, columns, filters, k)), k)
            # The columns are newer than the inverted lists, so the old words of a replaced item would be lost: try again. If no
            # commit came meanwhile, only deleted items make the difference, and the lists are used
            newest = self._database.commit_seq()
            settled, min_commit = newest == min_commit, newest

    def _rank_field(self, field: TopField, k: int, filters: Filter) -> Ranking:
        if k <= 0:
            return []
        view = self._current_vectors()
        with view.lock.reading():
            return top_k_field(view.columns, field, filters, k)

    def _answer(self, filters: Filter, search: Callable[[], Ranking]) -> list[Candidate]:
        """Return the items of a ranking with their documents.

        Search again if, in between, a writer replaced an item, or a new state made it match no longer.
        """
        candidates: list[Candidate] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                self._min_commit = self._database.commit_seq()
            with enough_memory(self.name):
                hits = search()
                items = self._database.by_row_id([hit.row_id for hit in hits])
            if damaged_ids := [hit.item_id for hit in hits if hit.row_id in self._database.damaged]:
                view = self._current_vectors()
                with view.lock.writing():  # otherwise damaged items would take the ranks of others in every search
                    for item_id in damaged_ids:
                        view.columns.delete(item_id)
            stored = [(hit, items[hit.row_id]) for hit in hits if hit.row_id in items]
            documents = self._with_states([item for _, item in stored])
            candidates = [
                Candidate(hit.item_id, hit.score, document, item.vector)
                for hit, item in stored
                if (document := documents[hit.item_id]) is item.document or matches(filters, document)
            ]
            if len(candidates) == len(hits):
                break
        return candidates

    def _with_states(self, items: Iterable[StoredItem]) -> dict[str, dict[str, Any]]:
        """Return item_id -> document with the item's state."""
        stored = {item.item_id: item for item in items}
        states = self._states.of_items(stored)
        return {
            item_id: states[item_id].over(item.document, item.version) if item_id in states else item.document
            for item_id, item in stored.items()
        }

    def _current_vectors(self) -> VectorView:
        with enough_memory(self.name):
            return self._vectors.current(self._min_commit)

    def _check_vector(self, vector: Vector) -> None:
        if vector.shape != (self.dimensions,) or not np.isfinite(vector).all():
            raise InvalidInput(f"the query vector must be {self.dimensions} finite numbers; it has shape {vector.shape}")


def _read_language(path: Path) -> str:
    try:
        language = path.read_text().strip()
        check_language(language)
    except FileNotFoundError:
        return DEFAULT_LANGUAGE
    except (OSError, ValueError, InvalidInput) as error:
        raise damaged(path, error) from error
    return language


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    scaled: Vector = (vector / max(length, 1e-12)).astype(np.float32)
    return scaled
