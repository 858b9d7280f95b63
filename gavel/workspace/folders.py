"""Folders of everything that Gavel stores on one machine."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retrieval.config.settings import Settings
from retrieval.contracts.release import MANIFESTS, check_part, load_release
from retrieval.contracts.tower_card import CARD_FILE
from retrieval.errors import InvalidInput, InvalidSettings, ReleaseError
from retrieval.files import reason_of, replace_file, shortage

# <home>/catalogs/<name>/          catalogues with photos, judgments and clicks
# <home>/towers/<tower_id>/        tower artefacts
# <home>/users-items/<name>/       tables of users, items and interactions
# <home>/feature_towers/<tower_id>/  towers over users and items
# <home>/rounds/<run>/             training rounds on mined negatives, each with its index
# <home>/negatives/<tower_id>.parquet  hard negatives mined with a tower
# <home>/rankers/<tower_id>.ubj    re-ranker trained on a tower's candidates; <tower_id>.former.ubj is the one before
# <home>/embeddings/<release_id>/  embedding parts and their manifest
# <home>/sources/<release_id>.json folders of a release's catalogue files, which also hold its photos
# <home>/thumbnails/              square thumbnails for the page; may be deleted at any time
# <home>/item_photos/             photos that came with single lots, by their checksum
# <home>/photos/                  photos that were fetched from addresses; may be deleted at any time
# <home>/events/<day>.ndjson       feedback of buyers on lists that were served
# <home>/events.keys               keys that sign served lists, the newest first
# <home>/buyers.sqlite             recent interactions of each buyer
# <home>/index/                    the embedded index
# <home>/opensearch/               data of the node that `gavel up` starts
# <home>/exports/<release_id>/     releases as NumPy and FAISS files
# <home>/reports/                  measurements and plots
# <home>/benches/                  large indices of benchmarks; may be deleted
RANKER_SUFFIX = ".ubj"
ROLLBACK_FILE = "rolled-back.json"  # in the folder of a release that a rollback left out; later rebuilds leave it out, too


@dataclass(frozen=True)
class Workspace:
    """The folders of everything that Gavel stores on one machine.

    Attributes:
        settings: settings of this process; `settings.home` is the root folder.
    """

    settings: Settings

    def __post_init__(self) -> None:
        """Check that the root folder is a folder, or may become one.

        Raises:
            InvalidSettings: it, or a folder above it, is a file.
        """
        for path in (self.settings.home, *self.settings.home.absolute().parents):
            if path.exists():
                if not path.is_dir():
                    raise InvalidSettings(f"{path} is a file; name a folder by GAVEL_HOME (now {self.settings.home})")
                return

    @property
    def catalogs(self) -> Path:
        """Folder with a sub-folder for each catalogue."""
        return self.settings.home / "catalogs"

    @property
    def towers(self) -> Path:
        """Folder with a sub-folder for each tower.

        Raises:
            InvalidInput: the towers are in a bucket, which this machine does not write to.
        """
        if self.settings.towers.startswith("s3://"):
            raise InvalidInput(f"towers are kept in {self.settings.towers}; unset GAVEL_TOWERS_URI to work with local ones")
        return Path(self.settings.towers)

    @property
    def feature_towers(self) -> Path:
        """Folder with a sub-folder for each pair of towers over users and items."""
        return self.settings.home / "feature_towers"

    @property
    def tables(self) -> Path:
        """Folder with a sub-folder for each set of users, items and interactions that was generated."""
        return self.settings.home / "users-items"

    @property
    def embeddings(self) -> Path:
        """Folder with a sub-folder for each release."""
        return self.settings.home / "embeddings"

    @property
    def index(self) -> Path:
        """Root folder of the embedded index."""
        return self.settings.home / "index"

    @property
    def rounds(self) -> Path:
        """Folder with a sub-folder for each training in rounds."""
        return self.settings.home / "rounds"

    @property
    def opensearch(self) -> Path:
        """Folder of the data of the node that `gavel up` starts."""
        return self.settings.home / "opensearch"

    @property
    def exports(self) -> Path:
        """Folder with a sub-folder for each exported release."""
        return self.settings.home / "exports"

    @property
    def reports(self) -> Path:
        """Folder of measurements and plots."""
        return self.settings.home / "reports"

    @property
    def benches(self) -> Path:
        """Root folder of the indices that benchmarks search."""
        return self.settings.home / "benches"

    @property
    def events(self) -> Path:
        """Folder of this machine's click log, one file per day; `gavel catalog prepare clicks` reads it."""
        return self.settings.home / "events"

    @property
    def events_keys(self) -> Path:
        """File of the keys that sign served lists and verify events."""
        return self.settings.home / "events.keys"

    @property
    def buyers(self) -> Path:
        """SQLite file of each buyer's recent interactions, read for `buyer_id`."""
        return self.settings.home / "buyers.sqlite"

    @property
    def downloads(self) -> Path:
        """Folder of photos that were fetched from http(s) addresses."""
        return self.settings.home / "photos"

    @property
    def item_photos(self) -> Path:
        """Folder of photos that came with single lots."""
        return self.settings.home / "item_photos"

    @property
    def thumbnails(self) -> Path:
        """Folder of square thumbnails of photos for the page."""
        return self.settings.home / "thumbnails"

    def sources(self, release_id: str) -> list[Path]:
        """Return the folders of a release's catalogue files and of further photos; empty if another machine embedded the release.

        Raises:
            InvalidInput: the file that lists them is damaged.
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
                or f"{path} is damaged ({reason_of(error)}); delete it, or run `gavel embed --force` on the same files"
            ) from error

    def remember_sources(self, release_id: str, inputs: Iterable[Path]) -> None:
        """Store the folders of a release's inputs (files or folders), because the items name photos relative to these folders."""
        folders = sorted({str((path if path.is_dir() else path.parent).absolute()) for path in inputs})
        path = self._sources_file(release_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(folders))

    def _sources_file(self, release_id: str) -> Path:
        return self.settings.home / "sources" / f"{Path(release_id).name}.json"

    def negatives(self, tower_id: str) -> Path:
        """Return the path of the hard negatives mined with a tower; the file may not exist."""
        return self.settings.home / "negatives" / f"{tower_id}.parquet"

    def ranker(self, tower_id: str) -> Path:
        """Return the path of a tower's re-ranker; the file may not exist."""
        return self.settings.home / "rankers" / f"{tower_id}{RANKER_SUFFIX}"

    def catalog(self, given: Path | None) -> Path:
        """Return `given`, or the folder of the newest catalogue if `given` is None."""
        return given or _newest(self.catalogs, "catalog.json", "catalogue", "`gavel catalog generate`")

    def tower(self, tower_id: str | None) -> Path:
        """Return the folder of a tower, or of the newest tower if `tower_id` is None.

        Raises:
            InvalidInput: the workspace has no such tower.
        """
        if tower_id is None:
            return _newest(self.towers, CARD_FILE, "tower", "`gavel train`")
        folder = self.towers / tower_id
        if not (folder / CARD_FILE).is_file():
            tower_ids = ", ".join(sorted(p.parent.name for p in self.towers.glob(f"*/{CARD_FILE}"))) or "none"
            raise InvalidInput(
                f"there is no tower {tower_id!r} in {self.towers} (there are: {tower_ids}); train one with `gavel train`"
            )
        return folder

    def users_items(self) -> Path:
        """Return the folder of the newest set of users, items and interactions that was generated."""
        return _newest(self.tables, "catalog.json", "set of users and items", "`gavel catalog generate users-items`")

    def feature_tower(self, tower_id: str) -> Path:
        """Return the folder of towers over users and items.

        Raises:
            InvalidInput: the workspace has no such towers.
        """
        folder = self.feature_towers / tower_id
        if not folder.is_dir():
            raise InvalidInput(
                f"tower {tower_id} of the live index is none over users and items in {self.feature_towers}; "
                "run `gavel train users-items`, then `gavel index`"
            )
        return folder

    def release(self, given: Path | None) -> Path:
        """Return the folder of a release, or of the newest release if `given` is None.

        Args:
            given: folder of the release, or its release_id in this workspace.

        Raises:
            InvalidInput: the release does not exist.
            ReleaseError: the release is incomplete, because its run did not finish.
        """
        if given is not None and not given.is_dir():
            release_ids = ", ".join(sorted({p.parent.name for p in self.embeddings.glob(f"[!.]*/{MANIFESTS}")})) or "none"
            if not (self.embeddings / given).is_dir():
                raise InvalidInput(
                    f"there is no release {str(given)!r}: neither a folder of that path nor a release of {self.embeddings} "
                    f"(there are: {release_ids}); make one with `gavel embed`"
                )
            given = self.embeddings / given
        folder = given or next(iter(self._releases()), None)
        if folder is None:
            raise InvalidInput(f"there is no release in {self.embeddings} yet; make one with `gavel embed`")
        load_release(folder)  # raises if it is incomplete
        return folder

    def whole_releases(self, tower_id: str) -> tuple[list[Path], list[str]]:
        """Find the complete, undamaged releases of a tower, without those that a rollback left out.

        Returns:
            The folders of these releases, the oldest first, and a message for each damaged release of any tower.
        """
        whole, faults = [], []
        for folder in reversed(self._releases()):
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
        """Return the folder of the newest release of a tower, or None if there is none."""
        return next((folder for folder in self._releases() if load_release(folder).tower_id == tower_id), None)

    def _releases(self) -> list[Path]:
        """Return the folders of the releases that no rollback left out, the newest first."""
        return [folder for folder in newest_first(self.embeddings, MANIFESTS) if not (folder / ROLLBACK_FILE).exists()]

    def release_of_tower(self, tower_id: str) -> Path:
        """Return the folder of the newest release of a tower.

        Raises:
            InvalidInput: the tower has no release.
        """
        folder = self.release_of(tower_id)
        if folder is None:
            raise InvalidInput(
                f"there is no release of tower {tower_id!r} in {self.embeddings}; run `gavel embed --tower {tower_id}`"
            )
        return folder


def newest_first(root: Path, marker: str) -> list[Path]:
    """Return the folders below `root` with a marker file, each once, the newest first.

    Hidden folders belong to killed runs and are left out.

    Args:
        root: folder of the folders.
        marker: name of the marker file, or a pattern.
    """
    markers = sorted(root.glob(f"[!.]*/{marker}"), key=lambda path: path.stat().st_mtime)
    return list(dict.fromkeys(path.parent for path in reversed(markers)))


def _newest(root: Path, marker: str, what: str, remedy: str) -> Path:
    folders = newest_first(root, marker)
    if not folders:
        raise InvalidInput(f"there is no {what} in {root} yet; make one with {remedy}")
    return folders[0]
