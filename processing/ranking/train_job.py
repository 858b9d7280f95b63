"""Trains the re-ranker, on judgments or on what buyers did with the lots that a search showed them.

python -m processing.train_reranker --catalog CATALOG --tower TOWER --release RELEASE --output reranker.ubj
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import typer

from catalog.folder import CatalogFolder, Click
from processing.command_line import (
    CONTAINER,
    BoosterOutputOption,
    CandidatesOption,
    CatalogOption,
    DebiasOption,
    ReleaseOption,
    SeedOption,
    TowerOption,
    run_job,
)
from processing.evaluation.corpus import catalog_moment
from processing.ranking.histories import Asked, BuyerHistories
from processing.ranking.labels import clicked_gains, judged_gains, position_bias
from retrieval.buyers.attention import load_buyer_tower
from retrieval.buyers.vector import buyer_vector, personalise
from retrieval.contracts.documents import Vector
from retrieval.contracts.items import query_text
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.index.port import Filter
from retrieval.ingestion import index_release
from retrieval.progress import Progress
from retrieval.ranker.features import feature_matrix
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.xgboost_ranker import BoosterRanker, Choice, RankingData, fit_booster, fit_few_queries
from retrieval.search.live_index import ActiveIndex
from retrieval.search.service import SearchRequest, SearchService, retrieve

Labels = Literal["clicks", "judgments"]
Gains = Mapping[Asked, Mapping[str, float]]  # question -> item_id -> gain >= 0
SPLITS = ("train", "val")
KNOWN_BUYERS = {split: f"{split}, known buyers" for split in SPLITS}
CANDIDATES = 50


@dataclass(frozen=True)
class RerankerReport:
    """What the training saw.

    Attributes:
        path: the saved booster.
        labels: what it learnt from.
        train_queries: queries whose candidates differ in gain, of split train.
        val_queries: of split val. With clicks they chose the number of trees; with judgments they trained, too.
        rows: candidates of both.
        position_bias: how fast buyers stop looking, see ranking_labels.position_bias; None: not known, clicks count as they are.
        choice: what cross-validation chose; None with clicks.
        knows_buyers: whether lists of buyers who had done something before trained, too, and earned their place.
    """

    path: Path
    labels: Labels
    train_queries: int
    val_queries: int
    rows: int
    position_bias: float | None
    choice: Choice | None
    knows_buyers: bool = False

    def to_dict(self) -> dict[str, object]:
        """The report as JSON can write it."""
        chosen = asdict(self.choice) if self.choice else {}
        return {
            name: value
            for name, value in (asdict(self) | {"path": str(self.path), "choice": None} | chosen).items()
            if value is not None
        }


def train_reranker(
    catalog: CatalogFolder,
    service: SearchService,
    path: Path,
    *,
    labels: Labels | None = None,
    debias: bool = True,
    candidates: int = CANDIDATES,
    seed: int = 0,
    parameters: BoosterParameters | None = None,
    progress: Progress | None = None,
) -> RerankerReport:
    """Train LambdaMART on a catalogue's clicks or judgments and save it.

    The rows are the first stage's own candidates, so that training sees what serving will. Of clicks, candidates that no buyer
    was shown say nothing and are left out; of judgments, candidates that nobody judged count as wrong, as nDCG counts them.
    Lists of buyers who had done something before are searched for as a shop does that sends `recent_interactions`, so that
    `buyer_affinity` is filled as in serving; they train where that helps on the validation split. Searches happen at the
    catalogue's own moment, when the clicks were made, so that a training repeats.

    Args:
        catalog: its splits `train` and `val` hold clicks or judgments; `test` is not looked at.
        service: searches the index that the catalogue's lots are in.
        path: where the booster goes.
        labels: what to learn from; None takes clicks where there are any.
        debias: free clicks of their positions; worth its variance where a log shows the same lots first again and again.
        candidates: first-stage candidates a query, as in serving.
        seed: of the training.
        parameters: of the trees; None takes the defaults.
        progress: called with (queries done, queries in all).

    Raises:
        InvalidInput: there are no such labels, or a split has no query whose candidates differ in gain.
    """
    if labels not in (None, *get_args(Labels)):
        raise InvalidInput(f"there are no labels {labels!r}; use {' or '.join(get_args(Labels))}")
    clicks = {split: catalog.clicks(split) for split in SPLITS}
    labels = labels or ("clicks" if clicks["train"] else "judgments")
    position_bias_exponent = position_bias(clicks["train"]) if labels == "clicks" and debias else None
    if labels == "clicks":
        gains = _clicked(clicks, position_bias_exponent or 0.0)
    else:
        gains = {split: _asked(judged_gains(catalog.qrels(split))) for split in SPLITS}
    data = _gather(catalog, service, gains, labels == "judgments", candidates, progress)
    train, val = data["train"], data["val"]
    choice, knows_buyers = None, False
    if labels == "clicks":
        booster, knows_buyers = _fit_clicks(data, seed, parameters)
    else:
        booster, choice = fit_few_queries(train + val, seed=seed, parameters=parameters)
    booster.save(path, service.live().index.tower_id)
    return RerankerReport(path, labels, len(train), len(val), train.rows + val.rows, position_bias_exponent, choice, knows_buyers)


def _fit_clicks(data: Mapping[str, RankingData], seed: int, parameters: BoosterParameters | None) -> tuple[BoosterRanker, bool]:
    """Fit queries as anybody asks them; lists of known buyers join in if that puts their lots in a better order and no others
    in a worse one, on the validation split."""
    train, val = data["train"], data["val"]
    booster = fit_booster(train, val, seed=seed, parameters=parameters)
    known = [data[KNOWN_BUYERS[split]] for split in SPLITS]
    if not all(map(len, known)):
        return booster, False
    personal = fit_booster(train + known[0], val + known[1], seed=seed, parameters=parameters)
    earned = personal.ndcg_at_10(known[1]) > booster.ndcg_at_10(known[1]) and personal.ndcg_at_10(val) >= booster.ndcg_at_10(val)
    return (personal, True) if earned else (booster, False)


def _clicked(clicks: Mapping[str, Sequence[Click]], position_bias_exponent: float) -> dict[str, Gains]:
    """split -> the gains of every query, and of the lists of known buyers; what they had done stands in the whole log."""
    histories = BuyerHistories(click for shown in clicks.values() for click in shown)
    gains: dict[str, Gains] = {split: _asked(clicked_gains(shown, position_bias_exponent)) for split, shown in clicks.items()}
    for split, shown in clicks.items():
        questions = histories.questions(shown)
        gains[KNOWN_BUYERS[split]] = {
            asked: clicked_gains(of, position_bias_exponent)[asked.query] for asked, of in questions.items()
        }
    return gains


def _asked(gains: Mapping[str, Mapping[str, float]]) -> Gains:
    return {Asked(query): of_query for query, of_query in gains.items()}


def _gather(
    catalog: CatalogFolder,
    service: SearchService,
    gains: Mapping[str, Gains],
    unlabelled: bool,
    candidates: int,
    progress: Progress | None,
) -> dict[str, RankingData]:
    """split -> the questions whose candidates differ in gain; one gain for all says nothing about order."""
    now, live = catalog_moment(catalog), service.live()
    encoded = cache(lambda query: live.encoder.encode([query_text(query)])[0])  # lists of one query share its vector
    total, done, data = sum(map(len, gains.values())), 0, {}
    for split, gains_by_question in gains.items():
        features, labels = [], []
        for asked, gains_of_question in gains_by_question.items():
            done += 1
            if progress:
                progress(done, total)
            x, y = _rows(live, asked, encoded(asked.query), gains_of_question, unlabelled, candidates, now)
            if len(set(y.tolist())) > 1:
                features.append(x)
                labels.append(y)
        if not features and split in SPLITS:
            raise InvalidInput(
                f"split {split!r} of {catalog.path} has no clicks or judgments that tell candidates apart; collect more of them"
            )
        data[split] = RankingData(features, labels)
    return data


def _rows(
    live: ActiveIndex,
    asked: Asked,
    vector: Vector,
    gains: Mapping[str, float],
    unlabelled: bool,
    candidates: int,
    now: datetime,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and gains (N,) of the candidates of one question; those without a label only where they count as wrong."""
    found, features = _candidates(live, asked, vector, candidates, now)
    kept = np.array([unlabelled or item_id in gains for item_id in found], dtype=bool)
    return features[kept], np.array([gains.get(item_id, 0.0) for item_id in found], dtype=np.float32)[kept]


