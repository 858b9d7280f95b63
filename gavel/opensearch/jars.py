"""Lay out OpenSearch with its k-NN and neural-search plugins from the jars on Maven Central.

The folder has the layout of the distribution: lib/, modules/<name>/, plugins/<name>/. About 65 MB.
"""

import fcntl
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import MissingPrerequisite

VERSION = "2.19.1"
SERVER = f"org.opensearch:opensearch:{VERSION}"
MIN_FREE_BYTES = 1_000_000_000
DOWNLOAD_TIMEOUT_S = 60

# Needed on the server's class path, but absent from its POM
EXTRA_JARS = (
    f"org.opensearch:opensearch-plugin-classloader:{VERSION}",  # compile-only in the server's build; plugins load through it
    "org.apache.logging.log4j:log4j-api:2.21.0",
    "org.apache.logging.log4j:log4j-core:2.21.0",
    "org.locationtech.jts:jts-core:1.15.0",
    "org.locationtech.spatial4j:spatial4j:0.7",
)

Progress = Callable[[str], None]
Jars = dict[str, Path]  # artifact id -> file
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the distribution, which has its own class loader.

    Attributes:
        name: name of the module's folder under modules/.
        artifact: artifact id on Maven Central under org.opensearch.plugin.
        plugin_class: class that the node instantiates.
        extends: name of the module whose class loader is the parent, or "".
    """

    name: str
    artifact: str
    plugin_class: str
    extends: str = ""

    @property
    def descriptor(self) -> str:
        """Text of plugin-descriptor.properties."""
        lines = [
            f"name={self.name}",
            f"description={self.name}",
            f"version={VERSION}",
            f"opensearch.version={VERSION}",
            "java.version=11",
            f"classname={self.plugin_class}",
        ]
        if self.extends:
            lines.append(f"extended.plugins={self.extends}")
        return "\n".join(lines) + "\n"


MODULES = (  # each module comes after the module that it extends
    Module("transport-netty4", "transport-netty4-client", "org.opensearch.transport.Netty4Plugin"),
    Module("lang-painless", "lang-painless", "org.opensearch.painless.PainlessPlugin"),
    Module("analysis-common", "analysis-common", "org.opensearch.analysis.common.CommonAnalysisPlugin", "lang-painless"),
    Module("mapper-extras", "mapper-extras-client", "org.opensearch.index.mapper.MapperExtrasPlugin"),
    Module("reindex", "reindex-client", "org.opensearch.index.reindex.ReindexPlugin"),
)
PLUGINS: Mapping[str, str] = {"opensearch-knn": "opensearch-knn", "opensearch-neural-search": "neural-search"}
SECURITY_PLUGIN = "opensearch-security"  # fetched apart, because a node with this plugin does not start without its configuration


def default_home() -> Path:
    """Return the folder of GAVEL_OPENSEARCH_HOME, or a folder for this version in the user's cache."""
    folder = os.environ.get("GAVEL_OPENSEARCH_HOME")
    if folder:
        return Path(folder).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().resolve() / "gavel" / f"opensearch-{VERSION}"


def is_prepared(home: Path) -> bool:
    """True if `home` holds this version of OpenSearch. One rename puts it there, so it is complete or absent."""
    return (home / "lib" / f"opensearch-{VERSION}.jar").exists()


