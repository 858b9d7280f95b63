"""Search one embedded index: SQLite is the truth, FAISS and inverted lists follow it (docs/adr/0002-embedded-index.md)."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.embedded.database import NO_COMMIT, CommitSeq, ItemDatabase, damaged
from retrieval.index.embedded.follower import enough_memory
from retrieval.index.embedded.keywords import KeywordFollower
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.title_terms import TitleFollower, corrections
from retrieval.index.embedded.top_k import Hit, Ranking, top_k, top_k_field, top_k_keyword, top_k_vectors
from retrieval.index.embedded.vectors import VectorFollower, VectorView
from retrieval.index.filters import Filter
from retrieval.index.fusion import Fusion, fuse
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.port import Candidate, TopField
from retrieval.index.ranking import add_ranks, cosines_with, scores_of
from retrieval.index.validation import batches, entry_chars
from retrieval.text.languages import DEFAULT_LANGUAGE, check_language
from retrieval.text.stemming import has_same_stem

logger = logging.getLogger(__name__)

LOTS_FILE = "lots.sqlite"
LANGUAGE_FILE = "language.txt"  # read if the database has no language, in indices of older versions; without it: English
EXACT_BELOW = 1_000
ENTRIES_PER_COMMIT = 1_000
ATTEMPTS = 12  # of a search whose results a writer replaced before their documents were read


class EmbeddedIndex:
    """One physical index in a folder. Threads may share it; a second process may read, and write in its turn.

    Args:
        folder: of create(); its name is the index's name.
        exact_below: up to so many items that pass a filter are compared one by one (see AnnIndex.nearest); 0 never does.
        spec: of the vector index, any index type; None for the graph of the hyperparameters.
        tuning: boosts of keyword searches, and the fusion of hybrid ones.

    Raises:
        InvalidInput: the parameters of the spec do not suit the vectors.
        IndexUnavailable: the database is missing or damaged.

    Attributes:
        language: by which words in Latin letters are stemmed; see create().
        closed: true after close().
    """

    def __init__(
        self, folder: Path, exact_below: int = EXACT_BELOW, spec: IndexSpec | None = None, tuning: Tuning | None = None
    ) -> None:
        self._folder = folder
        self._exact_below = exact_below
        self._tuning = tuning or Tuning()
        self._database = ItemDatabase(folder / LOTS_FILE)
        self.language = self._database.language or _read_language(folder / LANGUAGE_FILE)
        self._vectors = VectorFollower(self._database, spec or embedded_spec())
        boosts, live_rows = self._tuning.boosts, self._vectors.live_rows
        self._keywords = KeywordFollower(self._database, folder, boosts, self.language, live_rows)
        self._titles = TitleFollower(self._database, folder)
        self._min_commit = CommitSeq(0)  # what every search must see
        self.closed = False

    @classmethod
    def create(cls, folder: Path, tower_id: str, dimensions: int, language: str = DEFAULT_LANGUAGE) -> None:
        """Make an empty index in a new folder."""
        (folder / LANGUAGE_FILE).write_text(language)  # an older version, to which one may go back, reads it here
        ItemDatabase.create(folder / LOTS_FILE, tower_id, dimensions, language)

    @property
    def name(self) -> str:
        """Physical name, auction-items-<tower_id>-<stamp>."""
        return self._folder.name

    @property
    def tower_id(self) -> str:
        """The tower whose vectors it holds."""
        return self._database.tower_id

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""
        return self._database.dimensions

    @property
    def rebuilding_vectors(self) -> bool:
        """True while the vector index takes new items in, or is built again."""
        return self._vectors.rebuilding

    @property
    def rebuilding_keywords(self) -> bool:
        """True while the inverted lists take the words of new items in."""
        return self._keywords.rebuilding

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of items, ended ones included; with a filter, of those that pass it."""
        with enough_memory(self.name):
            if filters is None:
                return self._database.count()
            view = self._current_vectors()
            with view.lock.reading():
                return int(np.count_nonzero(view.columns.matches(filters)))

    def damaged(self) -> int:
        """Return the number of items that are left out because their rows are damaged."""
        return self._database.damaged_count()

    def deletions(self) -> list[Deletion]:
        """Return the deletions of items that were not written again."""
        with enough_memory(self.name):
            return self._database.deletions()

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write and delete items, in order, in transactions of 1,000 entries; what is acknowledged is durable."""
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
        """Build and save all that a first search needs."""
        self.refresh()
        with enough_memory(self.name):
            for follower in (self._vectors, self._keywords, self._titles):
                follower.rebuild(self._min_commit)
        self._database.seal()

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """Return the items whose vectors have the highest cosine with `vector`; exact=True compares with all that match."""
        self._check_vector(vector)
        results = self._answer(lambda: self._rank_vectors(vector, k, filters, exact))
        return add_ranks(results, semantic=results)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """Return the items whose text has the highest BM25 score for `text` under its boosts; none without a common word."""
        results = self._answer(lambda: self._rank_keywords(text, k, filters))
        return add_ranks(results, keyword=results)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """Return the k best of semantic() and keyword(), fused as the request says, else as tuned."""
        self._check_vector(vector)
        lists: tuple[Ranking, Ranking] = ((), ())

        def rank() -> Ranking:
            nonlocal lists
            keyword, semantic = lists = self._rank_keywords(text, k, filters), self._rank_vectors(vector, k, filters, exact=False)
            row_ids = {hit.item_id: hit.row_id for hit in (*keyword, *semantic)}
            best = fuse(scores_of(keyword), scores_of(semantic), fusion or self._tuning.fusion)[: max(k, 0)]
            return [Hit(row_ids[item_id], item_id, score) for item_id, score in best]

        results = self._answer(rank)
        return add_ranks(results, semantic=lists[1], keyword=lists[0])

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """Return the items with the most bids, or those listed last; none without such a number."""
        return self._answer(lambda: self._rank_field(field, k, filters))

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """Correct words in lower case that no item has: word -> the nearest term of a title."""
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
            titles = self._titles.current(NO_COMMIT)  # a correction may be of an older commit
            in_labels = {word for word in unknown for label in labels if has_same_stem(word, label, self.language)}
            return {word: titles.near(word) for word in unknown if word not in in_labels}

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """Return the items of these ids, in the order of the ids, score 0; unknown ids are left out, ended items are not."""
        with enough_memory(self.name):
            items = self._database.by_item_id(list(dict.fromkeys(item_ids)))
            return [Candidate(i, 0.0, items[i].document, items[i].vector) for i in item_ids if i in items]

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """Return at most `count` stored (D,) vectors of random items that pass a filter; the same ones for the same seed."""
        view = self._current_vectors()
        with enough_memory(self.name), view.lock.reading():
            vector_ids = np.flatnonzero(view.columns.matches(filters))
            sampled = np.random.default_rng(seed).choice(vector_ids, min(count, len(vector_ids)), replace=False)
            return list(view.vectors.take(sampled))

    def within(self, seconds: float) -> "EmbeddedIndex":
        """Return itself: an embedded search cannot be cancelled."""
        return self

    def close(self) -> None:
        """Save what a next start would have to build again, and close the database."""
        if self.closed:
            return
        self.closed = True
        for follower in (self._keywords, self._titles, self._vectors):
            follower.close()
        self._database.close()

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
            vectors = self._vectors.current(min_commit)  # first: its columns leave out the words of deleted items
            keywords = self._keywords.current(min_commit)
            with vectors.lock.reading():
                columns = vectors.columns
                if settled or not len(columns) or columns.row_ids[-1] <= keywords.last_row_id:
                    segments = keywords.scores(text)
                    return top_k((hit for segment in segments for hit in top_k_keyword(*segment, columns, filters, k)), k)
            # another search took in the new version of an item whose old words are here; or the last items are deleted again
            newest = self._database.commit_seq()
            settled, min_commit = newest == min_commit, newest

    def _rank_field(self, field: TopField, k: int, filters: Filter) -> Ranking:
        if k <= 0:
            return []
        view = self._current_vectors()
        with view.lock.reading():
            return top_k_field(view.columns, field, filters, k)

    def _answer(self, search: Callable[[], Ranking]) -> list[Candidate]:
        """Read the items of a ranking; search again if a writer replaced one of them in between."""
        candidates: list[Candidate] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                self._min_commit = self._database.commit_seq()
            with enough_memory(self.name):
                hits = search()
                items = self._database.by_row_id([hit.row_id for hit in hits])
            if damaged_ids := [hit.item_id for hit in hits if hit.row_id in self._database.damaged]:
                view = self._current_vectors()
                with view.lock.writing():  # or they would take the places of other items in each search
                    for item_id in damaged_ids:
                        view.columns.delete(item_id)
            stored = [(hit, items[hit.row_id]) for hit in hits if hit.row_id in items]
            candidates = [Candidate(hit.item_id, hit.score, item.document, item.vector) for hit, item in stored]
            if len(candidates) == len(hits):
                break
        return candidates

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
