"""Quality of predicting next baskets of a gift shop (UCI Online Retail): a trained buyer tower beside simple systems.

python -m benchmarks.quality.next_basket ../shared/data/online-retail --model sentence-transformers/all-MiniLM-L6-v2 --seeds 3

The last 30 days are the test month. The 30 days before, val, chose all parameters (`--month val` measures on val). A system is
trained on everything before its month. A buyer's history ends at the buyer's first basket of the month; the products of that basket
are the targets. Every product of the shop is ranked, including the products of the history.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benchmarks.machine import describe_machine
from benchmarks.measurement import QualityResult, mean_and_sd_of_runs, show_scores, show_targets
from catalog.online_retail import Invoices, Months, read_invoices
from gavel.workspace.console import console, progress, show_table
from models.config.buyers import BuyerTrainingConfig
from models.data.baskets import Basket, next_baskets, training_baskets
from models.towers.features import Features
from models.towers.published import published_towers
from models.towers.two_towers import TwoTowers
from models.training.buyers import (
    BuyerModel,
    ProjectedItems,
    StoredItems,
    best_items,
    measure,
    start_white,
    train_buyers,
)
from processing.evaluation.zero_shot import SentenceEncoder
from retrieval.contracts.items import item_text
from retrieval.encoders.feature_spec import FeatureSpec
from retrieval.evaluation.significance import PairedComparison, compare_paired

POPULARITY, OWN, KNN = "popularity", "own products by frequency", "item-kNN"
UNTRAINED, AVERAGE, ATTENTION = "average, untrained", "average, trained", "attention"
TRAINED = {AVERAGE: 0, ATTENTION: 1}  # system -> number of attention heads
MEASURES = ("recall@50", "hit_rate@50", "recall@50, new", "hit_rate@50, new")
K = 50
MAX_LENGTH = 64  # tokens of a title
POPULARITY_DAYS = (7, 14, 30, 60, 90, 365)
HALF_LIVES = (None, 30.0, 60.0, 120.0)
NEIGHBOURS, SHRINKS, OWN_SHARES = (50, None), (0.0, 10.0), (0.0, 1.0)
BAR = 2.0  # target: this many times the value of popularity
# Chosen on val, seed 7: see docs/performance.md, "Next basket".
CONFIG = BuyerTrainingConfig(epochs=12, rate=2e-3)

Scores = NDArray[np.float64]  # (buyers, products)
Values = dict[str, NDArray[np.float64]]  # measure -> value of every buyer, NaN for a buyer without a target


@dataclass(frozen=True)
class Period:
    """The target baskets of a month, and the purchases before the month.

    Attributes:
        train: baskets before the month.
        targets: first basket in the month of each buyer with a history.
        counts: (I, days) purchases of each product by day before the month; column 0 is the day before.
        together: "baskets" or "buyers" -> (I, I) numbers of baskets or buyers before the month that hold both products.
    """

    train: Sequence[Basket]
    targets: Sequence[Basket]
    counts: NDArray[np.float64]
    together: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Shop:
    """The products of the shop, as the towers read them."""

    encodings: NDArray[np.float32]
    features: Features
    spec: FeatureSpec
    model: str


def read_period(invoices: Invoices, rows: Mapping[str, int], start: Any, end: Any) -> Period:
    """Return the period from `start` to `end`; `rows` maps item_id -> row."""
    before = [purchase for purchase in invoices.purchases if purchase.timestamp < start]
    counts = np.zeros((len(rows), max(POPULARITY_DAYS)))
    for purchase in before:
        counts[rows[purchase.item_id], min((start - purchase.timestamp) // timedelta(days=1), max(POPULARITY_DAYS) - 1)] += 1
    held: dict[str, set[tuple[Any, int]]] = {
        "baskets": {((purchase.buyer_id, purchase.timestamp.date()), rows[purchase.item_id]) for purchase in before},
        "buyers": {(purchase.buyer_id, rows[purchase.item_id]) for purchase in before},
    }
    together = {over: _together(pairs, len(rows)) for over, pairs in held.items()}
    targets = next_baskets(invoices.purchases, rows, start, end)
    return Period(training_baskets(before, rows, start), targets, counts, together)


def _together(pairs: set[tuple[Any, int]], products: int) -> NDArray[np.float64]:
    numbers: dict[Any, int] = {}
    holders = [numbers.setdefault(holder, len(numbers)) for holder, _ in pairs]
    held = csr_matrix((np.ones(len(pairs)), (holders, [row for _, row in pairs])), shape=(len(numbers), products))
    return np.asarray((held.T @ held).todense())


def popularity(period: Period, days: int) -> Scores:
    """Return (B, I): scores of the products by their purchases in the last `days` days before the month."""
    return np.tile(period.counts[:, :days].sum(axis=1), (len(period.targets), 1))


def own_counts(baskets: Sequence[Basket], products: int, half_life: float | None) -> Scores:
    """Return (B, I): the number of each buyer's purchases of each product, weighted by 0.5 ** (age in days / half_life).

    A half_life of None weights all purchases with 1.
    """
    counts = np.zeros((len(baskets), products))
    for row, basket in enumerate(baskets):
        weights = 1.0 if half_life is None else 0.5 ** (basket.ages_days / half_life)
        np.add.at(counts[row], basket.items, weights)
    return counts


def own_frequency(period: Period, half_life: float | None, days: int) -> Scores:
    """Return (B, I): scores that rank a buyer's own products by frequency, then the other products by popularity."""
    popular = popularity(period, days)
    return own_counts(period.targets, popular.shape[1], half_life) + 1e-6 * popular


