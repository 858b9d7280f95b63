"""Train the re-ranker on judgments or on buyers' interactions with search results.

python -m processing.train_reranker --catalog CATALOG --tower TOWER --release RELEASE --output reranker.ubj
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from statistics import fmean
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
from processing.ranking.histories import BuyerHistories, BuyerQuery
from processing.ranking.impressions import ndcg
from processing.ranking.labels import clicked_gains, judged_gains, position_bias
from retrieval.buyers.attention import load_buyer_tower
from retrieval.buyers.vector import BuyerVector, buyer_vector, personalise
from retrieval.contracts.documents import Vector
from retrieval.contracts.events import Interaction
from retrieval.contracts.items import query_text
from retrieval.contracts.tower_card import split_tower_id
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.index.filters import Filter
from retrieval.ingestion import index_release
from retrieval.progress import Progress
from retrieval.ranker.features import feature_matrix
from retrieval.ranker.parameters import BoosterParameters
from retrieval.ranker.xgboost_ranker import BoosterRanker, Choice, RankingData, fit_booster, fit_few_queries
from retrieval.search.live_index import ActiveIndex
from retrieval.search.service import SearchModels, SearchRequest, SearchService, retrieve

Labels = Literal["clicks", "judgments"]
Gains = Mapping[BuyerQuery, Mapping[str, float]]  # query -> item_id -> gain >= 0
SPLITS = ("train", "val")
KNOWN_BUYERS = {split: f"{split}, known buyers" for split in SPLITS}
CANDIDATES = 50


@dataclass(frozen=True)
class RerankerReport:
    """Data and result of a training.

    Attributes:
        path: path of the booster's file.
        saved: True if the new booster is stored at `path`.
        reason: why it is stored or not.
        base_ndcg_at_10: mean nDCG@10 of the queries that measure the booster, in first-stage order.
        new_ndcg_at_10: mean nDCG@10 of the same queries in the booster's order: of split val with clicks, of the held-out folds of
            cross-validation with judgments. Relevant items that are not among the candidates do not count.
        labels: source of the labels.
        train_queries: number of queries of split train whose candidates differ in gain.
        val_queries: number of such queries of split val. With clicks they chose the number of trees; with judgments they were
            trained on, too.
        rows: number of candidates of all these queries.
        position_bias: exponent, see processing.ranking.labels.position_bias(); None if clicks are not corrected.
        choice: result of cross-validation; None with clicks.
        knows_buyers: True if lists of buyers with earlier interactions were trained on, too, because they improved validation.
    """

    path: Path
    saved: bool
    reason: str
    base_ndcg_at_10: float
    new_ndcg_at_10: float
    labels: Labels
    train_queries: int
    val_queries: int
    rows: int
    position_bias: float | None
    choice: Choice | None
    knows_buyers: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values."""
        choice = asdict(self.choice) if self.choice else {}
        return {
            name: value
            for name, value in (asdict(self) | {"path": str(self.path), "choice": None} | choice).items()
            if value is not None
        }