def candidate_features(
    service: SearchService, query: str, now: datetime, *, candidates: int = CANDIDATES
) -> tuple[list[str], np.ndarray]:
    """What serving hands to the re-ranker for a buyer whom nobody knows: ids (N,) in first-stage order, and features (N, F).

    Args:
        service: searches its live index.
        query: as typed.
        now: the moment of the search, UTC; a lot whose auction had ended by then is not found.
        candidates: the most that are asked for.
    """
    live = service.live()
    return _candidates(live, Asked(query), live.encoder.encode([query_text(query)])[0], candidates, now)


def _candidates(live: ActiveIndex, asked: Asked, vector: Vector, candidates: int, now: datetime) -> tuple[list[str], np.ndarray]:
    buyer = _buyer(live, asked)
    searched = vector if buyer is None else personalise(vector, buyer)
    found = retrieve(live.index, SearchRequest(asked.query, where=Filter(now=now)), searched, candidates)
    return [c.item_id for c in found], feature_matrix(asked.query, vector, found, now, buyer)  # (N, F)


def _buyer(live: ActiveIndex, asked: Asked) -> Vector | None:
    """Where the buyer stood, as a search finds it out; None when nothing is known, or of lots that are all gone."""
    if not asked.recent:
        return None
    try:
        return buyer_vector(asked.recent, live.index.fetch, live.buyer_tower).vector
    except InvalidQuery:
        return None


