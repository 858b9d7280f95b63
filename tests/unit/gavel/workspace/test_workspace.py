"""What a command takes when it is not told: the newest whole thing of its kind."""

import os
from pathlib import Path

import pytest

from gavel.workspace.folders import Workspace
from retrieval.config.settings import Settings
from retrieval.contracts.release import Manifest
from retrieval.errors import InvalidInput, InvalidSettings


def write(path: Path, age_s: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    os.utime(path, (1_800_000_000 - age_s, 1_800_000_000 - age_s))


def test_the_newest_catalogue_is_taken_and_never_one_that_was_left_half_made(tmp_path: Path) -> None:
    for name, age_s in (("old", 30), ("new", 20), (".new.building", 10)):
        write(tmp_path / "catalogs" / name / "catalog.json", age_s)
    assert Workspace(Settings(home=tmp_path)).catalog(None) == tmp_path / "catalogs" / "new"


def test_the_newest_release_may_be_that_of_several_instances(tmp_path: Path) -> None:
    workspace = Workspace(Settings(home=tmp_path))
    for name, instances in (("alone", 1), ("shared", 2)):
        (workspace.embeddings / name).mkdir(parents=True)
        for instance in range(instances):
            path = Manifest(name, "t", 16, 0, 0, 0, 0, [], instance=instance, instances=instances).save(workspace.embeddings / name)
            os.utime(path, (1_800_000_000 + instances, 1_800_000_000 + instances))
    assert workspace.release(None) == workspace.embeddings / "shared"
    assert workspace.release(Path("alone")) == workspace.embeddings / "alone"


def test_where_there_is_nothing_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    workspace = Workspace(Settings(home=tmp_path))
    for find, command in (
        (workspace.catalog, "gavel catalog generate"),
        (workspace.tower, "gavel train"),
        (workspace.release, "gavel embed"),
    ):
        with pytest.raises(InvalidInput, match=command):
            find(None)
    write(workspace.towers / "abc" / "tower.json", 0)
    with pytest.raises(InvalidInput, match=r"no tower 'xyz' .*there are: abc"):
        workspace.tower("xyz")


def test_towers_in_a_bucket_cannot_be_written_here(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unset GAVEL_TOWERS_URI"):
        _ = Workspace(Settings(home=tmp_path, towers_uri="s3://bucket/towers")).towers


def test_a_release_that_is_nowhere_is_named_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    workspace = Workspace(Settings(home=tmp_path))
    (workspace.embeddings / "night").mkdir(parents=True)
    (workspace.embeddings / "night" / "manifest.json").write_text("{}")
    with pytest.raises(InvalidInput) as refused:
        workspace.release(Path("nosuch"))
    said = str(refused.value)
    assert "'nosuch'" in said
    assert str(workspace.embeddings) in said
    assert "there are: night" in said
    assert "gavel embed" in said


@pytest.mark.parametrize("below", ["", "shop", "shop/lots"])
def test_a_home_that_is_a_file_or_lies_below_one_is_refused_by_name(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match=f"{tmp_path / 'file'} is a file; name a folder by GAVEL_HOME"):
        Workspace(Settings(home=tmp_path / "file" / below))
