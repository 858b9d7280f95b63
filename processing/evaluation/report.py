"""The report of an evaluation: one folder with Markdown, JSON, plots and runs.

<folder>/report.md, report.json               for people and for programs
<folder>/{quality,recall,latency,space}.png   the plots
<folder>/runs/<system>.ndjson.gz              one line per query: query_id, items best first; `gavel compare` reads them
"""

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from processing.evaluation.plots import plot_latency, plot_metrics, plot_recall_by_depth
from processing.evaluation.runs import SERVED, Latency
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import Run
from retrieval.evaluation.significance import PairedComparison
from retrieval.files import reason_of, replace_file

MARKDOWN_FILE, JSON_FILE, RUNS_FOLDER, RUN_SUFFIX = "report.md", "report.json", "runs", ".ndjson.gz"
QUALITY_PLOT, RECALL_PLOT, LATENCY_PLOT, SPACE_PLOT = "quality.png", "recall.png", "latency.png", "space.png"
PLOTS = (QUALITY_PLOT, RECALL_PLOT, LATENCY_PLOT, SPACE_PLOT)
HEADLINE = ("recall@10", "recall@50", "ndcg@10", "mrr", "map")
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexSize:
    """Size and build time of a system's index.

    Attributes:
        lots: number of items in the index.
        dimensions: length of the vectors.
        build_s: seconds from the vectors to the finished index, on one thread.
        memory_bytes: bytes of graph and keyword index, which are held in memory.
        disk_bytes: bytes of all files of the index.
    """

    lots: int
    dimensions: int
    build_s: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class EmbeddingTime:
    """Time to encode on the CPU of this machine.

    Attributes:
        query_ms: mean milliseconds for one query, one at a time.
        item_ms: milliseconds for one item of a batch, without reading its photo; None if the encoder of items was not there.
    """

    query_ms: float
    item_ms: float | None


@dataclass(frozen=True)
class Result:
    """The measurements of one system.

    Attributes:
        quality: measure -> mean over the queries, in [0, 1].
        latency: latency of single searches.
        index: size and build time of the system's index.
        embedding: time to encode; None for a system that searches no vectors.
        run: query_id -> item ids, best first.
    """

    quality: Mapping[str, float]
    latency: Latency
    index: IndexSize
    embedding: EmbeddingTime | None
    run: Run = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        catalog: name of the catalogue.
        split: split of the queries.
        queries: number of measured queries, which are those with a relevant item.
        moment: moment of the searches, ISO 8601 in UTC.
        tower_id: id of the measured tower.
        release_id: id of the release with the items.
        zero_shot: name of the sentence encoder for comparison; empty for none.
        depth: number of ranks in every run.
        baseline: name of the system that the others are tested against.
        tuning: fusion of hybrid searches and boosts of BM25, in words.
        hardware: processor and number of cores, in words.
        seconds: duration of the evaluation.
        results: system -> measurements.
        comparisons: system -> measure -> test against the baseline.
    """

    catalog: str
    split: str
    queries: int
    moment: str
    tower_id: str
    release_id: str
    zero_shot: str
    depth: int
    baseline: str
    tuning: str
    hardware: str
    seconds: float
    results: Mapping[str, Result]
    comparisons: Mapping[str, Mapping[str, PairedComparison]]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON values, without the runs, which are separate files."""
        values = asdict(self)
        for result in values["results"].values():
            del result["run"]
        return values

    @property
    def quality(self) -> dict[str, Mapping[str, float]]:
        """System -> measure -> mean."""
        return {name: result.quality for name, result in self.results.items()}

    @property
    def title(self) -> str:
        """Catalogue, queries and items, in one line."""
        lots = next(iter(self.results.values())).index.lots
        return f"{self.catalog}: {self.queries} {self.split} queries over {lots:,} lots"


def write_report(evaluation: Evaluation, folder: Path, *, plots: bool = True) -> Path:
    """Write the folder of a report and replace the files of an older report.

    Args:
        evaluation: evaluation to report.
        folder: folder of the report, created if it is missing.
        plots: True draws plots and links the space.png of draw_space(); False deletes older plots.

        Returns:
            The path of the Markdown file.
    """
    (folder / RUNS_FOLDER).mkdir(parents=True, exist_ok=True)
    stale = [*(folder / RUNS_FOLDER).glob(f"*{RUN_SUFFIX}"), *(() if plots else map(folder.joinpath, PLOTS))]
    for path in stale:
        path.unlink(missing_ok=True)
    for name, result in evaluation.results.items():
        save_run(result.run, run_path(folder, name))
    if plots:
        plot_metrics(evaluation.quality, evaluation.title, folder / QUALITY_PLOT)
        plot_recall_by_depth(evaluation.quality, evaluation.title, folder / RECALL_PLOT)
        latency = {name: asdict(result.latency) for name, result in evaluation.results.items()}
        plot_latency(latency, f"{evaluation.title}, one search at a time", folder / LATENCY_PLOT)
    replace_file(folder / JSON_FILE, json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False) + "\n")
    shown = [name for name in PLOTS if (folder / name).is_file()]
    return replace_file(folder / MARKDOWN_FILE, markdown(evaluation, shown))