def item_knn(period: Period, over: str, neighbours: int | None, shrink: float, own: float, half_life: float | None) -> Scores:
    """Return (B, I): scores by co-purchases with the buyer's products: cosine over baskets or buyers (Sarwar et al. 2001)."""
    together = period.together[over]  # (I, I)
    norms = np.sqrt(together.diagonal())
    similar = together / (np.outer(norms, norms) + shrink + 1e-9)
    if neighbours:
        least = np.sort(similar, axis=1)[:, -neighbours][:, None]
        similar = np.where(similar >= least, similar, 0.0)
    np.fill_diagonal(similar, own * similar.diagonal())
    return own_counts(period.targets, len(norms), half_life) @ similar


def values_of(scores: NDArray[Any], baskets: Sequence[Basket]) -> Values:
    """Return Recall@50 and HitRate@50 of every buyer, for all products of the basket and for the products new to the buyer."""
    fresh = scores.astype(np.float64)
    for row, basket in enumerate(baskets):
        fresh[row, list(basket.owned)] = -np.inf
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for basket, best, best_fresh in zip(baskets, best_items(scores, K), best_items(cast("Any", fresh), K), strict=True):
        new = np.setdiff1d(basket.targets, np.array(sorted(basket.owned)))
        for suffix, top, targets in (("", best, basket.targets), (", new", best_fresh, new)):
            hits = len(np.intersect1d(top, targets))
            values[f"recall@50{suffix}"].append(hits / len(targets) if len(targets) else np.nan)
            values[f"hit_rate@50{suffix}"].append(float(hits > 0) if len(targets) else np.nan)
    return {name: np.array(numbers) for name, numbers in values.items()}


def choose(system: Callable[..., Scores], period: Period, grid: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], float]:
    """Return the parameters of `grid` with the best Recall@50 over a period, the first ones on a tie, and that recall."""
    trials = [(measure(cast("Any", system(period, *given)), period.targets).recall_at_50, given) for given in grid]
    best = max(trials, key=lambda trial: trial[0])
    return best[1], best[0]


def projected(shop: Shop, seed: int) -> ProjectedItems:
    """Create the item tower: a frozen encoder, a linear projection initialised as a whitening, embeddings of the product series."""
    torch.manual_seed(seed)
    config = replace(published_towers(shop.model), linear=True, features=shop.spec)
    tower = TwoTowers(config).item_tower
    start_white(tower.projection, shop.encodings)
    return ProjectedItems(tower, shop.encodings, shop.features, shop.encodings.shape[1])


def train_and_score(shop: Shop, heads: int, seed: int, period: Period, work: Path, step: Callable[[int, int], None]) -> Scores:
    """Train on everything before the month, and return the last epoch's scores of the month's buyers.

    Scores that an earlier run stored in `work` are read instead.
    """
    config = replace(CONFIG, heads=heads, seed=seed)
    key = repr((config, shop.model, len(period.train), shop.encodings.sum()))
    path = work / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not path.is_file():
        model = train_buyers(projected(shop, seed), period.train, (), config, work / ".checkpoints" / path.stem, step).model
        np.save(path, model.scores(period.targets))
    return np.asarray(np.load(path), dtype=np.float64)


