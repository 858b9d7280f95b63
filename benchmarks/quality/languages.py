"""Quality of towers in two languages without pretrained weights: trained on emoji, searched in English and Arabic.

python -m benchmarks.quality.languages ../shared/data/emoji-noto-cldr --seeds 3

A seed splits the 1,576 emoji into train, val and test, and draws weights and batches. Training reads the names and keywords of the
train emoji in both languages, and lots listed in either language. Every text (name or keyword) that only held-out emoji have is a
query. The metric is Recall@10 among all 1,576 lots, by the languages of query and lots:

- Same language, for the first target: Arabic queries over lots listed in Arabic, and English queries over lots listed in English.
  Arabic must reach at least English minus 5 points.
- Across languages, for the second target: Arabic queries over lots listed in English, and the reverse for comparison. Arabic
  queries must reach at least ten times the recall of a random order.
- A shop of both languages, each lot listed in one language that the seed draws: queries in either language.

A lot's text is its name and its keywords. So in the same language the lot contains the query word for word, and BM25 finds the
lot. In "titles alone" the queries are keywords and the lots have only names, so that they share single words at most.

Vocabulary and epochs were chosen with --split val. The test split was measured once, after all choices.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, mean_and_sd
from catalog import emoji
from catalog.folder import CatalogFolder, Qrels
from gavel.workspace.console import console, progress, show_table
from models.artefacts.item_encoder import ItemEncoder
from models.data.tables import ItemTable
from models.training.two_towers import TrainingConfig, train_towers
from processing.evaluation.zero_shot import SentenceEncoder
from retrieval.contracts.items import Item, item_text, query_text
from retrieval.encoders.photos import read_photo
from retrieval.encoders.query_encoder import QueryEncoder
from retrieval.evaluation.metrics import Run, evaluate_per_query, fuse_runs
from retrieval.index.embedded.bm25 import Bm25Index

MEASURE = "recall@10"
DEPTH = 50
VOCABULARY, EPOCHS = 1_500, 10  # a small vocabulary splits rare train words, as it will split unknown words of held-out emoji
ROUNDS, LEVEL = 2_000, 95  # rounds and confidence level in percent of the bootstrap
GAP, TIMES = 0.05, 10.0  # values of the two targets
TOWER, PHOTOS, BM25, FUSED, CHANCE = "tower", "tower, pictures", "BM25", "tower + BM25", "random order"
PUBLISHED, TITLES = "encoder as published", "titles alone"
SAME = {language: (language, language) for language in emoji.LANGUAGES}  # language -> (query, lots)

Values = dict[tuple[str, str, str], NDArray[np.float64]]  # (system, language of queries, listing) -> value of each query


@dataclass(frozen=True)
class Corpus:
    """Lots in one listing, with the judged queries of a split."""

    listing: str
    lots: ItemTable
    qrels: Qrels

    def run(self, scores: NDArray[np.float32]) -> Run:
        """Return the DEPTH best lots of every query by (Q, N) scores, ties in the order of the lots. Scores of 0 are left out."""
        best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        ranked = zip(self.qrels.queries, best, scores, strict=True)
        return {query: [self.lots.ids[row] for row in rows if own[row] != 0] for query, rows, own in ranked}


def read_corpora(data: Path, folder: Path, split: str, seed: int) -> tuple[CatalogFolder, list[Corpus]]:
    """Return the training catalogue, and the corpora to search: one per listing, and one with only names per language."""
    catalogs = {listed: emoji.prepare(data, folder / listed, seed=seed, listed_in=listed) for listed in emoji.LISTED_IN}
    corpora = [
        Corpus(listed, ItemTable.read(each.item_files(split), keep_records=True), each.qrels(split))
        for listed, each in catalogs.items()
    ]
    names = [_names_alone(corpus) for corpus in corpora if corpus.listing in emoji.LANGUAGES]
    return catalogs[emoji.EITHER], [*corpora, *names]


def _names_alone(corpus: Corpus) -> Corpus:
    """Return a corpus of the same lots with only titles. Its queries are keywords of that language that are no lot's name."""
    grades = corpus.qrels.grades
    queries = {
        query: text
        for query, text in corpus.qrels.queries.items()
        if query.startswith(f"{corpus.listing}/") and emoji.NAME_GRADE not in grades[query].values()
    }
    items: Sequence[Item] = corpus.lots.records
    lots = replace(corpus.lots, texts=[item_text(item.title, "") for item in items])
    return Corpus(f"{TITLES}, {corpus.listing}", lots, Qrels(queries, {query: grades[query] for query in queries}))


