"""Where everything that Gavel makes on one machine lies."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retrieval.config.settings import Settings
from retrieval.contracts.release import check_part, load_release
from retrieval.contracts.tower_card import CARD_FILE
from retrieval.errors import InvalidInput, ReleaseError
from retrieval.files import replace_file, shortage

# <home>/catalogs/<name>/          catalogues, with photos, judgments and clicks
# <home>/towers/<tower_id>/        tower artefacts
# <home>/rounds/<run>/             rounds of training on mined negatives, each with its index
# <home>/negatives/<tower_id>.parquet  hard negatives that were mined with a tower
# <home>/rankers/<tower_id>.ubj    the re-ranker that was trained on a tower's candidates
# <home>/embeddings/<release_id>/  embedding parts and their manifest
# <home>/sources/<release_id>.json folders of the catalogue files that a release was made of; its photos lie below them
# <home>/thumbnails/              squares of lots' photos that the page shows; to be deleted at any time
# <home>/events/<day>.ndjson       what buyers did with the lots that they were shown
# <home>/events.keys               what signs the lists that were shown, the newest key first
# <home>/buyers.sqlite             what each buyer did lately
# <home>/index/                    the embedded index
# <home>/opensearch/               the data of a node that `gavel up` started
# <home>/exports/<release_id>/     releases as NumPy and FAISS files
# <home>/reports/                  measurements and plots
# <home>/benches/                  indices that benchmarks made of many lots; to be deleted when they are in the way
RANKER_SUFFIX = ".ubj"


@dataclass(frozen=True)
class Workspace:
    """The folders of one Gavel workspace.

    Attributes:
        settings: of this process; `settings.home` is the root.
    """

    settings: Settings

    @property
    def catalogs(self) -> Path:
        """One folder a catalogue."""
        return self.settings.home / "catalogs"

    @property
    def towers(self) -> Path:
        """One folder a tower.

        Raises:
            InvalidInput: the towers are in a bucket, where this machine cannot write them.
        """
        if self.settings.towers.startswith("s3://"):
            raise InvalidInput(f"towers are kept in {self.settings.towers}; unset GAVEL_TOWERS_URI to work with local ones")
        return Path(self.settings.towers)

    @property
    def embeddings(self) -> Path:
        """One folder a release."""
        return self.settings.home / "embeddings"

    @property
    def index(self) -> Path:
        """Root of the embedded index."""
        return self.settings.home / "index"

    @property
    def rounds(self) -> Path:
        """One folder a run of training in rounds."""
        return self.settings.home / "rounds"

    @property
    def opensearch(self) -> Path:
        """Data of the node that `gavel up` starts."""
        return self.settings.home / "opensearch"

    @property
    def exports(self) -> Path:
        """One folder a release that was exported."""
        return self.settings.home / "exports"

    @property
    def reports(self) -> Path:
        """Measurements and plots."""
        return self.settings.home / "reports"

    @property
    def benches(self) -> Path:
        """Root of the indices that benchmarks search."""
        return self.settings.home / "benches"

    @property
    def events(self) -> Path:
        """What buyers did, a file a day: a click log that `gavel catalog prepare clicks` reads."""
        return self.settings.home / "events"

    @property
    def events_keys(self) -> Path:
        """The keys by which events are known to be of a list that was shown."""
        return self.settings.home / "events.keys"

    @property
    def buyers(self) -> Path:
        """What each buyer did lately: the file behind `buyer_id`."""
        return self.settings.home / "buyers.sqlite"

    @property
    def thumbnails(self) -> Path:
        """Squares of lots' photos for the page."""
        return self.settings.home / "thumbnails"

    def sources(self, release_id: str) -> list[Path]:
        """The folders of the catalogue files that a release was made of, and those opened to it; none if it was made elsewhere.

        Raises:
            InvalidInput: the file that says so is damaged.
        """
        path = self._sources_file(release_id)
        try:
            folders = json.loads(path.read_bytes()) if path.is_file() else []
            if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
                raise ValueError("it holds no list of folders")
            return [Path(folder) for folder in folders]
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInput(
                shortage(path, error)
                or f"{path} is damaged ({error}); delete it, or run `gavel embed --force` on the same files, so photos are found"
            ) from error

    def remember_sources(self, release_id: str, inputs: Iterable[Path]) -> None:
        """Write down where the catalogue files of a release lie: its lots name their photos relative to them."""
        folders = sorted({str((path if path.is_dir() else path.parent).absolute()) for path in inputs})
        path = self._sources_file(release_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(folders))

    def _sources_file(self, release_id: str) -> Path:
        return self.settings.home / "sources" / f"{Path(release_id).name}.json"

    def negatives(self, tower_id: str) -> Path:
        """File of the hard negatives that were mined with a tower, whether it is there or not."""
        return self.settings.home / "negatives" / f"{tower_id}.parquet"

    def ranker(self, tower_id: str) -> Path:
        """File of the re-ranker that belongs to a tower, whether it is there or not."""
        return self.settings.home / "rankers" / f"{tower_id}{RANKER_SUFFIX}"

    def catalog(self, given: Path | None) -> Path:
        """The catalogue that was given, else the newest in this workspace."""
        return given or _newest(self.catalogs, "catalog.json", "catalogue", "`gavel catalog generate`")

    def tower(self, tower_id: str | None) -> Path:
        """The folder of a tower, else of the newest one.

        Raises:
            InvalidInput: there is no such tower.
        """
        if tower_id is None:
            return _newest(self.towers, CARD_FILE, "tower", "`gavel train`")
        folder = self.towers / tower_id
        if not (folder / CARD_FILE).is_file():
            known = ", ".join(sorted(p.parent.name for p in self.towers.glob(f"*/{CARD_FILE}"))) or "none"
            raise InvalidInput(
                f"there is no tower {tower_id!r} in {self.towers} (there are: {known}); train one with `gavel train`"
            )
        return folder

    def release(self, given: Path | None) -> Path:
        """The release that was given, else the newest one; a name alone is looked up in this workspace.

        Raises:
            InvalidInput: there is no such folder, here or in this workspace.
            ReleaseError: its run did not finish.
        """
        if given is not None and not given.is_dir():
            known = ", ".join(sorted({p.parent.name for p in self.embeddings.glob("[!.]*/manifest*.json")})) or "none"
            if not (self.embeddings / given).is_dir():
                raise InvalidInput(
                    f"there is no release {str(given)!r}: neither a folder of that path nor a release of {self.embeddings} "
                    f"(there are: {known}); make one with `gavel embed`"
                )
            given = self.embeddings / given
        folder = given or _newest(self.embeddings, "manifest*.json", "release", "`gavel embed`")
        load_release(folder)  # says what is wrong with it
        return folder

    def whole_releases(self, tower_id: str) -> tuple[list[Path], list[str]]:
        """Find the releases of a tower whose parts are all as they were written.

        Returns:
            Their folders, the oldest first, and what is wrong with each of the others.
        """
        manifests = sorted(self.embeddings.glob("[!.]*/manifest*.json"), key=lambda path: path.stat().st_mtime)
        whole, faults = [], []
        for folder in dict.fromkeys(path.parent for path in manifests):
            try:
                manifest = load_release(folder)
                if manifest.tower_id == tower_id and manifest.items_embedded:
                    for part in manifest.parts:
                        check_part(part, folder / part.name)
                    whole.append(folder)
            except ReleaseError as error:
                faults.append(str(error))
        return whole, faults

    def release_of(self, tower_id: str) -> Path | None:
        """The newest release of a tower; None when its lots were not embedded yet."""
        manifests = sorted(self.embeddings.glob("[!.]*/manifest*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        return next((path.parent for path in manifests if load_release(path.parent).tower_id == tower_id), None)

    def release_of_tower(self, tower_id: str) -> Path:
        """The newest release of a tower.

        Raises:
            InvalidInput: there is none.
        """
        found = self.release_of(tower_id)
        if found is None:
            raise InvalidInput(
                f"there is no release of tower {tower_id!r} in {self.embeddings}; run `gavel embed --tower {tower_id}`"
            )
        return found


def _newest(root: Path, marker: str, what: str, remedy: str) -> Path:
    """The folder with the youngest marker; hidden ones were left by a run that was killed."""
    found = sorted(root.glob(f"[!.]*/{marker}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InvalidInput(f"there is no {what} in {root} yet; make one with {remedy}")
    return found[-1].parent
