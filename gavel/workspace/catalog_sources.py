"""Readers of `gavel catalog prepare`, and the options of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from catalog.folder import CatalogFolder
from gavel.workspace.console import Step
from retrieval.contracts.item_files import DEFAULT_OPTIONS, ReadingLog, ReadOptions
from retrieval.errors import InvalidInput

SOURCES = ("items", "esci", "chorus", "grocery", "emoji", "demo-store", "clicks")
OPTIONS_OF = {
    "locale": ("esci",),
    "version": ("esci",),
    "corpus": ("esci",),
    "folds": ("chorus",),
    "fold": ("chorus",),
    "items": ("items", "clicks"),
    "judgments": ("items",),
    "clicks": ("items",),
    "test_only": ("items",),
    "language": ("emoji",),
}
UNITS = {"esci": "product rows", "clicks": "log files"}  # unit of the progress bar, for sources with one


@dataclass(frozen=True, slots=True)
class Preparation:
    """Options of one call of `gavel catalog prepare`; None for each option that was left out.

    Attributes:
        source: one of SOURCES.
        data: path of the data set or click log.
        seed: seed of everything random.
        locale: esci: locale, us if None.
        version: esci: "small" or "large", small if None.
        folds: chorus: number of parts that the judged queries are divided into.
        fold: chorus: number of the test part, from 0; None tests with all parts.
        items: items, clicks: catalogue file or folder of them.
        language: emoji: language of the items, en if None.
        reading: items, clicks: what the user says about the item files.
        corpus: esci: "judged" or "all" products for the test queries, judged if None.
        judgments: items: table of query, item id and grade.
        clicks: items: click log.
        test_only: items: True makes every judged query a test query.
        log: items: gets what the user should know about the files.
    """

    source: str
    data: Path | None
    seed: int
    locale: str | None = None
    version: str | None = None
    folds: int | None = None
    fold: int | None = None
    items: Path | None = None
    language: str | None = None
    reading: ReadOptions = DEFAULT_OPTIONS
    corpus: str | None = None
    judgments: Path | None = None
    clicks: Path | None = None
    test_only: bool | None = None
    log: ReadingLog = field(default_factory=ReadingLog)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InvalidInput(f"there is no reader for {self.source!r}; there are {', '.join(SOURCES)}")
        for option, sources in OPTIONS_OF.items():
            if getattr(self, option) is not None and self.source not in sources:
                names = " and ".join(f"`gavel catalog prepare {source}`" for source in sources)
                raise InvalidInput(f"--{option.replace('_', '-')} belongs to {names}; leave it out")
        if self.source == "items":
            if self.data is not None or self.items is None:
                raise InvalidInput("name your lots by --items <catalogue file or folder of them>, without --data")
            for option, path in (("items", self.items), ("judgments", self.judgments), ("clicks", self.clicks)):
                if path is not None and not path.exists():
                    raise InvalidInput(f"--{option} {path} does not exist; name a file, or a folder of files")
            if self.test_only and self.judgments is None:
                raise InvalidInput("--test-only is about judgments; add --judgments FILE, or leave it out")
            return
        if self.data is None:
            raise InvalidInput("--data is missing; it names the data set's folder, or the click log")
        if self.source == "clicks" and self.items is None:
            raise InvalidInput("a click log needs the items that it speaks of: --items <catalogue file or folder of them>")
        if not self.data.exists():
            raise InvalidInput(f"{self.data} does not exist; --data names the data set's folder, or the click log")

    @property
    def source_data(self) -> Path:
        """Path of the data set or click log; every source but items has one."""
        assert self.data is not None
        return self.data

    @property
    def name(self) -> str:
        """Name of the catalogue's folder: the source and the options that change the catalogue."""
        if self.source == "esci":
            from catalog.esci import catalog_name

            return catalog_name(self.locale or "us", self.version or "small", self.corpus or "judged")
        if self.language:
            return f"{self.source}-{self.language}"
        return self.source if self.fold is None else f"{self.source}-fold-{self.fold}"

    def run(self, folder: Path, step: Step) -> CatalogFolder:
        """Read the data set, write the catalogue to a folder and return it."""
        return _READERS[self.source](self, folder, step)


def _items(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import item_catalog

    assert options.items is not None
    return item_catalog.prepare(
        options.items,
        folder,
        judgments=options.judgments,
        clicks=options.clicks,
        test_only=bool(options.test_only),
        seed=options.seed,
        options=options.reading,
        log=options.log,
    )


def _esci(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import esci

    version, corpus = options.version or "small", options.corpus or "judged"
    return esci.prepare(
        options.source_data,
        folder,
        locale=options.locale or "us",
        version=cast("esci.Version", version),
        corpus=cast("esci.Corpus", corpus),
        seed=options.seed,
        progress=step,
    )


def _chorus(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import chorus

    return chorus.prepare(options.source_data, folder, folds=options.folds or chorus.FOLDS, fold=options.fold, seed=options.seed)


def _grocery(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import grocery

    return grocery.prepare(options.source_data, folder, seed=options.seed)


def _emoji(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import emoji

    return emoji.prepare(options.source_data, folder, seed=options.seed, listed_in=options.language or "en")


def _demo_store(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import demo_store

    return demo_store.prepare(options.source_data, folder, seed=options.seed)


def _clicks(options: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import click_log

    assert options.items is not None
    return click_log.prepare(
        options.source_data, folder, items=options.items, seed=options.seed, progress=step, options=options.reading
    )


_READERS: dict[str, Callable[[Preparation, Path, Step], CatalogFolder]] = {
    "items": _items,
    "esci": _esci,
    "chorus": _chorus,
    "grocery": _grocery,
    "emoji": _emoji,
    "demo-store": _demo_store,
    "clicks": _clicks,
}