def train(catalog: CatalogFolder, out: Path, seed: int, *, photos: bool, epochs: int, step: Callable[[int, int], None]) -> Path:
    """Train compact towers from scratch on the train emoji, and return their folder."""
    config = replace(TrainingConfig.for_catalog(catalog.name, use_image=photos, seed=seed), photos="always")
    tower = replace(config.tower, vocabulary=VOCABULARY)
    settings = replace(config, tower=tower, epochs=epochs, validate_every=epochs)
    return train_towers(catalog, settings, out, step).tower_folder


def rank(corpus: Corpus, tower: Path, *, photos: bool) -> Run:
    """Rank the lots by the towers as they are served: item tower, and query tower in int8."""
    encoder = ItemEncoder.load(tower)
    shown = [read_photo(path, encoder.card.image_size) if photos and path else None for path in corpus.lots.photos]
    items = encoder.encode(corpus.lots.texts, shown)  # (N, D)
    return corpus.run(QueryEncoder.load(tower).encode(list(corpus.qrels.queries.values())) @ items.T)


def rank_by_words(corpus: Corpus) -> Run:
    """Rank the lots by BM25."""
    index = Bm25Index.build(enumerate(corpus.lots.texts))
    scores = np.zeros((len(corpus.qrels.queries), len(corpus.lots.ids)), dtype=np.float32)
    for row, text in enumerate(corpus.qrels.queries.values()):
        scores[row, index.row_ids] = index.scores(query_text(text))
    return corpus.run(scores)


def rank_by_chance(corpus: Corpus, seed: int) -> Run:
    """Return the lots in a random order for every query."""
    random = np.random.default_rng(seed)
    return corpus.run(random.random((len(corpus.qrels.queries), len(corpus.lots.ids)), dtype=np.float32) + 1)


def rank_by_encoder(corpus: Corpus, model: Path) -> Run:
    """Rank the lots by a published sentence encoder."""
    encoder = SentenceEncoder(str(model))
    queries = encoder.encode([query_text(text) for text in corpus.qrels.queries.values()])
    return corpus.run(queries @ encoder.encode(corpus.lots.texts).T)


def measure(corpus: Corpus, runs: Mapping[str, Run]) -> Values:
    """Return the Recall@10 of every query by (system, language of the query, listing)."""
    values: Values = {}
    for system, run in runs.items():
        per_query = evaluate_per_query(corpus.qrels.grades, run)[MEASURE]
        for language in emoji.LANGUAGES:
            of_language = [value for query, value in per_query.items() if query.startswith(f"{language}/")]
            if of_language:
                values[system, language, corpus.listing] = np.array(of_language)
    return values


def run_seed(data: Path, seed: int, split: str, *, photos: bool, model: Path | None, epochs: int) -> Values:
    """Train on one split of the emoji and measure every system in every set-up."""
    values: Values = {}
    with tempfile.TemporaryDirectory() as scratch:
        catalog, corpora = read_corpora(data, Path(scratch), split, seed)
        towers = {}
        for name in (TOWER, PHOTOS) if photos else (TOWER,):
            with progress(f"{name}, seed {seed}") as step:
                towers[name] = train(catalog, Path(scratch) / "towers", seed, photos=name == PHOTOS, epochs=epochs, step=step)
        for corpus in corpora:
            runs = {name: rank(corpus, folder, photos=name == PHOTOS) for name, folder in towers.items()}
            runs[BM25] = rank_by_words(corpus)
            runs[FUSED] = fuse_runs([runs[TOWER], runs[BM25]], DEPTH)
            runs[CHANCE] = rank_by_chance(corpus, seed)
            if model and corpus.listing.endswith("en"):
                runs[PUBLISHED] = rank_by_encoder(corpus, model)
            values |= measure(corpus, runs)
    return values