def train_reranker(
    catalog: CatalogFolder,
    service: SearchService,
    path: Path,
    *,
    labels: Labels | None = None,
    debias: bool = True,
    force: bool = False,
    candidates: int = CANDIDATES,
    seed: int = 0,
    parameters: BoosterParameters | None = None,
    progress: Progress | None = None,
) -> RerankerReport:
    """Train LambdaMART on a catalogue's clicks or judgments, and save it if it ranks better than the first stage.

    With clicks, both orders are measured on split val; with judgments, on the held-out folds of cross-validation. Without a gain
    nothing is written, so an earlier re-ranker stays as it is.

    The rows are the first stage's own candidates, as in serving. With clicks, candidates without an impression are left out,
    because nothing is known about them. With judgments, unjudged candidates count as wrong, as in nDCG. Lists of buyers with
    earlier interactions are searched as by a shop that sends `recent_interactions`. So the features of the buyer are filled as in
    serving. These lists are trained on if that helps on the validation split. Searches happen at the catalogue's own moment
    (catalog_moment()), so that a training is reproducible.

    Args:
        catalog: catalogue whose splits `train` and `val` hold clicks or judgments; `test` is not read.
        service: service that searches the index of the catalogue's items.
        path: path of the booster's file.
        labels: source of the labels; None takes clicks if split train has any.
        debias: True corrects clicks for position bias. The correction adds variance; it pays if the log shows the same items first
            again and again.
        force: True saves the booster whatever the comparison says.
        candidates: number of first-stage candidates per query, as in serving.
        seed: seed of the training.
        parameters: parameters of the trees; None takes the defaults.
        progress: called with (queries done, queries).

    Raises:
        InvalidInput: the labels are unknown, or a split has no query whose candidates differ in gain.
    """
    if labels not in (None, *get_args(Labels)):
        raise InvalidInput(f"there are no labels {labels!r}; use {' or '.join(get_args(Labels))}")
    clicks = {split: catalog.clicks(split) for split in SPLITS}
    labels = labels or ("clicks" if clicks["train"] else "judgments")
    position_bias_exponent = position_bias(clicks["train"]) if labels == "clicks" and debias else None
    if labels == "clicks":
        gains = _clicked(clicks, position_bias_exponent or 0.0)
    else:
        gains = {split: _anonymous(judged_gains(catalog.qrels(split))) for split in SPLITS}
    data = _gather(catalog, service, gains, labels == "judgments", candidates, progress)
    train, val = data["train"], data["val"]
    choice, knows_buyers = None, False
    if labels == "clicks":
        booster, knows_buyers = fit_clicks(data, seed, parameters)
        base, new = ndcg_of_order(val), booster.ndcg_at_10(val)
    else:
        booster, choice = fit_few_queries(train + val, seed=seed, parameters=parameters)
        base, new = ndcg_of_order(train + val), choice.ndcg_at_10
    saved = force or new > base
    if saved:
        booster.save(path, service.live().index.tower_id)
    return RerankerReport(
        path=path,
        saved=saved,
        reason=_reason(base, new, saved=saved, replaces=path.is_file()),
        base_ndcg_at_10=base,
        new_ndcg_at_10=new,
        labels=labels,
        train_queries=len(train),
        val_queries=len(val),
        rows=train.rows + val.rows,
        position_bias=position_bias_exponent,
        choice=choice,
        knows_buyers=knows_buyers,
    )


def ndcg_of_order(data: RankingData) -> float:
    """Return the mean nDCG@10 of the queries with their rows in the present order."""
    return fmean(ndcg(np.zeros(len(gains), dtype=np.float32), gains) for gains in data.labels)


def _reason(base: float, new: float, *, saved: bool, replaces: bool) -> str:
    comparison = f"nDCG@10 {base:.3f} in first-stage order, {new:.3f} re-ranked"
    if new > base:
        return comparison
    if saved:
        return f"{comparison}, no gain; saved all the same"
    stays = "the earlier re-ranker stays as it is" if replaces else "no re-ranker is stored"
    return f"{comparison}, no gain; {stays}, --force would save it"


def fit_clicks(data: Mapping[str, RankingData], seed: int, parameters: BoosterParameters | None) -> tuple[BoosterRanker, bool]:
    """Fit a booster on anonymous queries and, if that helps, on lists of known buyers; return it, and True if it helped.

    Lists of known buyers help if they improve nDCG on validation lists of known buyers and do not lower nDCG on anonymous
    validation queries.

    Args:
        data: queries of SPLITS, and lists of KNOWN_BUYERS.
        seed: seed of the training.
        parameters: parameters of the trees; None takes the defaults.
    """
    train, val = data["train"], data["val"]
    booster = fit_booster(train, val, seed=seed, parameters=parameters)
    buyers_train, buyers_val = (data[KNOWN_BUYERS[split]] for split in SPLITS)
    if not buyers_train or not buyers_val:
        return booster, False
    personal = fit_booster(train + buyers_train, val + buyers_val, seed=seed, parameters=parameters)
    better = personal.ndcg_at_10(buyers_val) > booster.ndcg_at_10(buyers_val)
    return (personal, True) if better and personal.ndcg_at_10(val) >= booster.ndcg_at_10(val) else (booster, False)


def _clicked(clicks: Mapping[str, Sequence[Click]], position_bias_exponent: float) -> dict[str, Gains]:
    """Return split -> gains of every query, and of the lists of known buyers, whose histories come from the whole log."""
    histories = BuyerHistories(click for shown in clicks.values() for click in shown)
    gains: dict[str, Gains] = {split: _anonymous(clicked_gains(shown, position_bias_exponent)) for split, shown in clicks.items()}
    for split, shown in clicks.items():
        queries = histories.by_query(shown)
        gains[KNOWN_BUYERS[split]] = {
            query: clicked_gains(of, position_bias_exponent)[query.query] for query, of in queries.items()
        }
    return gains


def _anonymous(gains: Mapping[str, Mapping[str, float]]) -> Gains:
    return {BuyerQuery(query): of_query for query, of_query in gains.items()}