def read_shop(invoices: Invoices, model: str, bought: set[str]) -> Shop:
    """Encode all titles, and fit the features to the item_ids in `bought`."""
    encoder = SentenceEncoder(model, MAX_LENGTH)
    encodings = encoder.encode([item_text(item.title, item.description) for item in invoices.products])
    rows = [{"category": item.category} for item in invoices.products]
    training_rows = [row for row, item in zip(rows, invoices.products, strict=True) if item.item_id in bought]
    spec = FeatureSpec.fit(training_rows, ["category"], min_count=2)
    return Shop(encodings, Features.of(spec, rows), spec, model)


def rankings(
    invoices: Invoices, shop: Shop, month: str, seeds: Sequence[int], work: Path, step: Callable[[int, int], None]
) -> tuple[Any, ...]:
    """Score every buyer of a month with every system. Parameters of the untrained systems are chosen on val.

    Returns:
        The month's baskets; system -> scores, one array per seed or a single one; system -> (chosen parameters, Recall@50 on val).
    """
    rows = {item.item_id: row for row, item in enumerate(invoices.products)}
    months = Months.of(invoices.purchases)
    val = read_period(invoices, rows, months.val, months.test)
    period = val if month == "val" else read_period(invoices, rows, months.test, months.end)
    days, reached = choose(popularity, val, [(days,) for days in POPULARITY_DAYS])
    chosen = {POPULARITY: (days, reached)}
    chosen[OWN] = choose(own_frequency, val, [(half_life, *days) for half_life in HALF_LIVES])
    grid = product(("baskets", "buyers"), NEIGHBOURS, SHRINKS, OWN_SHARES, (None, 60.0))
    chosen[KNN] = choose(item_knn, val, list(grid))
    lots = StoredItems(shop.encodings)

    def untrained(period: Period, half_life: float | None) -> Scores:
        config = BuyerTrainingConfig(heads=0, half_life_days=half_life)
        return BuyerModel(lots, config).scores(period.targets).astype(np.float64)

    chosen[UNTRAINED] = choose(untrained, val, [(half_life,) for half_life in HALF_LIVES])
    systems: dict[str, Callable[..., Scores]] = {POPULARITY: popularity, OWN: own_frequency, KNN: item_knn, UNTRAINED: untrained}
    scores = {name: [system(period, *chosen[name][0])] for name, system in systems.items()}
    total, done = len(TRAINED) * len(seeds) * CONFIG.epochs, 0
    for name, heads in TRAINED.items():
        scores[name] = []
        for seed in seeds:
            before = done
            scores[name].append(train_and_score(shop, heads, seed, period, work, partial(_advance, step, before, total)))
            done += CONFIG.epochs
    return period.targets, scores, chosen


def _advance(step: Callable[[int, int], None], before: int, total: int, epoch: int, _: int) -> None:
    step(before + epoch, total)


def compare(values: Mapping[str, Sequence[Values]], better: str, worse: str, measure: str) -> PairedComparison:
    """Compare two systems buyer by buyer; the value of a buyer is the mean over the seeds."""
    means = [np.mean([run[measure] for run in values[system]], axis=0) for system in (worse, better)]
    has_target = ~np.isnan(means[0])
    base, new = ({str(buyer): float(value) for buyer, value in enumerate(mean[has_target])} for mean in means)
    return compare_paired(base, new)


def ratio_interval(values: Mapping[str, Sequence[Values]], system: str, measure: str) -> tuple[float, float, float]:
    """Return the ratio of a system to popularity, and the lower and upper end of its 95 % bootstrap interval over buyers."""
    new, base = (np.mean([run[measure] for run in values[name]], axis=0) for name in (system, POPULARITY))
    random = np.random.default_rng(0)
    sample = random.integers(len(new), size=(2_000, len(new)))
    low, high = np.percentile(new[sample].mean(axis=1) / base[sample].mean(axis=1), [2.5, 97.5])
    return float(new.mean() / base.mean()), float(low), float(high)


