"""Build code bundles for Lambdas and for the embedding job without Docker, from our sources and wheels for Linux.

A Lambda's bundle holds the modules that its handler imports. The hash of a bundle covers these sources and the requirements, so
only a change of these makes a new bundle.
"""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from retrieval.files import building_folder

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ROOT / "build" / "lambda"
ROOMS = ("retrieval", "lambdas")  # top-level packages that a function may import
BUNDLE_CONTEXT = "gavel:bundle"
MAX_BYTES = 175 * 1024**2  # unzipped; Lambda allows 250 MB, and every MB is read at a cold start
MAX_JOB_BYTES = 500 * 1024**2  # unzipped; each instance unpacks the bundle before the job begins
PYTHON_VERSION = "3.12"  # Python of Lambda and of the job's container (processing_image in cdk.json)
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)  # Lambda's AL2023 has glibc 2.34; the job's Ubuntu 22.04 has 2.35
NOT_RUN = ("tests", "test", "__pycache__")  # folders of wheels that are never imported
BYTECODE = ["**/__pycache__", "**/*.pyc"]
RECIPE = "1"  # version of the format of bundles; raise it when the format changes


class BundleError(RuntimeError):
    """A bundle cannot be built, or is too large."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a bundle.

    Attributes:
        name: beginning of the name of the bundle's folder.
        room: source folder that the bundle is for, such as lambdas/query_api.
        requirements: requirements.txt of that folder, which names the wheels.
        sources: path in the bundle -> file.
        max_bytes: maximum size of the bundle, unzipped.
    """

    name: str
    room: str
    requirements: Path
    sources: Mapping[str, Path]
    max_bytes: int


def source_code(folder: str) -> lambda_.Code:
    """Return the code of a function that needs only Lambda's own Python.

    Args:
        folder: path of the source folder, relative to the repository.
    """
    return lambda_.Code.from_asset(str(ROOT / folder), exclude=BYTECODE)


def bundled_code(scope: Construct, name: str) -> lambda_.Code:
    """Return the code of `lambdas/<name>` with the wheels of its requirements.txt.

    If the context `gavel:bundle` is false, the wheels are left out. Then nothing is downloaded, and templates differ only in the
    asset's hash.

    Args:
        scope: construct whose context is read.
        name: name of a folder in lambdas/.

    Raises:
        BundleError: a wheel is not available, or the bundle is larger than MAX_BYTES.
    """
    # exclude bytecode, which later imports from the folder would add
    return lambda_.Code.from_asset(str(bundle(ROOT, name, BUNDLES, with_wheels=_with_wheels(scope))), exclude=BYTECODE)


def job_packages(scope: Construct) -> assets.Asset:
    """Return the Python packages that the embedding job adds to its container, as a zip in S3.

    Args:
        scope: construct that gets the asset; its context is read as in bundled_code().

    Raises:
        BundleError: a wheel is not available, or the bundle is larger than MAX_JOB_BYTES.
    """
    folder = bundle_packages(ROOT, BUNDLES, with_wheels=_with_wheels(scope))
    return assets.Asset(scope, "Packages", path=str(folder), exclude=BYTECODE)


def bundle(root: Path, name: str, bundles: Path, *, with_wheels: bool = True) -> Path:
    """Build the bundle of a Lambda, unless the same bundle exists already.

    Args:
        root: root folder of the repository.
        name: name of a folder in `root/lambdas` with a requirements.txt.
        bundles: folder that gets one folder per bundle.
        with_wheels: False leaves the wheels out.

    Returns:
        The bundle's folder; its name ends with a hash of the contents.

    Raises:
        BundleError: a wheel is not available, or the bundle is larger than MAX_BYTES.
    """
    room = f"lambdas/{name}"
    sources = {str(path.relative_to(root)): path for path in _sources(root, f"lambdas.{name}.handler")}
    return _bundle(Contents(name, room, root / room / "requirements.txt", sources, MAX_BYTES), bundles, with_wheels)


