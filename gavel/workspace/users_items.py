"""Towers over users and items on one machine: training, the release of the items' vectors, and lots for a user."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.user_items import EntityTable, read_user_items
from gavel.workspace.folders import Workspace
from gavel.workspace.wiring import open_store
from retrieval.contracts.documents import Vector
from retrieval.contracts.release import Manifest
from retrieval.errors import InvalidInput, TowerError
from retrieval.files import exclusive
from retrieval.index.filters import BlockList, Filter
from retrieval.progress import Progress
from retrieval.search.live_index import SearchModels
from retrieval.search.request import MAX_BLOCKED
from retrieval.search.response import SearchAnswer
from retrieval.search.service import SearchService

if TYPE_CHECKING:  # imports torch
    from models.config.features import UsersItemsConfig
    from models.training.loop import EpochRecord
    from processing.training.users_items import UsersItemsReport

Stages = Callable[[str], Progress]


@dataclass(frozen=True)
class TrainedTables:
    """The result of `gavel train users-items`.

    Attributes:
        tower_id: id of the towers.
        folder: their folder.
        report: metrics of the training.
        release: manifest of the release of the items' vectors.
        columns: "users" and "items" -> columns that the towers read.
        ignored: "users" and "items" -> column -> reason why it is no feature.
        left_out: reason -> number of interactions that were left out.
    """

    tower_id: str
    folder: Path
    report: "UsersItemsReport"
    release: Manifest
    columns: Mapping[str, list[str]]
    ignored: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, int]


def train(
    workspace: Workspace,
    tables: Path,
    config: "UsersItemsConfig",
    *,
    stages: Stages,
    on_epoch: "Callable[[EpochRecord[float]], None]",
) -> TrainedTables:
    """Train feature towers on tables, save them, and write the items' vectors as a release.

    Args:
        workspace: workspace that stores towers and release.
        tables: folder of users, items and interactions, see catalog.user_items.
        config: settings of the training.
        stages: opens the progress bar of a phase.
        on_epoch: called with the record of each epoch.

    Raises:
        InvalidInput: a table or a setting cannot be used.
    """
    from models.training.checkpoints import CHECKPOINT_FOLDER
    from models.training.feature_files import save_feature_towers
    from processing.embedding.vector_release import write_vector_release
    from processing.training.users_items import train_users_items

    data = read_user_items(tables, user_features=config.user_features, item_features=config.item_features)
    with exclusive(workspace.settings.home / ".trains-users-items.lock", f"trains users and items in {workspace.settings.home}"):
        folder = workspace.feature_towers / CHECKPOINT_FOLDER
        report = train_users_items(data, config, checkpoint_folder=folder, stages=stages, on_epoch=on_epoch)
        towers = report.trained.towers
        specs = {"users": towers.user_tower.spec, "items": towers.item_tower.spec}
        columns = {name: [*spec.categories, *spec.numbers] for name, spec in specs.items()}
        facts = {"tables": str(tables.absolute()), "columns": columns, "report": report.to_dict()}
        stored = save_feature_towers(workspace.feature_towers, towers, config.towers, facts)
        rows = [_as_item(data.items, row) for row in data.items.rows]
        vectors = stored.encode_items(data.items.rows)
        release = write_vector_release(
            workspace.embeddings, rows, vectors, tower_id=stored.tower_id, source="items", progress=stages("write vectors")
        )
        report.forget()
    ignored = {"users": data.users.ignored, "items": data.items.ignored}
    return TrainedTables(
        stored.tower_id, workspace.feature_towers / stored.tower_id, report, release, columns, ignored, data.left_out
    )


def encode_user(workspace: Workspace, tower_id: str, user_id: str, tables: Path | None = None) -> tuple[Vector, frozenset[str]]:
    """Return the vector of a user and the ids of the items that the user took.

    Args:
        workspace: workspace that stores the towers.
        tower_id: id of the towers.
        user_id: id of the user.
        tables: folder with the present tables; None takes those that the towers were trained on.

    Raises:
        InvalidInput: there are no such towers, or the user is not in the table.
        TowerError: the towers are damaged.
    """
    from models.training.feature_files import load_feature_towers

    stored = load_feature_towers(workspace.feature_tower(tower_id))
    folder = tables or Path(stored.card["tables"])
    data = read_user_items(folder)
    ids = data.users.ids
    if user_id not in ids:
        raise InvalidInput(f"there is no user {user_id!r} in {folder}; its users have ids such as {ids[0]!r}")
    user = ids.index(user_id)
    taken = data.pairs[data.pairs[:, 0] == user, 1]
    items = data.items.rows
    return stored.encode_users([data.users.rows[user]])[0], frozenset(items[item][data.items.id_column] for item in taken)


def recommend(
    workspace: Workspace, user_id: str, k: int, *, tables: Path | None = None, exclude_taken: bool = True
) -> SearchAnswer:
    """Return the lots of the live index nearest to a user, without those that the user took.

    Raises:
        InvalidInput: the live index is not of feature towers, or the user is unknown.
        IndexUnavailable: the index does not answer.
    """
    body = retrieve_body(workspace, user_id, k, tables=tables, exclude_taken=exclude_taken)
    filters = Filter(blocked=BlockList(items=frozenset(body["blocked_items"])))
    service = SearchService(open_store(workspace.settings), SearchModels(_NoTextEncoder))
    return service.nearest(body["vector"], k, filters)


def retrieve_body(
    workspace: Workspace, user_id: str, k: int, *, tables: Path | None = None, exclude_taken: bool = True
) -> dict[str, Any]:
    """Return the body of POST /retrieve for a user; the arguments and errors are those of recommend()."""
    tower_id = open_store(workspace.settings).live().tower_id
    vector, taken = encode_user(workspace, tower_id, user_id, tables)
    return {"vector": vector.tolist(), "k": k, "blocked_items": sorted(taken)[:MAX_BLOCKED] if exclude_taken else []}


class _NoTextEncoder:
    """A stand-in for the query encoder, which towers over users and items do not have."""

    def __init__(self, tower_id: str) -> None:
        self.tower_id = tower_id

    def encode(self, texts: Sequence[str]) -> Vector:
        raise TowerError(f"towers {self.tower_id} encode users and items, no texts; search by words, or for a user")


def _as_item(items: EntityTable, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the columns of the item contract: an id, and a title of its categories if it has none."""
    item_id = row[items.id_column]
    title = row.get("title") or row.get("name") or " ".join(str(row[name]) for name in items.categories if row[name] is not None)
    return {**row, "item_id": item_id, "title": f"{title}" if title else item_id}
