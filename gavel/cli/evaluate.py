"""`gavel evaluate` and `gavel compare`: measure a tower, compare two systems."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from gavel.workspace.console import Stages, console, progress, show_metrics, show_table
from gavel.workspace.folders import Workspace
from gavel.workspace.options import CatalogOption, Json, Seed, print_json
from retrieval.config.settings import Settings
from retrieval.search.service import Mode

if TYPE_CHECKING:
    from processing.evaluation.compare import QueryComparison, RankedItem, RunComparison
    from processing.evaluation.report import Evaluation

UNJUDGED = "?"  # id of a typed query that has no judgments
Split = Annotated[str, typer.Option(help="Split of the queries: test for a report, val for choices.")]


def evaluate(
    catalog: CatalogOption = None,
    split: Split = "test",
    tower: Annotated[str | None, typer.Option(help="tower_id; by default the tower of the release.")] = None,
    release: Annotated[Path | None, typer.Option(help="Release folder or release_id; the newest one by default.")] = None,
    zero_shot: Annotated[str, typer.Option(help="Sentence encoder to compare with: preset, hub name or folder.")] = "",
    depth: Annotated[int, typer.Option(min=1, help="Ranks in every run.")] = 1_000,
    depths: Annotated[
        str, typer.Option(help="Depths of the measures, such as 1,10,100; 1, 5, 10, 20, 50, 100, 200 and 1000 by default.")
    ] = "",
    exponential_gain: Annotated[
        bool, typer.Option("--exponential-gain", help="Measure nDCG with the gain 2^grade - 1, too, as ndcg_exp.")
    ] = False,
    query_expansion: Annotated[
        bool, typer.Option("--query-expansion", help="Measure searches with query expansion (RM3), too.")
    ] = False,
    cross_encoder: Annotated[
        str, typer.Option(help="Measure hybrid searches whose best lots a cross-encoder orders, too: hub name or folder.")
    ] = "",
    baseline: Annotated[str, typer.Option(help="System that the others are tested against.")] = "BM25",
    out: Annotated[Path | None, typer.Option(help="Folder of the report; one in <home>/reports by default.")] = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw no plots.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a tower against BM25 and, with --zero-shot, an untrained encoder; report quality, speed and size."""
    from catalog.folder import CatalogFolder
    from gavel.workspace.wiring import find_tower
    from processing.evaluation.job import Plan, evaluate_to_folder, parse_depths
    from retrieval.contracts.release import load_release

    settings = Settings.from_env()
    workspace = Workspace(settings)
    source = CatalogFolder.load(workspace.catalog(catalog))
    release_folder = workspace.release(release) if release or not tower else workspace.release_of_tower(tower)
    tower_id = load_release(release_folder).tower_id
    folder, booster = find_tower(settings, tower_id), workspace.ranker(tower_id)
    plan = Plan(
        catalog=source,
        release=release_folder,
        tower=folder,
        booster=booster if booster.is_file() else None,
        split=split,
        zero_shot=zero_shot,
        depth=depth,
        depths=parse_depths(depths),
        exponential_gain=exponential_gain,
        baseline=baseline,
        candidates=settings.candidates,
        query_expansion=query_expansion,
        cross_encoder=cross_encoder,
        cross_encoder_candidates=settings.cross_encoder_candidates,
        seed=seed,
    )
    report = out or workspace.reports / f"{source.name}-{split}-{tower_id}"
    with Stages() as stages:
        result = evaluate_to_folder(plan, report, plots=not no_plots, phases=stages)
    from models.artefacts.model_card import write_model_card  # imports torch; a refused plan should not wait for that

    card = write_model_card(folder, result.to_dict())
    if as_json:
        print_json({"report": str(report), "model_card": str(card), **result.to_dict()})
    else:
        _show_evaluation(result)
        console.print(f"report {report / 'report.md'}\nmodel card {card}", style="dim", highlight=False, soft_wrap=True)