def _gather(
    catalog: CatalogFolder,
    service: SearchService,
    gains: Mapping[str, Gains],
    unlabelled: bool,
    candidates: int,
    progress: Progress | None,
) -> dict[str, RankingData]:
    """Return split -> the queries whose candidates differ in gain; equal gains give no order."""
    now, live = catalog_moment(catalog), service.live()
    encoded = cache(lambda query: live.encoder.encode([query_text(query)])[0])  # lists of the same query share the query's vector
    total, done, data = sum(map(len, gains.values())), 0, {}
    for split, by_query in gains.items():
        features, labels = [], []
        for query, of_query in by_query.items():
            done += 1
            if progress:
                progress(done, total)
            x, y = _rows(live, query, encoded(query.query), of_query, unlabelled, candidates, now)
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
    query: BuyerQuery,
    vector: Vector,
    gains: Mapping[str, float],
    unlabelled: bool,
    candidates: int,
    now: datetime,
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, F) and gains (N,) of one query's candidates. `unlabelled` includes those without a label, as wrong."""
    item_ids, features = _candidates(live, query, vector, candidates, now)
    labelled = np.array([unlabelled or item_id in gains for item_id in item_ids], dtype=bool)
    return features[labelled], np.array([gains.get(item_id, 0.0) for item_id in item_ids], dtype=np.float32)[labelled]


def candidate_features(
    service: SearchService, query: str, now: datetime, *, candidates: int = CANDIDATES, recent: Sequence[Interaction] = ()
) -> tuple[list[str], np.ndarray]:
    """Return the re-ranker's input as in serving: ids (N,) in first-stage order, and features (N, F).

    Args:
        service: service whose live index is searched.
        query: query as typed.
        now: moment of the search, in UTC; items whose auction has ended by then are not returned.
        candidates: largest number of candidates.
        recent: the buyer's interactions before the search, at most 200; empty for an unknown buyer.
    """
    live = service.live()
    return _candidates(live, BuyerQuery(query, tuple(recent)), live.encoder.encode([query_text(query)])[0], candidates, now)


def _candidates(
    live: ActiveIndex, query: BuyerQuery, vector: Vector, candidates: int, now: datetime
) -> tuple[list[str], np.ndarray]:
    buyer = _buyer(live, query)
    target = vector if buyer is None else personalise(vector, buyer.vector)
    retrieved = retrieve(live.index, SearchRequest(query.query, filters=Filter(now=now)), target, candidates)
    of_buyer = (None, None) if buyer is None else (buyer.vector, buyer.habits)
    return [c.item_id for c in retrieved], feature_matrix(query.query, vector, retrieved, now, *of_buyer)  # (N, F)


def _buyer(live: ActiveIndex, query: BuyerQuery) -> BuyerVector | None:
    """Return the buyer as a search encodes them; None for an unknown buyer, or if all items of `recent` are deleted."""
    if not query.recent:
        return None
    try:
        return buyer_vector(query.recent, live.index.fetch, live.buyer_tower)
    except InvalidQuery:
        return None


@contextmanager
def service_of_release(tower: Path, release: Path) -> Iterator[SearchService]:
    """Yield a search service over the items of a release, in an index that exists during the block.

    Args:
        tower: folder of the release's tower.
        release: folder of the release.
    """
    from retrieval.index.embedded.store import EmbeddedStore

    with tempfile.TemporaryDirectory(prefix="gavel-reranker-") as scratch:
        store = EmbeddedStore(Path(scratch))
        index_release(release, store)
        service = SearchService(
            store,
            SearchModels(
                lambda tower_id: QueryEncoder.load(tower, split_tower_id(tower_id)[1]),
                load_buyer_tower=lambda tower_id: load_buyer_tower(tower, tower_id),
            ),
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
    labels: Annotated[Labels | None, typer.Option(help="Source of the labels; clicks if there are any.")] = None,
    debias: DebiasOption = True,
    force: Annotated[bool, typer.Option("--force", help="Save the re-ranker even if it does not gain.")] = False,
) -> int:
    """Train the re-ranker on judgments or on buyers' interactions with search results."""
    source = CatalogFolder.load(catalog)
    with service_of_release(tower, release) as service:
        report = train_reranker(
            source, service, output, labels=labels, debias=debias, force=force, candidates=candidates, seed=seed
        )
    print(json.dumps(report.to_dict()))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from a command line, see run_job()."""
    return run_job(run_training, arguments, "train_reranker")
