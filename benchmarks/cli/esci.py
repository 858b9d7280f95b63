"""`gavel bench esci`: the published comparison on the Shopping Queries Data Set."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gavel.workspace.config_file import configured
from gavel.workspace.console import console, progress, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, Seed
from retrieval.config.settings import Settings

if TYPE_CHECKING:
    from benchmarks.quality.esci import EsciResult
    from catalog.esci import Corpus, Version


def esci(
    data: Annotated[Path, typer.Option(help="Folder of the two parquet files of github.com/amazon-science/esci-data.")],
    model: Annotated[
        str, typer.Option(help="Sentence encoder to measure and to train: preset, hub name or folder; compact is only trained.")
    ] = "minilm",
    locale: Annotated[str, typer.Option(help="us, es or jp.")] = "us",
    version: Annotated[str, typer.Option(help="Judgments: small (the harder queries) or large (all).")] = "small",
    corpus: Annotated[str, typer.Option(help="Products that are searched: all of the locale, or judged.")] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of mined negatives in the second stage.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the first stage; 5, or 20 for compact.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pairs per step; 64, or 128 for compact.")] = None,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens read from each text; the preset's number by default.")
    ] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Number of test queries, drawn by --seed; all by default.")] = None,
    index: Annotated[str, typer.Option(help="Vector index: flat compares with every product; hnsw, … approximate.")] = "flat",
    work: Annotated[
        Path | None, typer.Option(help="Folder of all steps, which a second call resumes; <home>/benches/esci by default.")
    ] = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Prepare, train in three stages, embed, index and measure ESCI beside published results; a second call resumes."""
    from benchmarks.quality.esci import EsciPlan, run_comparison

    plan = EsciPlan(
        data=data,
        work=work or Workspace(Settings.from_env()).benches / "esci",
        model=model,
        locale=locale,
        version=cast("Version", version),
        corpus=cast("Corpus", corpus),
        rounds=rounds,
        epochs=epochs,
        batch_size=batch_size,
        max_length=max_length,
        queries=queries,
        index_type=index,
        seed=seed,
    )
    result = run_comparison(plan, configured(plan.training, "training"), progress)
    result.report(as_json, lambda: _show(result, plan.work))


def _show(result: "EsciResult", work: Path) -> None:
    from benchmarks.quality.esci import COLUMNS

    title = f"{result.catalog}: {result.queries:,} test queries over {result.lots:,} products"
    sources = list(dict.fromkeys(row["source"] for row in result.published))
    measured = [(name, *_cells(values)) for name, values in result.quality.items()]
    aims = [f"{low:.2f}–{high:.2f}".replace("0.", ".") for low, high in result.aims.values()]
    published = [(f"{row['system']} ({sources.index(row['source']) + 1})", *_cells(row["quality"])) for row in result.published]
    header = ("system", *(column.replace("recall", "R").replace("ndcg", "nDCG").replace("mrr", "MRR") for column in COLUMNS))
    show_table(title, header, [*measured, ("aim", *aims, "", ""), ("", *[""] * len(COLUMNS)), *published])
    for number, source in enumerate(sources, 1):
        console.print(f"({number}) {source}", style="dim", highlight=False, soft_wrap=True)
    note = "Relevant: E and S. Gains of nDCG: E 1.0, S .1, C .01, I 0. Judged nDCG: of the judged products alone, a lower bound."
    console.print(note, style="dim", highlight=False, soft_wrap=True)
    steps = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in result.seconds.items())
    console.print(f"{steps}; peak memory {result.peak_rss_mb:,.0f} MB\nreport {work / 'report.json'}", style="dim", highlight=False)


def _cells(values: Mapping[str, float]) -> list[str]:
    """Return a cell for each column; empty where a result has no value."""
    from benchmarks.quality.esci import COLUMNS

    return [f"{values[column]:.3f}".replace("0.", ".") if column in values else "" for column in COLUMNS]