def prepare(home: Path, progress: Progress = logger.info) -> Path:
    """Download and lay out OpenSearch, unless `home` holds it already.

    Args:
        home: folder to create, with its parents.
        progress: called with a short description of each step.

    Returns:
        home.

    Raises:
        MissingPrerequisite: Maven Central does not answer, the disk is nearly full, or `home` holds something else.
    """
    if is_prepared(home):
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    require_free_disk(home.parent)
    with locked(home.parent / f".{home.name}.lock"):
        if is_prepared(home):  # another process prepared it
            return home
        if home.exists() and (not home.is_dir() or any(home.iterdir())):
            raise MissingPrerequisite(
                f"{home} holds something other than OpenSearch {VERSION}; point GAVEL_OPENSEARCH_HOME elsewhere"
            )
        staging = home.parent / f".{home.name}.partial"
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed run
        try:
            _lay_out(staging, progress)
            (staging / "layout").rename(home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    progress(f"OpenSearch {VERSION} is ready in {home}")
    return home


def prepare_security_plugin(home: Path, progress: Progress = logger.info) -> Path:
    """Download the security plugin (47 MB) beside a prepared layout, unless it is there already.

    Args:
        home: folder of the prepared layout; its other nodes do not load the plugin.
        progress: called with a short description of each step.

    Returns:
        Folder of the plugin.

    Raises:
        MissingPrerequisite: Maven Central does not answer, or the disk is nearly full.
    """
    from jgo.maven import MavenContext

    folder = home / "optional" / SECURITY_PLUGIN
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(home / "optional" / ".lock"):
        if folder.is_dir():
            return folder
        require_free_disk(home)
        staging = folder.parent / ".partial"
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed run
        try:
            with _network_errors():
                maven = MavenContext(repo_cache=staging / "repository", timeout=DOWNLOAD_TIMEOUT_S)
                progress(f"downloading plugin {SECURITY_PLUGIN}")
                _fetch_plugin(maven, SECURITY_PLUGIN, staging / "plugin")
            (staging / "plugin").rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def require_free_disk(folder: Path) -> None:
    """Check that the disk has room for OpenSearch.

    Raises:
        MissingPrerequisite: less than 1 GB is free.
    """
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise MissingPrerequisite(
            f"only {free / 1e9:.1f} GB are free at {folder}, OpenSearch needs 1 GB; free some, see `df -h {folder}`"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock for the length of the block. The lock is released if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lay_out(staging: Path, progress: Progress) -> None:
    from jgo.maven import MavenContext

    layout = staging / "layout"
    # A separate repository: jgo writes downloads in place, so an incomplete one would stay in ~/.m2
    maven = MavenContext(repo_cache=staging / "repository", timeout=DOWNLOAD_TIMEOUT_S)
    with _network_errors():
        _lay_out_server(maven, layout, progress)
        for number, (name, artifact) in enumerate(PLUGINS.items(), 1):
            progress(f"downloading plugin {name} ({number} of {len(PLUGINS)})")
            _fetch_plugin(maven, artifact, layout / "plugins" / name)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Turn the errors of a failed download into one error with its remedy."""
    import requests

    try:
        yield
    except (requests.RequestException, RuntimeError, zipfile.BadZipFile) as error:
        raise MissingPrerequisite(
            f"OpenSearch {VERSION} cannot be fetched from Maven Central ({error}); check the network and run it again, "
            "or set OPENSEARCH_URL to an OpenSearch that runs already"
        ) from error


def _fetch_plugin(maven: Any, artifact: str, folder: Path) -> None:
    archive = maven.project("org.opensearch.plugin", artifact).at_version(f"{VERSION}.0").artifact(packaging="zip")
    with zipfile.ZipFile(archive.resolve()) as file:
        file.extractall(folder)


def _lay_out_server(maven: Any, layout: Path, progress: Progress) -> None:
    """Copy the server into lib/, and each module with its own dependencies into modules/."""
    progress(f"downloading the OpenSearch {VERSION} server")
    server = _closure(maven, SERVER)
    for coordinate in EXTRA_JARS:
        server.setdefault(coordinate.split(":")[1], maven.create_dependency(coordinate).artifact.resolve())
    _copy(server, layout / "lib")
    own_jars: dict[str, Jars] = {"": {}}
    for number, module in enumerate(MODULES, 1):
        progress(f"downloading module {module.name} ({number} of {len(MODULES)})")
        # The server's versions win. If server and module were resolved together, jgo would mix versions, unlike Maven
        inherited = server.keys() | own_jars[module.extends].keys()
        own = _closure(maven, f"org.opensearch.plugin:{module.artifact}:{VERSION}", exclude=inherited)
        own_jars[module.name] = own
        _copy(own, layout / "modules" / module.name)
        (layout / "modules" / module.name / "plugin-descriptor.properties").write_text(module.descriptor)


def _closure(maven: Any, coordinate: str, exclude: frozenset[str] | set[str] = frozenset()) -> Jars:
    """Download an artifact with its dependencies, except the artifact ids in `exclude`, and return artifact id -> file."""
    root = maven.create_dependency(coordinate)
    _, nodes = maven.resolver.get_dependency_list([root])
    jars: Jars = {}
    for dependency in (root, *(node.dep for node in nodes)):
        key = dependency.artifact.artifactId
        if key not in exclude:
            jars.setdefault(key, dependency.artifact.resolve())
    return jars


def _copy(jars: Jars, folder: Path) -> None:
    folder.mkdir(parents=True)
    for jar in jars.values():
        shutil.copy(jar, folder)
