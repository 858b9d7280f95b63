"""One embedded index: SQLite for the truth, FAISS and inverted lists for speed (docs/adr/0002-embedded-index.md)."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.config.index_spec import IndexSpec
from retrieval.contracts.documents import Deletion, IndexedItem, UpsertReport, Vector
from retrieval.errors import IndexUnavailable, InvalidInput
from retrieval.index.embedded.background import enough_memory
from retrieval.index.embedded.database import ItemDatabase, damaged
from retrieval.index.embedded.keywords import LotKeywords
from retrieval.index.embedded.read_write_lock import ReadWriteLock
from retrieval.index.embedded.renewed_graph import RenewedGraph
from retrieval.index.embedded.segments import embedded_spec
from retrieval.index.embedded.title_terms import TitleTerms, corrections
from retrieval.index.embedded.top_k import Hit, Hits, best_hits, best_places, keyword_hits, top_hits
from retrieval.index.embedded.vectors import VectorView
from retrieval.index.fusion import Fusion, fuse
from retrieval.index.hybrid_tuning import Tuning
from retrieval.index.port import Candidate, Filter, TopField
from retrieval.index.ranking import add_ranks, cosines_with, scores_of
from retrieval.index.validation import batches, entry_chars
from retrieval.text.languages import DEFAULT_LANGUAGE, check_language
from retrieval.text.stemming import shares_stem

logger = logging.getLogger(__name__)

LOTS_FILE = "lots.sqlite"
LANGUAGE_FILE = "language.txt"  # read where the database does not say it, in indices of older versions; without it: English
EXACT_BELOW = 1_000
ENTRIES_A_COMMIT = 1_000
ATTEMPTS = 12  # of a search whose finds a writer replaced before their documents were read


class EmbeddedIndex:
    """One physical index in a folder. Threads may share it; a second process may read, and write in its turn.

    Args:
        folder: what create() made; its name is the index's name.
        exact_below: when so few lots pass a filter, they are compared one by one (see AnnIndex.nearest); 0 never does.
        spec: of the vector index, any family; None for the graph of the hyperparameters.
        tuning: boosts of keyword searches, and how hybrid ones fuse.

    Raises:
        InvalidInput: the parameters of the spec do not suit the vectors.
        IndexUnavailable: the database is missing or damaged.

    Attributes:
        language: by which words in Latin letters are stemmed, as create() was told.
    """

    def __init__(
        self, folder: Path, exact_below: int = EXACT_BELOW, spec: IndexSpec | None = None, tuning: Tuning | None = None
    ) -> None:
        self._folder = folder
        self._exact_below = exact_below
        self._tuning = tuning or Tuning()
        self._lots = ItemDatabase(folder / LOTS_FILE)
        self.language = self._lots.language or _written_language(folder / LANGUAGE_FILE)
        self._lock = ReadWriteLock()  # readers search the graph, the writer changes it
        self._graph = RenewedGraph(self._lots, spec or embedded_spec(), self._lock)
        self._keywords = LotKeywords(self._lots, folder, self._tuning.boosts, self.language, self._living_lots)
        self._titles = TitleTerms(self._lots, folder)
        self._refreshed = 0  # the generation that every search must see
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
        return self._lots.tower_id

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""
        return self._lots.dimensions

    @property
    def renewing(self) -> bool:
        """Whether the graph takes new lots in, or is built again, while searches go on."""
        return self._graph.renewing

    @property
    def joining_words(self) -> bool:
        """Whether the words of new lots go into the inverted lists, while searches go on."""
        return self._keywords.merging

    def count(self, filters: Filter | None = None) -> int:
        """Return the number of lots in it, ended ones included; with a filter, of those that pass it."""
        with enough_memory(self.name):
            if filters is None:
                return self._lots.count()
            current = self._current_graph()
            with self._lock.reading():
                return int(np.count_nonzero(current.columns.allowed(filters)))

    def damaged(self) -> int:
        """Number of lots that are left out because their rows are damaged."""
        return self._lots.left_out()

    def deletions(self) -> list[Deletion]:
        """The lots that were withdrawn and did not come back."""
        with enough_memory(self.name):
            return self._lots.deletions()

    def upsert(self, entries: Iterable[IndexedItem | Deletion], *, overwrite: bool = False) -> UpsertReport:
        """Write lots and carry out tombstones, in order, a transaction for every 1,000; what is acknowledged is durable."""
        report = UpsertReport()
        with enough_memory(self.name):
            for batch in batches(entries, ENTRIES_A_COMMIT, entry_chars):
                report += self._lots.write(batch, overwrite=overwrite)
        return report

    def refresh(self) -> None:
        """Make all acknowledged writes visible to the next search."""
        self._refreshed = self._lots.generation()
        self._current_graph()
        try:
            self._graph.renew_if_due(self._refreshed)
        except IndexUnavailable as error:
            logger.warning("%s: %s; the new lots are searched beside the others", self.name, error)

    def prepare(self) -> None:
        """Build and save all that a first search needs."""
        self.refresh()
        with enough_memory(self.name):
            self._graph.renew(self._refreshed, wait=True)
            self._keywords.current(self._refreshed)
            self._keywords.merge(wait=True)
            self._titles.prepare()
        self._lots.seal()

    def semantic(self, vector: Vector, k: int, filters: Filter, *, exact: bool = False) -> list[Candidate]:
        """The lots whose vectors have the highest cosine with `vector`; exact=True compares with every allowed lot."""
        self._check_vector(vector)
        found = self._answer(lambda: self._semantic_hits(vector, k, filters, exact))
        return add_ranks(found, semantic=found)

    def keyword(self, text: str, k: int, filters: Filter) -> list[Candidate]:
        """The lots whose text has the highest BM25 score for `text` under its boosts; lots that share no word do not come."""
        found = self._answer(lambda: self._keyword_hits(text, k, filters))
        return add_ranks(found, keyword=found)

    def hybrid(self, text: str, vector: Vector, k: int, filters: Filter, fusion: Fusion | None = None) -> list[Candidate]:
        """The k best of semantic() and of keyword(), fused as the request says, else as was tuned."""
        self._check_vector(vector)
        lists: tuple[Hits, Hits] = ((), ())

        def fused() -> Hits:
            nonlocal lists
            keyword, semantic = lists = self._keyword_hits(text, k, filters), self._semantic_hits(vector, k, filters, exact=False)
            positions = {hit.item_id: hit.position for hit in (*keyword, *semantic)}
            best = fuse(scores_of(keyword), scores_of(semantic), fusion or self._tuning.fusion)[: max(k, 0)]
            return [Hit(positions[item_id], item_id, score) for item_id, score in best]

        found = self._answer(fused)
        return add_ranks(found, semantic=lists[1], keyword=lists[0])

    def top(self, field: TopField, k: int, filters: Filter) -> list[Candidate]:
        """The lots with the most bids, or those listed last; lots that have no such number do not come."""
        return self._answer(lambda: self._top_hits(field, k, filters))

    def corrections(self, words: Sequence[str]) -> dict[str, str]:
        """What words in lower case that no lot has were meant to be: word -> the nearest word of a title."""
        return corrections(self.near_titles(words))

    def near_titles(self, words: Sequence[str]) -> dict[str, dict[str, int]]:
        """Each of these words that no lot has -> the words of titles that are near to it, and how many titles have them."""
        with enough_memory(self.name):
            current = self._current_graph()
            keywords = self._keywords.current(self._refreshed)
            unknown = [word for word in words if not keywords.knows(word)]
            if not unknown:
                return {}
            with self._lock.reading():
                labels = current.columns.labels
            titles = self._titles.current()
            said = {word for word in unknown for label in labels if shares_stem(word, label, self.language)}
            return {word: titles.near(word) for word in unknown if word not in said}

    def fetch(self, item_ids: Sequence[str]) -> list[Candidate]:
        """The stored lots of these ids, in the order of the ids, score 0; unknown ids are left out, ended lots are not."""
        with enough_memory(self.name):
            lots = self._lots.of(list(dict.fromkeys(item_ids)))
            return [Candidate(i, 0.0, lots[i].document, lots[i].vector) for i in item_ids if i in lots]

    def sample(self, count: int, filters: Filter, seed: int) -> list[Vector]:
        """At most `count` stored (dimensions,) vectors of random lots that pass a filter; the same ones for the same seed."""
        current = self._current_graph()
        with enough_memory(self.name), self._lock.reading():
            slots = np.flatnonzero(current.columns.allowed(filters))
            drawn = np.random.default_rng(seed).choice(slots, min(count, len(slots)), replace=False)
            return list(current.vectors.take(drawn))

    def within(self, seconds: float) -> "EmbeddedIndex":
        """Itself: what is computed here cannot be given up."""
        return self

    def close(self) -> None:
        """Save what a next start would have to build again, and close the database."""
        if self.closed:
            return
        self.closed = True
        self._keywords.close()
        self._titles.close()
        self._graph.close()
        self._lots.close()

    def _semantic_hits(self, vector: Vector, k: int, filters: Filter, exact: bool) -> Hits:
        if k <= 0:
            return []
        query = _unit(vector)
        current = self._current_graph()
        with self._lock.reading():
            columns, vectors = current.columns, current.vectors
            allowed = columns.allowed(filters)
            if not allowed.any():
                return []
            slots = vectors.exact(query, k, allowed) if exact else vectors.nearest(query, k, allowed, self._exact_below)
            scores = cosines_with(vector, vectors.take(slots))  # (N,)
            best = best_places(slots, scores, columns.item_ids, k)
            places = zip(slots[best].tolist(), scores[best].tolist(), strict=True)
            return best_hits((Hit(int(columns.positions[s]), columns.item_ids[s], score) for s, score in places), k)

    def _keyword_hits(self, text: str, k: int, filters: Filter) -> Hits:
        if k <= 0:
            return []
        least, settled = self._refreshed, False
        while True:
            current = self._graph.current(least)  # first: by its columns the words of lots that are gone are left out
            fields = self._keywords.current(least)
            with self._lock.reading():
                columns = current.columns
                if settled or not len(columns) or columns.positions[-1] <= fields.last:
                    parts = fields.scores(text)
                    return best_hits((hit for part in parts for hit in keyword_hits(*part, columns, filters, k)), k)
            # another search took in the new version of a lot whose words are the old one's here; or the last lots are gone again
            newest = self._lots.generation()
            settled, least = newest == least, newest

    def _top_hits(self, field: TopField, k: int, filters: Filter) -> Hits:
        if k <= 0:
            return []
        current = self._current_graph()
        with self._lock.reading():
            return top_hits(current.columns, field, filters, k)

    def _answer(self, search: Callable[[], Hits]) -> list[Candidate]:
        """Read the lots of a search's hits; search again if a writer took one of them away in between."""
        found: list[Candidate] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                self._refreshed = self._lots.generation()
            with enough_memory(self.name):
                hits = search()
                lots = self._lots.at([hit.position for hit in hits])
            if left_out := [hit.item_id for hit in hits if hit.position in self._lots.damaged]:
                current = self._current_graph()
                with self._lock.writing():  # or they would take the places of other lots in each search
                    for item_id in left_out:
                        current.columns.bury(item_id)
            read = [(hit, lots[hit.position]) for hit in hits if hit.position in lots]
            found = [Candidate(hit.item_id, hit.score, lot.document, lot.vector) for hit, lot in read]
            if len(found) == len(hits):
                break
        return found

    def _current_graph(self) -> VectorView:
        with enough_memory(self.name):
            return self._graph.current(self._refreshed)

    def _living_lots(self) -> tuple[NDArray[np.int64], int]:
        """Positions of the lots that are there, ascending, and up to which position that is known.

        Whoever searches has caught up; a thread apart that did would let searches go on with what was before.
        """
        current = self._graph.known or self._current_graph()
        with self._lock.reading():
            columns = current.columns
            return columns.living, int(columns.positions[-1]) if len(columns) else 0

    def _check_vector(self, vector: Vector) -> None:
        if vector.shape != (self.dimensions,) or not np.isfinite(vector).all():
            raise InvalidInput(f"the query vector must be {self.dimensions} finite numbers; it has shape {vector.shape}")


def _written_language(path: Path) -> str:
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
