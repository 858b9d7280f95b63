"""Quality of the re-ranker on the chorus electronics shop, by cross-validation over the judged queries.

python -m benchmarks.quality.chorus_reranker CHORUS --model sentence-transformers/all-MiniLM-L6-v2 --seeds 3

The queries are split into five folds, as by `gavel catalog prepare chorus --fold N`. For each fold, a re-ranker is trained on the
queries of the other folds, as by `gavel train --reranker --labels judgments`; an inner cross-validation chooses depth and steps.
Then the queries of the fold are searched through the service. The encoder is not trained; it reads LOT_TOKENS tokens of a product,
as in benchmarks.quality.chorus. A seed samples rows and features and splits the inner folds.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, mean_and_sd_of_runs, show_scores
from catalog import chorus
from catalog.folder import CatalogFolder
from gavel.workspace.console import console, progress
from models.config.distillation import LOT_TOKENS
from processing.evaluation.corpus import catalog_moment
from processing.evaluation.runs import RememberingEncoder, System, search_run
from processing.evaluation.zero_shot import SentenceEncoder, build_zero_shot_corpus
from processing.ranking.train_job import train_reranker
from retrieval.errors import IndexMissing
from retrieval.evaluation.metrics import evaluate_per_query
from retrieval.evaluation.significance import compare_paired
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.ranker.xgboost_ranker import BoosterRanker
from retrieval.search.context import UNHURRIED
from retrieval.search.service import SearchModels, SearchService

MEASURES = ("recall@10", "ndcg@10", "mrr")
BM25, HYBRID, RERANKED = "BM25", "hybrid (RRF)", "hybrid, re-ranked"
MARKS = {HYBRID: (0.730, 0.05), BM25: (0.701, 0.08)}  # (nDCG@10 measured elsewhere, target lead over it)

PerQuery = dict[str, dict[str, dict[str, float]]]  # system -> measure -> query -> value


def open_corpus(data: Path, model: str, work: Path) -> tuple[EmbeddedStore, RememberingEncoder]:
    """Open the index of the shop's products. If it is missing or of another encoder, embed and index the products first."""
    encoder = SentenceEncoder(model, LOT_TOKENS)
    store = EmbeddedStore(work / "index")
    try:
        if store.live().tower_id == encoder.tower_id:
            return store, RememberingEncoder(encoder)
    except IndexMissing:
        pass
    source = chorus.prepare(data, work / "catalog", fold=None)
    with progress("embed products") as step:
        build_zero_shot_corpus(source, "test", encoder, store, step)
    return store, RememberingEncoder(encoder)


def run_fold(
    catalog: CatalogFolder, store: EmbeddedStore, encoder: RememberingEncoder, seed: int, booster: Path
) -> tuple[PerQuery, str]:
    """Train a re-ranker without the queries of one fold, and search for these held-out queries.

    Args:
        catalog: catalogue of the fold, whose test queries are held out.
        store: index of the products.
        encoder: encoder of queries.
        seed: seed of the training.
        booster: file to write the booster to.

    Returns:
        system -> measure -> query -> value, and the settings that cross-validation chose.
    """
    report = train_reranker(
        catalog, SearchService(store, SearchModels(lambda tower_id: encoder)), booster, labels="judgments", seed=seed, force=True
    )
    assert report.choice is not None
    ranker, now = BoosterRanker.load(booster), catalog_moment(catalog)
    service = SearchService(store, SearchModels(lambda tower_id: encoder, lambda tower_id: ranker), UNHURRIED)
    systems = [System(BM25, service, "keyword"), System(HYBRID, service, "hybrid"), System(RERANKED, service, "hybrid", True)]
    qrels = catalog.qrels("test")
    per_query = {system.name: evaluate_per_query(qrels.grades, search_run(system, qrels.queries, now)) for system in systems}
    return per_query, f"depth {report.choice.max_depth}, {report.choice.rounds} steps"


def run_seed(
    catalogs: list[CatalogFolder], store: EmbeddedStore, encoder: RememberingEncoder, seed: int, work: Path
) -> tuple[PerQuery, list[str]]:
    """Run all folds under one seed. So every judged query is held out once."""
    together: PerQuery = {system: {measure: {} for measure in MEASURES} for system in (BM25, HYBRID, RERANKED)}
    choices = []
    for number, catalog in enumerate(catalogs):
        per_query, choice = run_fold(catalog, store, encoder, seed, work / f"fold-{number}-seed-{seed}.ubj")
        choices.append(choice)
        for system, measures in together.items():
            for measure, values in measures.items():
                values.update(per_query[system][measure])
    return together, choices


def lead(runs: list[PerQuery], baseline: str) -> dict[str, Any]:
    """Return the gain of re-ranking over a baseline in nDCG@10: mean over seeds, bootstrap interval over queries, targets."""
    queries = runs[0][baseline]["ndcg@10"]
    reranked = {query: fmean(run[RERANKED]["ndcg@10"][query] for run in runs) for query in queries}
    compared = compare_paired(queries, reranked)
    mark, target_lead = MARKS[baseline]
    return {
        "over": baseline,
        **asdict(compared),
        "bar_on_the_mark": compared.new - mark >= target_lead,
        "bar_on_this_run": compared.difference >= target_lead,
    }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the shop's data, as chorus publishes it.")],
    model: Annotated[str, typer.Option(help="Sentence encoder: preset, hub name or folder.")] = "minilm",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 7,
    work: Annotated[Path, typer.Option(help="Folder for catalogues, index and boosters; a second run reuses the index.")] = Path(
        ".gavel/chorus-reranker"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Print mean ± standard deviation over the seeds for every system, and the leads; exit 1 if a target is missed."""
    machine = describe_machine()
    work.mkdir(parents=True, exist_ok=True)
    store, encoder = open_corpus(data, model, work)
    catalogs = [chorus.prepare(data, work / f"catalog-{fold}", fold=fold) for fold in range(chorus.FOLDS)]
    runs, choices = [], []
    for number in range(seed, seed + seeds):
        per_query, chosen = run_seed(catalogs, store, encoder, number, work)
        runs.append(per_query)
        choices.append(chosen)
    table = mean_and_sd_of_runs([_means(run) for run in runs])
    leads = [lead(runs, baseline) for baseline in MARKS]

    def show() -> None:
        show_scores(f"chorus: judged queries, each held out once, {seeds} seeds", "system", table)
        for gain in leads:
            interval = f"95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
            console.print(f"nDCG@10 over {gain['over']}: {gain['difference']:+.3f}, {interval}; {_bar(gain)}")

    values = {"mean_and_sd": table, "leads": leads, "choices": choices, "runs": runs}
    QualityResult(machine=machine, values=values).report(as_json, show)
    raise typer.Exit(0 if all(gain["bar_on_the_mark"] for gain in leads) else 1)


def _means(run: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {system: {measure: fmean(values.values()) for measure, values in measures.items()} for system, measures in run.items()}


def _bar(gain: Mapping[str, Any]) -> str:
    mark, target_lead = MARKS[gain["over"]]
    on_mark, on_run = ("met" if gain[name] else "NOT met" for name in ("bar_on_the_mark", "bar_on_this_run"))
    return f"nDCG@10 >= {mark + target_lead:.3f} {on_mark}, lead >= {target_lead} {on_run}"


if __name__ == "__main__":
    typer.run(main)