def main(
    data: Annotated[Path, typer.Argument(help="Folder of online_retail.csv.gz.")],
    model: Annotated[str, typer.Option(help="Sentence encoder: preset, hub name or folder.")] = "minilm",
    month: Annotated[str, typer.Option(help="Month to measure: val or test.")] = "test",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 7,
    work: Annotated[Path, typer.Option(help="Folder for trained scores; a second call reuses them.")] = Path(".gavel/next-basket"),
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="PNG of the plot.")] = None,
) -> None:
    """Print mean ± standard deviation of Recall@50 and HitRate@50 over the seeds; exit 1 if a target is missed."""
    if month not in ("val", "test"):
        raise typer.BadParameter("--month is val or test")
    torch.set_num_threads(1)  # the matrices are small, so more threads would wait for each other
    machine = describe_machine()
    work.mkdir(parents=True, exist_ok=True)
    invoices = read_invoices(data)
    months = Months.of(invoices.purchases)
    before = getattr(months, month)
    shop = read_shop(invoices, model, {purchase.item_id for purchase in invoices.purchases if purchase.timestamp < before})
    with progress("train") as step:
        baskets, scores, chosen = rankings(invoices, shop, month, range(seed, seed + seeds), work, step)
    values = {system: [values_of(one, baskets) for one in runs] for system, runs in scores.items()}
    result = summary(values, chosen) | {
        "month": month,
        "buyers": len(baskets),
        "set_aside": invoices.set_aside,
    }
    QualityResult(machine=machine, values=result).report(as_json, lambda: show(result))
    if plot:
        draw(values, plot)
    raise typer.Exit(0 if all(result["bars"].values()) else 1)


def summary(values: Mapping[str, Sequence[Values]], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return all metrics, gains, ratios to popularity, targets and chosen parameters, for JSON."""
    table: dict[str, Any] = {}
    for system, runs in values.items():
        per_seed = [{system: {name: float(np.nanmean(run[name])) for name in MEASURES}} for run in runs]
        table |= mean_and_sd_of_runs(per_seed)
    gains = {
        f"{better} - {worse}, {name}": asdict(compare(values, better, worse, name))
        for better, worse in ((ATTENTION, AVERAGE), (ATTENTION, OWN), (ATTENTION, KNN))
        for name in MEASURES
    }
    ratios = {name: ratio_interval(values, ATTENTION, name) for name in MEASURES[:2]}
    bars = {f"{name} >= {BAR:g} x popularity": ratio[0] >= BAR for name, ratio in ratios.items()}
    bars |= {f"{name} above the trained average": gains[f"{ATTENTION} - {AVERAGE}, {name}"]["low"] > 0 for name in MEASURES[:2]}
    return {"mean_and_sd": table, "gains": gains, "over popularity": ratios, "bars": bars, "chosen on val": dict(chosen)}


def show(result: Mapping[str, Any]) -> None:
    """Print the metrics as tables."""
    show_scores(f"Next baskets of {result['buyers']} buyers, {result['month']} month", "system", result["mean_and_sd"])
    rows = [
        (name, f"{gain['difference']:+.4f}", f"[{gain['low']:+.4f}, {gain['high']:+.4f}]") for name, gain in result["gains"].items()
    ]
    show_table("Paired gains with 95 % bootstrap intervals over buyers", ("gain", "mean", "interval"), rows)
    for name, (ratio, low, high) in result["over popularity"].items():
        console.print(f"{ATTENTION} / popularity, {name}: {ratio:.2f} [{low:.2f}, {high:.2f}]", highlight=False)
    show_targets(result["bars"])
    console.print(f"chosen on val: {result['chosen on val']}", style="dim", highlight=False)


def draw(values: Mapping[str, Sequence[Values]], path: Path) -> None:
    """Draw one panel per measure, with one bar per system and one dot per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    panels[0].invert_yaxis()  # the first system on top; the axis is shared
    for panel, name in zip(panels, MEASURES, strict=True):
        means = {system: [float(np.nanmean(run[name])) for run in runs] for system, runs in values.items()}
        panel.barh(list(means), [fmean(seeds) for seeds in means.values()], color="#9db4c8")
        for place, seeds in enumerate(means.values()):
            panel.plot(seeds, [place] * len(seeds), "o", color="#1f3a52", markersize=3)
        panel.set_title(name, fontsize=10)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)
