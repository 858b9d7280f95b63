"""Sources of `gavel compare`: a tower, a release, or a run that `gavel evaluate` saved."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from gavel.workspace.console import Step
from gavel.workspace.folders import Workspace
from gavel.workspace.wiring import load_encoder, load_ranker, load_tuning
from processing.evaluation.compare import JudgedQueries
from processing.evaluation.corpus import build_corpus
from processing.evaluation.report import JSON_FILE, RUN_SUFFIX, RUNS_FOLDER, load_run, run_path
from processing.evaluation.runs import RememberingEncoder, System, search_run
from retrieval.contracts.release import MANIFESTS, load_release
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import Run
from retrieval.index.embedded.store import EmbeddedStore
from retrieval.progress import ProgressCounter
from retrieval.search.context import UNHURRIED
from retrieval.search.service import Mode, SearchModels, SearchService

MARK = ":"  # <report>:<system>


class RunSource(Protocol):
    """A system or a saved run that answers queries."""

    @property
    def name(self) -> str:
        """Title of the source in tables."""

    def run(self, queries: Mapping[str, str], progress: Step) -> Run:
        """Return the answers to queries: query_id -> item ids, best first.

        Args:
            queries: query_id -> text; a saved run answers only queries that it holds.
            progress: progress callback.
        """


class SavedRun:
    """A run that `gavel evaluate` saved in a report."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path

    def run(self, queries: Mapping[str, str], progress: Step) -> Run:
        """Return the saved answers to these queries.

        Raises:
            InvalidInput: the run holds none of these queries.
        """
        saved = load_run(self._path)
        answers = {query: saved[query] for query in queries if query in saved}
        if not answers:
            raise InvalidInput(
                f"{self.name} was not asked {next(iter(queries.values()))!r}: it holds {len(saved)} judged queries "
                "of one split; name that split, one of its queries, or a release, which can be asked anything"
            )
        return answers


class ReleaseRun:
    """Searches over a release with the release's tower, through the same SearchService as in `gavel serve`."""

    def __init__(
        self, workspace: Workspace, release: Path, judged: JudgedQueries, mode: Mode, rerank: bool, stack: ExitStack
    ) -> None:
        """Index the items of the split in a temporary folder, which `stack` removes.

        Raises:
            ReleaseError: the release lacks items of the split.
            TowerError: the release's tower cannot be used.
        """
        settings = workspace.settings
        manifest = load_release(release)
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gavel-compare-")))
        store = EmbeddedStore(root, tuning=partial(load_tuning, settings))
        build_corpus(judged.catalog, judged.split, release, store)
        encoder = RememberingEncoder(load_encoder(settings, manifest.tower_id))
        ranker = load_ranker(settings, manifest.tower_id) if rerank and mode == "hybrid" else None
        limits = replace(UNHURRIED, rerank_candidates=settings.candidates)
        service = SearchService(store, SearchModels(lambda _: encoder, lambda _: ranker), limits)
        stack.callback(lambda: service.live().index.close())
        self.name = f"{manifest.release_id} {mode}{', re-ranked' if ranker else ''}"
        self._system = System(self.name, service, mode, ranker is not None)
        self._now = judged.now

    def run(self, queries: Mapping[str, str], progress: Step) -> Run:
        """Search the release for these queries and return query_id -> item ids, best first."""
        count = ProgressCounter(len(queries), progress)
        return search_run(self._system, queries, self._now, on_query=count.tick)


def find_source(workspace: Workspace, given: str, judged: JudgedQueries, mode: Mode, rerank: bool, stack: ExitStack) -> RunSource:
    """Find the source that an argument of the command line names.

    Args:
        workspace: workspace with towers, releases and reports.
        given: a run file, `<report>:<system>`, a release (folder or id), or a tower_id.
        judged: judged queries, whose corpus is searched.
        mode: retrieval mode of searches over a release.
        rerank: True re-ranks the answers of hybrid searches.
        stack: exit stack that closes the index of a release.

    Raises:
        InvalidInput: `given` is none of these, or names a report without a system.
    """
    if given.endswith(RUN_SUFFIX):
        return SavedRun(_existing(Path(given)), Path(given).name.removesuffix(RUN_SUFFIX))
    name, _, system = given.partition(MARK)
    for report in (Path(name), workspace.reports / name):
        if (report / JSON_FILE).is_file():
            return _saved_run(report, system)
    for release in (Path(given), workspace.embeddings / given):
        if any(release.glob(MANIFESTS)):
            return ReleaseRun(workspace, release, judged, mode, rerank, stack)
    release_of_tower = workspace.release_of(given)
    if release_of_tower is None:
        raise InvalidInput(
            f"{given!r} is no run, report, release or tower with a release in {workspace.settings.home}; "
            "embed a tower's lots with `gavel embed --tower ID`, or name a report of `gavel evaluate`"
        )
    return ReleaseRun(workspace, release_of_tower, judged, mode, rerank, stack)


def _saved_run(report: Path, system: str) -> SavedRun:
    runs = sorted((report / RUNS_FOLDER).glob(f"*{RUN_SUFFIX}"))
    names = [path.name.removesuffix(RUN_SUFFIX) for path in runs]
    path = run_path(report, system)
    if not system or path not in runs:
        raise InvalidInput(
            f"{report} holds several runs; name one of {', '.join(names) or 'none'} behind it, as in {report.name}{MARK}hybrid"
        )
    return SavedRun(path, f"{report.name}:{path.name.removesuffix(RUN_SUFFIX)}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InvalidInput(f"{path} is not there; `gavel evaluate` writes runs into the runs folder of its report")
    return path