def markdown(evaluation: Evaluation, plots: Sequence[str] = ()) -> str:
    """Return the report as Markdown; plots are linked by their file names."""
    e = evaluation
    facts = [
        ("tower", f"`{e.tower_id}`"),
        ("release", f"`{e.release_id}`"),
        *([("zero-shot encoder", f"`{e.zero_shot}`")] if e.zero_shot else []),
        ("moment of the searches", e.moment),
        ("ranks of every run", str(e.depth)),
        ("hybrid searches", e.tuning),
        ("hardware", e.hardware),
        ("took", f"{e.seconds:.0f} s"),
    ]
    reading = (
        f"Means over the {e.queries} queries with a lot of grade 2 or 3. The first {SERVED} ranks are the answer as it is served; "
        "ranks below come from the first stage."
    )
    tests = (
        f"Against {e.baseline}: paired randomisation test over queries (Smucker et al., CIKM 2007), two-sided, and 95 % bootstrap "
        "interval of the difference; queries that this way won, lost and tied."
    )
    speed = (
        "One search at a time, ten lots, from the text to the ranked lots; every way encodes the query, BM25 too. "
        "Memory: graph and keyword index. Query, item: time to encode one query alone, and one item in a batch, on the CPU."
    )
    parts = [
        f"# {e.title}",
        _table(("", ""), facts),
        f"## Quality\n\n{reading}",
        _table(("system", *_headline(e)), quality_rows(e, _headline(e))),
        *(f"![{Path(name).stem}]({name})" for name in plots if name in (QUALITY_PLOT, RECALL_PLOT)),
        f"## Who is better\n\n{tests}",
        _table(COMPARISON_HEADER, comparison_rows(e)),
        f"## Speed and size\n\n{speed}",
        _table(COST_HEADER, cost_rows(e)),
        *(f"![{Path(name).stem}]({name})" for name in plots if name == LATENCY_PLOT),
        "## All measures",
        _table(("measure", *e.results), [(m, *(f"{r.quality[m]:.3f}" for r in e.results.values())) for m in _measures(e)]),
        *(f"## The space\n\n![{Path(name).stem}]({name})" for name in plots if name == SPACE_PLOT),
    ]
    return "\n\n".join(parts) + "\n"


COMPARISON_HEADER = ("system", "measure", "diff", "95 % interval", "p", "won/lost/tied")
COST_HEADER = ("system", "mean ms", "p50", "p95", "p99", "query", "item", "index build", "memory", "disk")


def quality_rows(evaluation: Evaluation, measures: Iterable[str]) -> list[tuple[str, ...]]:
    """Return one row per system, with its name and one cell per measure."""
    names = list(measures)
    return [(name, *(f"{quality[m]:.3f}" for m in names)) for name, quality in evaluation.quality.items()]


def comparison_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Return one row per test against the baseline, with the columns of COMPARISON_HEADER."""
    return [
        (
            name,
            measure,
            f"{test.difference:+.3f}",
            interval_text(test),
            p_text(test.p_value),
            f"{test.wins}/{test.losses}/{test.ties}",
        )
        for name, tests in evaluation.comparisons.items()
        for measure, test in tests.items()
    ]


def cost_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Return one row per system, with the columns of COST_HEADER."""
    return [
        (
            name,
            *(f"{ms:.1f}" for ms in (r.latency.mean_ms, r.latency.p50_ms, r.latency.p95_ms, r.latency.p99_ms)),
            "–" if r.embedding is None else f"{r.embedding.query_ms:.1f} ms",
            "–" if r.embedding is None or r.embedding.item_ms is None else f"{r.embedding.item_ms:.1f} ms",
            f"{r.index.build_s:.1f} s",
            f"{r.index.memory_bytes / MIB:.1f} MiB",
            f"{r.index.disk_bytes / MIB:.1f} MiB",
        )
        for name, r in evaluation.results.items()
    ]


def interval_text(test: PairedComparison) -> str:
    """Format the 95 % interval of a difference."""
    return f"{test.low:+.3f}…{test.high:+.3f}"


def p_text(p_value: float) -> str:
    """Format a p value; below 0.001 only as a bound, because 10,000 resamples give no more digits."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def run_path(folder: Path, name: str) -> Path:
    """Return the path of one system's run in a report."""
    return folder / RUNS_FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}{RUN_SUFFIX}"


def save_run(run: Run, path: Path) -> None:
    """Write a run; equal runs give equal files."""
    lines = (json.dumps({"query_id": query, "items": list(items)}, ensure_ascii=False) for query, items in run.items())
    replace_file(path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def load_run(path: Path) -> dict[str, list[str]]:
    """Read a run that save_run() wrote.

    Raises:
        InvalidInput: the file is no run.
    """
    try:
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        if not rows:
            raise ValueError("it holds no query")
        return {row["query_id"]: [str(item) for item in row["items"]] for row in rows}
    except (ValueError, EOFError, TypeError, KeyError, OSError) as error:
        raise InvalidInput(f"{path} is not a run that `gavel evaluate` saved ({reason_of(error)}); evaluate again") from error


def _headline(evaluation: Evaluation) -> list[str]:
    return [measure for measure in HEADLINE if measure in _measures(evaluation)]


def _measures(evaluation: Evaluation) -> list[str]:
    return list(next(iter(evaluation.results.values())).quality)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
