"""`gavel try`: from somebody's catalogue file to a search page."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from catalog.folder import CATALOG_FILE, CatalogFolder
from gavel.cli.serve import listen, serve
from gavel.cli.train_towers import show_choice
from gavel.workspace import pipeline
from gavel.workspace.console import console, notes, progress, show_answer, show_table
from gavel.workspace.entry import as_called, say
from gavel.workspace.folders import Workspace
from gavel.workspace.forecast import Forecast, duration_words
from gavel.workspace.options import Json, Seed, UsePhotos, print_json
from gavel.workspace.wiring import open_store, search_service
from models.towers.config import PhotoUse
from processing.command_line import ColumnsOption, DatesOption, DecimalOption, EncodingOption, read_options
from processing.training.step_cache import StepCache, StepResult
from retrieval.config.settings import Settings
from retrieval.contracts.item_columns import require_fields
from retrieval.contracts.item_files import ReadingLog, ReadOptions, plan_reading, read_items
from retrieval.contracts.item_folders import FolderListing, list_item_files
from retrieval.contracts.items import Item, item_text, query_text
from retrieval.contracts.release import MANIFESTS, REJECTS_FILE, load_release
from retrieval.encoders.words_only import TOWER_ID as WORDS_ONLY
from retrieval.errors import IndexMissing, InvalidInput, ReleaseError, TowerError
from retrieval.search.service import SearchRequest

if TYPE_CHECKING:
    from processing.embedding.tower_fit import TowerFit

RECORD_FILE = "try.json"  # in the workspace: which steps are done, and of which file
HOME_VARIABLE = "GAVEL_HOME"
CATALOG = "items"
DEFAULT_MODEL = "minilm"
FILES_SHOWN = 3
EXAMPLES_SHOWN = 2
SAMPLED_TEXTS = 2_000  # lots whose words are looked up in the vocabulary of the encoder
MAX_UNKNOWN_WORDS = 0.5  # share of unknown words from which on an encoder is not adapted

READ, ENCODE_LOTS, ENCODE_QUERIES = "read lots", "encode lots", "encode queries"
LEARN, EMBED, INDEX = "learn to rank", "embed lots", "index lots"
# seconds on two free cores, with all-MiniLM-L6-v2; Forecast measures how this machine compares
TOKEN_S, QUERY_S, STEP_S, SAVE_S, LOT_S = 1.3e-4, 8e-4, 1e-5, 25.0, 1e-3  # a token, a query, a lot in a step, …
CHARS_PER_TOKEN = 4
START_S = 8.0  # to load the encoder

TryMode = Literal["hybrid", "keyword"]


@dataclass
class Report:
    """Results of a call.

    Attributes:
        home: the workspace.
        understood: file -> field -> names of its columns.
        mode: how the lots are searched: hybrid, or by keyword without an encoder.
        reason: why they are searched by keyword; empty otherwise.
        lots: number of lots in the index.
        rejected: number of rows that were rejected.
        tower_id: tower of the index.
        steps: step -> seconds that it took, and True if an earlier call had finished it.
        notices: what the user should know about the files.
        examples: a few queries.
        tower_fit: what the lots look like to the tower; None without an encoder.
        val: measure -> value before and after the adaptation, on the val queries; empty without an encoder.
        choice: what validation chose and why, see models.training.choices.SearchChoice; None without an encoder or val queries.
    """

    home: str
    understood: Mapping[str, Mapping[str, Sequence[str]]]
    mode: TryMode = "hybrid"
    reason: str = ""
    lots: int = 0
    rejected: int = 0
    tower_id: str = ""
    steps: dict[str, tuple[float, bool]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    tower_fit: "TowerFit | None" = None
    val: dict[str, list[float]] = field(default_factory=dict)
    choice: Mapping[str, Any] | None = None


def try_lots(
    source: Annotated[Path, typer.Argument(help="Catalogue file, or a folder of them.")],
    model: Annotated[
        str, typer.Option(help="Sentence encoder that is adapted to the lots: a preset, hub name or folder.")
    ] = DEFAULT_MODEL,
    mode: Annotated[
        TryMode | None,
        typer.Option(
            help="keyword: use no encoder, and search by words alone; hybrid: search by both, whatever the val queries say. "
            "By default hybrid, unless judged val queries say that words alone are better."
        ),
    ] = None,
    use_photos: UsePhotos = None,
    judgments: Annotated[Path | None, typer.Option(help="Table of query, item id and grade 0 to 3, to learn from.")] = None,
    clicks: Annotated[Path | None, typer.Option(help="Click log to learn from.")] = None,
    photos: Annotated[list[Path] | None, typer.Option(help="Further folder of photos that lots may name; may be repeated.")] = None,
    open_page: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the search page at the end.")] = True,
    host: Annotated[str, typer.Option(help="Address of the page.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the page.")] = 8000,
    currency: Annotated[str, typer.Option(help="ISO 4217 code of the prices, such as EUR.")] = "",
    columns: ColumnsOption = None,
    decimal: DecimalOption = None,
    dates: DatesOption = None,
    encoding: EncodingOption = None,
    seed: Seed = 7,
    as_json: Json = False,
) -> None:
    """Make a search page of your lots: read them, adapt an encoder to them, embed, index, serve. A second call goes on."""
    listing = list_item_files(source)
    others = {path.resolve() for path in (judgments, clicks) if path is not None}
    listing = FolderListing([file for file in listing.files if file.resolve() not in others], listing.passed_over)
    options = read_options(columns, decimal, dates, encoding)
    for option, path in (("judgments", judgments), ("clicks", clicks)):
        if path is not None and not path.exists():
            raise InvalidInput(f"--{option} {path} does not exist; name a file, or a folder of files")
    if open_page and not as_json:
        listen(host, port).close()  # a port that is taken is told before the work, not after it
    home = own_home(source)
    os.environ[HOME_VARIABLE] = str(home)  # read by `serve`, and by every process that is started
    run = Try(Settings.from_env(), source, listing, options, model, mode, judgments, clicks, photos or [], seed, use_photos)
    if not as_json:
        show_understood(run.report, home)
    report = run.run()
    if as_json:
        print_json(asdict(report))
        return
    given: dict[str, Sequence[object]] = {
        "--model": [model if model != DEFAULT_MODEL else None],
        "--mode": [mode],
        "--photos": photos or [],
        "--use-photos": [use_photos],
        "--column": columns or [],
        "--decimal": [decimal],
        "--dates": [dates],
        "--encoding": [encoding],
    }
    flags = [f"{name} {shlex.quote(str(value))}" for name, values in given.items() for value in values if value]
    show_report(report, " ".join([shlex.quote(str(source)), *flags]))
    if open_page:
        serve(host, port, [*(photos or [])], None, None, currency, 1, None, report.mode)


def own_home(source: Path) -> Path:
    """Return the workspace of a file's lots.

    It is GAVEL_HOME if that is set. Otherwise it is `.gavel` if that is missing, empty or made by `gavel try` of the same file;
    else `.gavel-<name of the file>` beside it.

    Raises:
        InvalidInput: GAVEL_HOME is set and holds other lots.
    """
    given = os.environ.get(HOME_VARIABLE)
    home = Path(given) if given else Settings().home
    if _is_free(home, source):
        return home
    if given:
        raise InvalidInput(
            f"{home} (GAVEL_HOME) holds other lots; unset GAVEL_HOME, or name an empty folder for the lots of {source}"
        )
    name = re.sub(r"[^\w-]+", "-", source.resolve().name.split(".")[0]).strip("-") or "lots"
    named = home.with_name(f"{home.name}-{name}")
    if not _is_free(named, source):
        raise InvalidInput(f"{home} and {named} hold other lots; set GAVEL_HOME to an empty folder for the lots of {source}")
    return named


def _is_free(home: Path, source: Path) -> bool:
    """Return True if a workspace is missing or empty, or was made by `gavel try` of this source."""
    if not home.exists() or (home.is_dir() and not any(home.iterdir())):
        return True
    try:
        return bool(json.loads((home / RECORD_FILE).read_bytes())["source"]["value"] == str(source.resolve()))
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Try:
    """Runs the steps from a catalogue file to an index in a workspace, and reuses what an earlier call finished."""

    def __init__(
        self,
        settings: Settings,
        source: Path,
        listing: FolderListing,
        options: ReadOptions,
        model: str,
        mode: TryMode | None,
        judgments: Path | None,
        clicks: Path | None,
        photos: Sequence[Path],
        seed: int,
        use_photos: PhotoUse | None = None,
    ) -> None:
        """Look at the columns of the files; no step runs yet.

        Raises:
            InvalidInput: a file cannot be read, or lacks a column.
        """
        self._settings, self._source, self._listing, self._options = settings, source, listing, options
        self._model, self._judgments, self._clicks, self._photos, self._seed = model, judgments, clicks, photos, seed
        self._use_photos = use_photos
        self._workspace = Workspace(settings)
        self._steps = StepCache(settings.home / RECORD_FILE)
        columns = {str(path): plan_reading(path, options).columns for path in listing.files}
        for path, of_file in columns.items():
            require_fields(of_file, of_file.names(), path)  # of JSON, too, whose rows may each have their own keys
        fields = {path: of_file.fields for path, of_file in columns.items()}
        understood = {
            path: {name: [column.key for column in columns] for name, columns in of_file.items()}
            for path, of_file in fields.items()
        }
        self._mode = mode
        self.report = Report(str(settings.home), understood, mode or "hybrid")

    def run(self) -> Report:
        """Run every step that is not done yet, and return the report."""
        source = str(self._source.resolve())
        self._steps.step("source", source, lambda: source)
        inputs = [*self._listing.files, *([self._judgments] if self._judgments else []), *([self._clicks] if self._clicks else [])]
        base = (version("gavel"), _hash_of(inputs), self._options, self._seed)
        catalog = self._catalog(base)
        items = [row for file in catalog.item_files() for row in read_items(file) if isinstance(row, Item)]
        if self.report.mode == "hybrid" and (reason := self._missing_encoder(items, catalog)):
            self.report.mode, self.report.reason = "keyword", reason
            say(f"{reason}; the lots are searched by words alone", style="yellow")
        forecast = self._forecast(items, catalog)
        with forecast:
            if self.report.mode == "hybrid":
                release = self._embedded(base, catalog, forecast)
            else:
                release = self._words_release(base, items, forecast)
            self._index(release, forecast)
            forecast.finish()
        manifest = load_release(release)
        self.report.lots, self.report.tower_id = open_store(self._settings).live().count(), manifest.tower_id
        self.report.examples = catalog.example_queries or [item.title for item in items if item.title][:1]
        if self._mode is None and self.report.choice and self.report.choice["mode"] == "keyword":
            self.report.mode, self.report.reason = "keyword", "keywords alone are better on the val queries"
        if self.report.tower_id != WORDS_ONLY:
            fit = self.report.tower_fit = pipeline.measure_fit(self._workspace, release)
            if fit.faults:
                self.report.mode, self.report.reason = "keyword", "the tower does not fit the lots"
                say(
                    f"the adapted encoder does not fit these lots: {'; '.join(fit.faults)}. They are searched by words alone; "
                    "for another language than English name an encoder, such as --model multilingual",
                    style="yellow",
                )
        return self.report

    def _step(self, label: str, key: object, run: Callable[[], Any], is_whole: Callable[[Any], bool]) -> StepResult:
        result = self._steps.step(label, repr(key), run, is_whole)
        self.report.steps[label] = (result.seconds, result.reused)
        return result

    def _catalog(self, base: object) -> CatalogFolder:
        from catalog import item_catalog

        folder = self._workspace.catalogs / CATALOG

        def run() -> list[str]:
            log = ReadingLog(passed_over=self._listing.passed_over)
            with progress(READ):
                item_catalog.prepare(
                    self._source,
                    folder,
                    judgments=self._judgments,
                    clicks=self._clicks,
                    seed=self._seed,
                    options=self._options,
                    log=log,
                )
            return log.lines()

        result = self._step(READ, base, run, lambda lines: (folder / CATALOG_FILE).is_file())
        self.report.notices = result.value
        for line in result.value:
            notes.print(line, markup=False, highlight=False, soft_wrap=True)
        rejects = folder / REJECTS_FILE
        self.report.rejected = len(rejects.read_bytes().splitlines()) if rejects.is_file() else 0
        return CatalogFolder(folder)

    def _missing_encoder(self, items: Sequence[Item], catalog: CatalogFolder) -> str:
        """Return why no encoder can be adapted to the lots; empty if one is at hand, knows their words and has queries to learn."""
        from models.towers.published import published_towers
        from models.towers.tokenizer import make_tokenizer
        from processing.embedding.tower_fit import unknown_words

        try:
            towers = published_towers(self._model)
            if not towers.text.model or towers.hidden:
                raise InvalidInput(f"--model {self._model} is no published encoder; take minilm, or the folder or name of one")
            tokenizer = make_tokenizer(towers, ())
        except TowerError as error:
            return str(error)
        texts = [item_text(item.title, item.description) for item in items[:: max(1, len(items) // SAMPLED_TEXTS)]]
        unknown = unknown_words(tokenizer, texts)
        if unknown > MAX_UNKNOWN_WORDS:
            return (
                f"{self._model} does not know {unknown:.0%} of the words of the lots; name an encoder of their language "
                "by --model, such as multilingual, or the folder of one"
            )
        if len({query_text(pair.query) for pair in catalog.pairs("train")}) < 2:
            return "the lots have too few different words to adapt an encoder to them"
        return ""

    def _forecast(self, items: Sequence[Item], catalog: CatalogFolder) -> Forecast:
        from models.config.distillation import LOT_TOKENS, DistillationConfig

        lots = len(items)
        if self.report.mode == "keyword":
            return Forecast({EMBED: lots * LOT_S / 2, INDEX: lots * LOT_S})
        tokens = sum(min(2 + len(item_text(i.title, i.description)) / CHARS_PER_TOKEN, LOT_TOKENS) for i in items)
        config = DistillationConfig()
        ranked = min(lots, config.lots)
        queries = len({pair.query for pair in catalog.pairs("train") if pair.lot_text is None})
        return Forecast(
            {
                ENCODE_LOTS: START_S + tokens * TOKEN_S * ranked / lots,
                ENCODE_QUERIES: queries * QUERY_S,
                LEARN: config.steps * ranked * STEP_S + SAVE_S,
                EMBED: START_S + tokens * TOKEN_S + lots * LOT_S / 2,
                INDEX: lots * LOT_S,
            }
        )

    def _embedded(self, base: object, catalog: CatalogFolder, forecast: Forecast) -> Path:
        """Adapt the encoder and embed the lots with it; return the release."""
        from models.artefacts.run_record import cut_steps
        from models.config.distillation import LOT_TOKENS
        from retrieval.contracts.tower_card import CARD_FILE

        def adapt() -> dict[str, Any]:
            result = pipeline.adapt(
                self._workspace,
                catalog,
                self._model,
                forecast,
                max_length=LOT_TOKENS,
                steps=None,
                min_weight=None,
                photos=self._use_photos,
                seed=self._seed,
            )
            before, after = result.before, result.after
            names = ("recall_at_50", "ndcg_at_10") if before and after else ()
            return {
                "tower": str(result.tower_folder),
                "val": {name: [getattr(before, name), getattr(after, name)] for name in names},
                "choice": result.choice.to_dict() if result.choice else None,
            }

        def is_whole(value: Any) -> bool:
            return (Path(value["tower"]) / CARD_FILE).is_file() and not cut_steps(Path(value["tower"]))

        adapted = self._step("adapt the encoder", (base, self._model, self._use_photos), adapt, is_whole)
        for label in (ENCODE_LOTS, ENCODE_QUERIES, LEARN):
            forecast.skip(label)
        self.report.val, self.report.choice, tower = adapted.value["val"], adapted.value["choice"], Path(adapted.value["tower"])

        def embed() -> str:
            return str(
                pipeline.embed(
                    self._workspace,
                    self._listing.files,
                    tower,
                    release_id=None,
                    workers=0,
                    progress=forecast(EMBED),
                    photos=self._photos,
                    options=self._options,
                )
            )

        embedded = self._step(EMBED, (base, tower.name, self._photos), embed, _is_release)
        forecast.skip(EMBED)
        return Path(embedded.value)

    def _words_release(self, base: object, items: Sequence[Item], forecast: Forecast) -> Path:
        def run() -> str:
            from processing.embedding.words_release import write_words_release

            manifest = write_words_release(
                self._workspace.embeddings,
                items,
                source=self._source.name,
                photo_folders=[*dict.fromkeys(file.absolute().parent for file in self._listing.files), *self._photos],
                progress=forecast(EMBED),
            )
            self._workspace.remember_sources(manifest.release_id, [*self._listing.files, *self._photos])
            return str(self._workspace.embeddings / manifest.release_id)

        embedded = self._step(EMBED, (base, WORDS_ONLY), run, _is_release)
        forecast.skip(EMBED)
        return Path(embedded.value)

    def _index(self, release: Path, forecast: Forecast) -> None:
        def is_live(name: Any) -> bool:
            try:
                return bool(open_store(self._settings).live().name == name)
            except IndexMissing:
                return False

        content = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(release.glob(MANIFESTS)))).hexdigest()
        self._step(
            INDEX,
            (release.name, content, self._settings.index),
            lambda: pipeline.replace_index(self._settings, release, progress=forecast(INDEX)).index,
            is_live,
        )
        forecast.skip(INDEX)


def _is_release(path: Any) -> bool:
    try:
        load_release(Path(path))
    except ReleaseError:
        return False
    return True


def _hash_of(inputs: Sequence[Path]) -> str:
    """Return a hash of the content of files and folders, and of their paths."""
    digest = hashlib.sha256()
    files = [file for path in inputs for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
    for file in files:
        digest.update(f"{file.resolve()}\n".encode(errors="surrogateescape"))
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration_words(seconds)


def show_understood(report: Report, home: Path) -> None:
    """Print which column of the file each field is read from."""
    layouts: dict[str, list[str]] = {}
    for path, fields in report.understood.items():
        layouts.setdefault(json.dumps(fields), []).append(path)
    for layout, paths in list(layouts.items())[:FILES_SHOWN]:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        rows = [(name, ", ".join(f"`{column}`" for column in columns)) for name, columns in json.loads(layout).items()]
        show_table(f"{paths[0]}{more}", ("field", "read from"), rows, right_from=9)
    console.print(f"the workspace of these lots is {home}", style="dim", highlight=False, soft_wrap=True)


def show_report(report: Report, lots: str) -> None:
    """Print what was built, a few answers, and what to do next; `lots` is the file with its options, as the user wrote them."""
    settings, gavel = Settings.from_env(), as_called()
    service = search_service(settings)
    for query in report.examples[:EXAMPLES_SHOWN]:
        show_answer(query, service.search(SearchRequest(query, 5, report.mode)))
    rows = [(name, "already there" if reused else _duration(seconds)) for name, (seconds, reused) in report.steps.items()]
    show_table("What was done", ("step", "took"), rows)
    workspace = Workspace(settings)
    rejects = workspace.catalogs / CATALOG / REJECTS_FILE
    rejected = f", {report.rejected:,} rows were rejected ({rejects})" if report.rejected else ""
    console.print(f"{report.lots:,} lots are searched by {report.mode}{rejected}", highlight=False, soft_wrap=True)
    origin = "queries made from the lots" if (report.choice or {}).get("pseudo_queries") else "judged val queries"
    for name, (before, after) in report.val.items():
        console.print(f"{name}, on {origin}: {before:.3f} as published, {after:.3f} adapted", highlight=False)
    show_choice(report.choice)
    prefix = f"{HOME_VARIABLE}={shlex.quote(report.home)} " if Path(report.home) != Settings().home else ""
    query = shlex.quote(report.examples[0] if report.examples else "vase")
    words = " --mode keyword" if report.mode == "keyword" else ""
    events = shlex.quote(str(workspace.events))
    console.print("\nNext", style="bold")
    for command, why in (
        (f"{gavel} search {query}{words}", "search on the command line"),
        (f"{gavel} serve{words}", "the page and the API"),
        (f"{gavel} try {lots}", "again, after the file has changed"),
        (f"{gavel} try {lots} --judgments FILE", "learn from judgments, too: a table of query, item id and grade"),
        (f"{gavel} train reranker --from-events {events}", "learn the order from clicks on the page"),
    ):
        console.print(f"  {prefix}{command}\n      [dim]{why}[/]", highlight=False, soft_wrap=True)
