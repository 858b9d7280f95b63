"""Lambda code without Docker: a folder of our sources, and of the wheels that Lambda's Linux takes.

A bundle's hash is made of the sources and the requirements, so a change of either makes a new one and nothing else does.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aws_cdk import aws_lambda as lambda_
from constructs import Construct

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ROOT / "build" / "lambda"
BUNDLE_CONTEXT = "gavel:bundle"
MOST_BYTES = 175 * 1024**2  # unzipped; Lambda allows 250 MB, and every MB is read at a cold start
PYTHON_VERSION = "3.12"
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)  # AL2023: glibc 2.34
NOT_RUN = ("tests", "test", "__pycache__")  # folders of wheels that no function imports
BYTECODE = ["**/__pycache__", "**/*.pyc"]
RECIPE = "1"  # raise it when the way of bundling changes


class BundleError(RuntimeError):
    """A Lambda's bundle cannot be made, or is too large."""


def source_code(folder: str) -> lambda_.Code:
    """The code of a function that needs nothing beside Lambda's own Python.

    Args:
        folder: relative to the repository.
    """
    return lambda_.Code.from_asset(str(ROOT / folder), exclude=BYTECODE)


def bundled_code(scope: Construct, name: str) -> lambda_.Code:
    """The code of `lambdas/<name>` with what its requirements.txt names.

    With the context `gavel:bundle` false the wheels are left out: templates are the same but for the asset's hash, and
    nothing is fetched.

    Args:
        scope: whose context is asked.
        name: folder in lambdas/.

    Raises:
        BundleError: a wheel cannot be had, or the bundle is larger than MOST_BYTES.
    """
    with_wheels = scope.node.try_get_context(BUNDLE_CONTEXT) not in (False, "false")  # the command line passes text
    # bytecode of whoever imported from the folder since is no part of it
    return lambda_.Code.from_asset(str(bundle(ROOT, name, BUNDLES, with_wheels=with_wheels)), exclude=BYTECODE)


def bundle(root: Path, name: str, bundles: Path, *, with_wheels: bool = True) -> Path:
    """Make the bundle of a Lambda, unless the same one is there.

    Args:
        root: the repository.
        name: folder in `root/lambdas`, with a requirements.txt.
        bundles: gets one folder a bundle.
        with_wheels: False leaves the third parties out.

    Returns:
        The bundle's folder, named by the hash of what it is made of.

    Raises:
        BundleError: a wheel cannot be had, or the bundle is larger than MOST_BYTES.
    """
    requirements = root / "lambdas" / name / "requirements.txt"
    sources = _sources(root, name)
    digest = _digest(root, [*sources, requirements], with_wheels)
    folder = bundles / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if with_wheels:
        _install(requirements, partial)
    for source in sources:
        place = partial / source.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    check_size(partial, name)
    partial.replace(folder)
    return folder


def check_size(folder: Path, name: str, most_bytes: int = MOST_BYTES) -> int:
    """Count the bytes of a bundle.

    Returns:
        Its size.

    Raises:
        BundleError: it is larger than `most_bytes`; the message names the largest folders in it.
    """
    sizes = {entry.name: _bytes(entry) for entry in folder.iterdir()}
    total = sum(sizes.values())
    if total > most_bytes:
        largest = sorted(sizes, key=lambda entry: -sizes[entry])[:3]
        shown = ", ".join(f"{entry} {sizes[entry] / 1024**2:.1f} MiB" for entry in largest)
        raise BundleError(
            f"the bundle of lambdas/{name} has {total / 1024**2:.1f} MiB, {most_bytes / 1024**2:.0f} are allowed; "
            f"largest are {shown}: take what it does not import out of lambdas/{name}/requirements.txt"
        )
    return total


def _sources(root: Path, name: str) -> list[Path]:
    """The core and the function's own folder."""
    rooms = (root / "retrieval", root / "lambdas" / name)
    return sorted([root / "lambdas" / "__init__.py", *(path for room in rooms for path in room.rglob("*.py"))])


def _digest(root: Path, files: Sequence[Path], with_wheels: bool) -> str:
    recipe = json.dumps([RECIPE, PYTHON_VERSION, PLATFORMS, NOT_RUN, with_wheels])
    digest = hashlib.sha256(recipe.encode())
    for file in files:
        digest.update(f"{file.relative_to(root)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _install(requirements: Path, target: Path) -> None:
    """Unpack the wheels that requirements.txt names, all of them and no others, for Lambda's Python and Linux."""
    platforms = [flag for platform in PLATFORMS for flag in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    # older pips hold Requires-Python against the Python that runs them, whatever --python-version says; the tags choose the wheels
    tags = [
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--implementation",
        "cp",
        "--python-version",
        PYTHON_VERSION,
        *platforms,
    ]
    made = subprocess.run(
        [*pip, *tags, "--target", str(target), "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        last = (made.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BundleError(
            f"the wheels of {requirements} cannot be had: {last}; check the pins and the package index, then synth again"
        )
    for unused in [path for path in target.rglob("*") if path.name in NOT_RUN and path.is_dir()] + [target / "bin"]:
        shutil.rmtree(unused, ignore_errors=True)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
