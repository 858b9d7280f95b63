"""Which readers `gavel catalog prepare` knows, and which options belong to which."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catalog.folder import CatalogFolder
from gavel.workspace.console import Step
from retrieval.errors import InvalidInput

SOURCES = ("esci", "chorus", "grocery", "emoji", "demo-store", "clicks")
OPTIONS_OF = {"locale": "esci", "version": "esci", "folds": "chorus", "fold": "chorus", "items": "clicks", "language": "emoji"}
UNITS = {"esci": "product rows", "clicks": "log files"}  # what a bar counts, of the sources that count


@dataclass(frozen=True, slots=True)
class Preparation:
    """What was asked for; None is an option that was not given.

    Attributes:
        source: one of SOURCES.
        data: where the data set lies.
        seed: of everything random.
        locale: esci.
        version: esci.
        folds: chorus.
        fold: chorus.
        items: clicks.
        language: emoji.
    """

    source: str
    data: Path
    seed: int
    locale: str | None = None
    version: str | None = None
    folds: int | None = None
    fold: int | None = None
    items: Path | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InvalidInput(f"there is no reader for {self.source!r}; there are {', '.join(SOURCES)}")
        for option, source in OPTIONS_OF.items():
            if getattr(self, option) is not None and self.source != source:
                raise InvalidInput(f"--{option} belongs to `gavel catalog prepare {source}`; leave it out")
        if self.source == "clicks" and self.items is None:
            raise InvalidInput("a click log needs the items that it speaks of: --items <catalogue file or folder of them>")
        if not self.data.exists():
            raise InvalidInput(f"{self.data} does not exist; --data names the data set's folder, or the click log")

    @property
    def name(self) -> str:
        """The catalogue's folder in a home: the source, with the options that make it another catalogue."""
        if self.source == "esci":
            return f"esci-{self.locale or 'us'}-{self.version or 'small'}"
        if self.language:
            return f"{self.source}-{self.language}"
        return self.source if self.fold is None else f"{self.source}-fold-{self.fold}"

    def run(self, folder: Path, step: Step) -> CatalogFolder:
        """Read the data set and write the catalogue."""
        return _READERS[self.source](self, folder, step)


def _esci(asked: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import esci

    version = asked.version or "small"
    if version not in ("small", "large"):
        raise InvalidInput(f"there is no version {version!r}; use small or large")
    chosen: esci.Version = "small" if version == "small" else "large"
    return esci.prepare(asked.data, folder, locale=asked.locale or "us", version=chosen, seed=asked.seed, progress=step)


def _chorus(asked: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import chorus

    return chorus.prepare(asked.data, folder, folds=asked.folds or chorus.FOLDS, fold=asked.fold, seed=asked.seed)


def _grocery(asked: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import grocery

    return grocery.prepare(asked.data, folder, seed=asked.seed)


def _emoji(asked: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import emoji

    return emoji.prepare(asked.data, folder, seed=asked.seed, listed_in=asked.language or "en")


def _demo_store(asked: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import demo_store

    return demo_store.prepare(asked.data, folder, seed=asked.seed)


def _clicks(asked: Preparation, folder: Path, step: Step) -> CatalogFolder:
    from catalog import click_log

    assert asked.items is not None
    return click_log.prepare(asked.data, folder, items=asked.items, seed=asked.seed, progress=step)


_READERS: dict[str, Callable[[Preparation, Path, Step], CatalogFolder]] = {
    "esci": _esci,
    "chorus": _chorus,
    "grocery": _grocery,
    "emoji": _emoji,
    "demo-store": _demo_store,
    "clicks": _clicks,
}