def compare(
    base: Annotated[str, typer.Argument(help="A tower_id, a release, or a run: <report>:<system>, or a run file of a report.")],
    new: Annotated[str, typer.Argument(help="Source to compare with BASE, in the same form.")],
    query: Annotated[
        str | None, typer.Argument(help="Show both lists for this query; by default all queries of the split are compared.")
    ] = None,
    catalog: CatalogOption = None,
    split: Split = "test",
    mode: Annotated[Mode, typer.Option(help="Retrieval mode for towers and releases.")] = "hybrid",
    rerank: Annotated[bool, typer.Option(help="Re-rank hybrid answers.")] = True,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Lots of each list.")] = 10,
    as_json: Json = False,
) -> None:
    """Compare two systems: both lists for a query, or wins and losses over all queries."""
    from catalog.folder import CatalogFolder
    from gavel.cli.run_sources import find_source
    from processing.evaluation.compare import JudgedQueries, compare_runs, side_by_side

    workspace = Workspace(Settings.from_env())
    judged = JudgedQueries(CatalogFolder.load(workspace.catalog(catalog)), split)
    with ExitStack() as stack:
        sources = [find_source(workspace, given, judged, mode, rerank, stack) for given in (base, new)]
        if query is None:
            runs = []
            for source in sources:
                with progress(source.name) as step:
                    runs.append(source.run(judged.queries, step))
            names = (sources[0].name, sources[1].name)
            compared = compare_runs(judged, runs[0], runs[1], names=names)
            print_json(asdict(compared)) if as_json else _show_comparison(compared)
            return
        query_id = judged.find(query)
        queries = {query_id: judged.text(query_id)} if query_id else {UNJUDGED: query}
        lists = [next(iter(source.run(queries, lambda done, total: None).values())) for source in sources]
        shown = side_by_side(judged, query, lists[0], lists[1], shown=k)
        print_json(asdict(shown)) if as_json else _show_lists(shown, sources[0].name, sources[1].name)


def _show_evaluation(result: "Evaluation") -> None:
    from processing.evaluation.report import COMPARISON_HEADER, COST_HEADER, HEADLINE, comparison_rows, cost_rows

    headline = {name: {m: q[m] for m in HEADLINE if m in q} for name, q in result.quality.items()}
    show_metrics(result.title, headline)
    show_table(f"Against {result.baseline}", COMPARISON_HEADER, comparison_rows(result), right_from=2)
    show_table("Speed and size", COST_HEADER, cost_rows(result))


def _show_comparison(compared: "RunComparison") -> None:
    from processing.evaluation.report import interval_text, p_text

    rows = [
        (
            measure,
            f"{test.base:.3f}",
            f"{test.new:.3f}",
            f"{test.difference:+.3f}",
            interval_text(test),
            p_text(test.p_value),
            f"{test.wins}/{test.losses}/{test.ties}",
        )
        for measure, test in compared.tests.items()
    ]
    header = ("measure", "base", "new", "diff", "95 % interval", "p", "won/lost/tied")
    console.print(f"base  {compared.base}\nnew   {compared.new}", highlight=False, markup=False)
    queries = next(iter(compared.tests.values())).queries
    show_table(f"{compared.catalog}: {queries} {compared.split} queries", header, rows)
    for title, changes in (("Greatest gains, nDCG@10", compared.gains), ("Greatest losses, nDCG@10", compared.losses)):
        if changes:
            cells = [
                (escape(c.query_id), escape(c.query), f"{c.base:.3f}", f"{c.new:.3f}", f"{c.difference:+.3f}") for c in changes
            ]
            show_table(title, ("id", "query", "base", "new", "diff"), cells, right_from=2)


def _show_lists(shown: "QueryComparison", base: str, new: str) -> None:
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("#", "base", "grade", "new", "grade", "moved"):
        table.add_column(name, justify="left" if name in ("base", "new") else "right", overflow="fold")
    for number in range(max(len(shown.base), len(shown.new))):
        left, right = (places[number] if number < len(places) else None for places in (shown.base, shown.new))
        table.add_row(str(number + 1), *_cells(left), *_cells(right), _moved(right))
    judged = f" ({shown.query_id})" if shown.query_id else " (not judged)"
    console.print(f"“{shown.query}”{judged}\nbase  {base}\nnew   {new}", highlight=False, markup=False)
    console.print(table)


def _cells(place: "RankedItem | None") -> tuple[str, str]:
    if place is None:
        return "", ""
    return escape(place.title or place.item_id), "–" if place.grade is None else str(place.grade)


def _moved(place: "RankedItem | None") -> str:
    """Return the change of an item's rank between the two lists, such as "↑ 2"."""
    if place is None:
        return ""
    if place.other_rank is None:
        return "new"
    steps = place.other_rank - place.rank
    return "=" if steps == 0 else f"{'↑' if steps > 0 else '↓'} {abs(steps)}"