@contextmanager
def service_of_release(tower: Path, release: Path) -> Iterator[SearchService]:
    """Search over the lots of a release, in an index that lives as long as the block.

    Args:
        tower: folder of the artefact that the release was embedded with.
        release: its folder.
    """
    from retrieval.index.embedded.store import EmbeddedStore

    with tempfile.TemporaryDirectory(prefix="gavel-reranker-") as scratch:
        store = EmbeddedStore(Path(scratch))
        index_release(release, store)
        service = SearchService(
            store,
            lambda tower_id: QueryEncoder.load(tower, split_tower_id(tower_id)[1]),
            load_buyer_tower=lambda tower_id: load_buyer_tower(tower, tower_id),
        )
        try:
            yield service
        finally:
            service.live().index.close()


def run_training(
    catalog: CatalogOption = CONTAINER / "input/catalog",
    tower: TowerOption = CONTAINER / "input/tower",
    release: ReleaseOption = CONTAINER / "input/release",
    output: BoosterOutputOption = CONTAINER / "output/reranker.ubj",
    candidates: CandidatesOption = CANDIDATES,
    seed: SeedOption = 7,
    labels: Annotated[Labels | None, typer.Option(help="What to learn from; clicks where there are any.")] = None,
    debias: DebiasOption = True,
) -> int:
    """Train the re-ranker on judgments, or on what buyers did with the lots that a search showed them."""
    source = CatalogFolder.load(catalog)
    with service_of_release(tower, release) as service:
        report = train_reranker(source, service, output, labels=labels, debias=debias, candidates=candidates, seed=seed)
    print(json.dumps(report.to_dict()))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from the command line; the report is printed as one line of JSON.

    Returns:
        0; 2 when the input or a flag cannot be used, with one line on stderr that says why.
    """
    return run_job(run_training, arguments, "train_reranker")


if __name__ == "__main__":
    sys.exit(main())