def interval(seeds: Sequence[NDArray[np.float64]], minus: Sequence[NDArray[np.float64]] | None = None) -> tuple[float, float]:
    """Return a bootstrap interval (Efron 1979) of the mean over seeds of the mean over queries.

    Queries are resampled within each seed.

    Args:
        seeds: values of the queries, one array per seed.
        minus: values of other queries, one array per seed, whose mean is subtracted; they are resampled independently.

    Returns:
        The 2.5th and the 97.5th percentile of the resampled means.
    """
    random = np.random.default_rng(0)

    def resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = values[random.integers(len(values), size=(ROUNDS, len(values)))].mean(axis=1)  # (ROUNDS,)
        return means

    means = np.mean([resampled_means(values) for values in seeds], axis=0)
    if minus is not None:
        means = means - np.mean([resampled_means(values) for values in minus], axis=0)
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def summarise(runs: Sequence[Values]) -> dict[str, dict[str, Any]]:
    """Summarise the values of all seeds.

    Returns:
        "system | query language | listing" -> mean and standard deviation over seeds, interval over queries, number of queries.
    """
    table = {}
    for system, language, listing in runs[0]:
        seeds = [run[system, language, listing] for run in runs]
        mean, sd = mean_and_sd([float(values.mean()) for values in seeds])
        low, high = interval(seeds)
        table[f"{system} | {language} | {listing}"] = {
            "mean": mean,
            "sd": sd,
            "interval": [low, high],
            "queries": sum(map(len, seeds)),
        }
    return table


def compare_with_targets(runs: Sequence[Values], system: str = TOWER) -> dict[str, dict[str, Any]]:
    """Return for each target the value that a system reaches, its bootstrap bounds, and True if the target is reached."""

    def of(name: str, query: str, listing: str) -> list[NDArray[np.float64]]:
        return [run[name, query, listing] for run in runs]

    arabic, english = of(system, *SAME["ar"]), of(system, *SAME["en"])
    gap = fmean(float(a.mean() - b.mean()) for a, b in zip(arabic, english, strict=True))
    across, chance = of(system, "ar", "en"), of(CHANCE, "ar", "en")
    times = fmean(float(v.mean()) for v in across) / fmean(float(v.mean()) for v in chance)
    least = interval(across)[0] / interval(chance)[1]
    return {
        "Arabic - English": {"value": gap, "interval": interval(arabic, english), "passed": gap >= -GAP},
        "Arabic over English / random order": {"value": times, "at_least": least, "passed": times >= TIMES},
    }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the emoji.")],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on; each splits the emoji anew.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 7,
    split: Annotated[str, typer.Option(help="Split to measure: val for choices, or test.")] = "test",
    photos: Annotated[bool, typer.Option("--photos", help="Train a second tower that also sees the pictures.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a sentence encoder, measured as published over English lots.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = EPOCHS,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Print mean ± standard deviation of Recall@10 over the seeds, and the targets; exit 1 if a target is missed."""
    machine = describe_machine()
    torch.set_num_threads(1)  # the matrices are small, so more threads would wait for each other
    runs = [run_seed(data, number, split, photos=photos, model=model, epochs=epochs) for number in range(seed, seed + seeds)]
    table, bars = summarise(runs), compare_with_targets(runs)

    def show() -> None:
        rows = [
            (*name.split(" | "), f"{cell['mean']:.3f} ± {cell['sd']:.3f}", "{:.3f} to {:.3f}".format(*cell["interval"]))
            for name, cell in table.items()
        ]
        header = ("system", "queries", "lots", "recall@10", f"{LEVEL} % interval")
        show_table(f"emoji, {split}: held-out emoji among all, {seeds} seeds", header, rows)
        for name, bar in bars.items():
            console.print(f"{name}: {bar['value']:.3f}, {'passed' if bar['passed'] else 'MISSED'}")

    QualityResult(machine=machine, values={"split": split, "recall@10": table, "bars": bars}).report(as_json, show)
    raise typer.Exit(0 if all(bar["passed"] for bar in bars.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