def bundle_packages(root: Path, bundles: Path, *, with_wheels: bool = True) -> Path:
    """Build the bundle of the embedding job's packages, without our sources; other arguments and errors as in bundle()."""
    requirements = root / "processing" / "requirements.txt"
    contents = Contents("embedding_job", "processing", requirements, {requirements.name: requirements}, MAX_JOB_BYTES)
    return _bundle(contents, bundles, with_wheels)


def _bundle(contents: Contents, bundles: Path, with_wheels: bool) -> Path:
    folder = bundles / f"{contents.name}-{_digest(contents, with_wheels)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with building_folder(folder) as partial:
        for name, source in contents.sources.items():
            place = partial / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
        if with_wheels:  # last, because it takes minutes, in which a source may be edited
            _install(contents.requirements, partial)
        check_size(partial, contents.room, contents.max_bytes)
    return folder


def check_size(folder: Path, room: str, max_bytes: int) -> int:
    """Return the size of a bundle in bytes.

    Args:
        folder: folder of the bundle.
        room: folder of the bundle's requirements.txt, for the message.
        max_bytes: maximum size of the bundle.

    Raises:
        BundleError: the bundle is larger than `max_bytes`; the message names the largest folders in it.
    """
    sizes = {entry.name: _bytes(entry) for entry in folder.iterdir()}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = sorted(sizes, key=lambda entry: -sizes[entry])[:3]
        folders = ", ".join(f"{entry} {sizes[entry] / 1024**2:.1f} MiB" for entry in largest)
        raise BundleError(
            f"the bundle of {room} has {total / 1024**2:.1f} MiB, {max_bytes / 1024**2:.0f} are allowed; "
            f"largest are {folders}: take what it does not import out of {room}/requirements.txt"
        )
    return total


def _with_wheels(scope: Construct) -> bool:
    return scope.node.try_get_context(BUNDLE_CONTEXT) not in (False, "false")  # the command line passes text


def _sources(root: Path, module: str) -> list[Path]:
    """Find the files of ROOMS that a module runs: its own file, and the files that it imports directly or indirectly.

    Imports inside functions count, too. Imports below `if TYPE_CHECKING:` do not, because they never run.
    """
    files: set[Path] = set()
    waiting = _files_of(root, module)
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            imports = _Imports()
            imports.visit(ast.parse(file.read_bytes(), str(file)))
            waiting += [path for name in imports.names for path in _files_of(root, name)]
    return sorted(files)


class _Imports(ast.NodeVisitor):
    """Collects the dotted names that a module imports at run time: names of modules, or of objects in modules."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def visit_If(self, node: ast.If) -> None:
        guard = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in node.orelse if guard else ast.iter_child_nodes(node):
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or node.module is None:
            raise BundleError(f"`{ast.unparse(node)}` is a relative import; write the whole name of the module")
        self.names += [f"{node.module}.{alias.name}" for alias in node.names]


def _files_of(root: Path, name: str) -> list[Path]:
    """Return the files that an import of a dotted name runs: the __init__.py of each package, and the module's own file."""
    parts = name.split(".")
    if parts[0] not in ROOMS:
        return []
    paths = [root.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]
    return [file for path in paths for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()]


def _digest(contents: Contents, with_wheels: bool) -> str:
    recipe = json.dumps([RECIPE, PYTHON_VERSION, PLATFORMS, NOT_RUN, with_wheels])
    digest = hashlib.sha256(recipe.encode())
    for name, file in [*contents.sources.items(), ("requirements.txt", contents.requirements)]:
        digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _install(requirements: Path, target: Path) -> None:
    """Install exactly the wheels that requirements.txt names into a folder, for PYTHON_VERSION on Linux."""
    platforms = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    # older pips compare Requires-Python with the Python that runs them, not with --python-version; so the tags choose the wheels
    tags = [
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--implementation",
        "cp",
        "--python-version",
        PYTHON_VERSION,
        *platforms,
    ]
    run = subprocess.run(
        [*pip, *tags, "--target", str(target), "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BundleError(
            f"the wheels of {requirements} cannot be had: {last}; check the pins and the package index, then synth again"
        )
    for unused in [path for path in target.rglob("*") if path.name in NOT_RUN and path.is_dir()] + [target / "bin"]:
        shutil.rmtree(unused, ignore_errors=True)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
