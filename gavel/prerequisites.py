"""Report what this machine lacks, with the command that installs it.

It runs on the machine's own Python before anything is installed. So it uses only the standard library, in syntax that old
Pythons can read.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MIN_PYTHON = (3, 11)
MIN_JAVA = 17
INSTALL_GB = 9.0  # torch brings its CUDA libraries along


def missing_python(version: "tuple[int, ...]" = sys.version_info[:3]) -> "str | None":
    """Return a message with the remedy if Python is too old or has no venv, otherwise None."""
    if tuple(version[:2]) < MIN_PYTHON:
        remedy = "apt-get install python3.11 python3.11-venv && make PYTHON=python3.11 demo"
        return f"Python {version[0]}.{version[1]} is too old, Gavel needs 3.11 or newer: {remedy}"
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "this Python has no venv module: apt-get install python3-venv"
    return None


def missing_disk(folder: Path, need_gb: float = INSTALL_GB) -> "str | None":
    """Return a message with the remedy if the installation does not fit on the disk, otherwise None."""
    free_gb = shutil.disk_usage(str(folder)).free / 1e9
    if free_gb >= need_gb:
        return None
    remedy = f"free some; `du -xh {folder} | sort -h | tail` shows the largest folders"
    return f"{folder} has {free_gb:.1f} GB free, the installation needs {need_gb:.0f} GB: {remedy}"


def missing_java() -> "str | None":
    """Return a message with the remedy if Java is absent or too old, otherwise None.

    With OPENSEARCH_URL set no Java is needed.
    """
    if os.environ.get("OPENSEARCH_URL"):
        return None
    remedy = "apt-get install openjdk-17-jre-headless"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(home, "bin", "java")) if home else "java")
    if java is None:
        return f"OpenSearch needs Java {MIN_JAVA} or newer, and there is none: {remedy}"
    output = subprocess.run([java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout.decode()
    version = re.search(r'version "(?:1\.)?(\d+)', output)
    if version is None or int(version.group(1)) < MIN_JAVA:
        description = output.splitlines()[0] if output else "broken"
        return f"OpenSearch needs Java {MIN_JAVA} or newer, {java} is {description}: {remedy}"
    return None


def main(names: "list[str]") -> int:
    """Run the named checks ("python", "disk", "java"); return 0 if nothing is missing, otherwise 1."""
    here = Path(__file__).resolve().parent.parent
    checks = {"python": missing_python, "disk": lambda: missing_disk(here), "java": missing_java}
    problems = [problem for problem in (checks[name]() for name in names) if problem]
    for problem in problems:
        print("gavel: " + problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
