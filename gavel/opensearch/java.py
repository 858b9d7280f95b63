"""Find a Java on this machine that can run OpenSearch, or say what is missing."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import MissingPrerequisite

OLDEST_JAVA = 17
REMEDY = "install one with: apt-get install openjdk-17-jre-headless"
# jdk.localedata: without it OpenSearch starts, but refuses every index when it builds the Thai analyzer
NEEDED_MODULES = ("java.management", "java.logging", "jdk.localedata", "jdk.management", "jdk.unsupported")
FIRST_SIMD_JAVA = 20  # from here on Lucene 9.12 can use the Vector API


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime that was found and asked for its version.

    Attributes:
        home: its folder.
        version: feature release, such as 17.
        libjvm: the virtual machine as a shared library.
    """

    home: Path
    version: int
    libjvm: Path

    @property
    def vector_options(self) -> list[str]:
        """Options that let Lucene compute distances with SIMD; empty below Java 20, where it cannot."""
        if self.version < FIRST_SIMD_JAVA:
            return []
        return [
            "--add-modules=jdk.incubator.vector",
            "--enable-native-access=ALL-UNNAMED",
            f"-Dorg.apache.lucene.vectorization.upperJavaFeatureVersion={self.version}",
        ]


def find_java() -> Java:
    """Find the Java of JAVA_HOME, or else the `java` on PATH.

    Raises:
        MissingPrerequisite: none, too old, or not a whole runtime; the message says what was found and what to install.
    """
    program = _java_program()
    asked = _ask(program, "-XshowSettings:properties", "-version")
    home_line = re.search(r"java\.home = (.+)", asked)
    version_line = re.search(r"java\.specification\.version = (?:1\.)?(\d+)", asked)
    if not home_line or not version_line:
        raise MissingPrerequisite(f"{program} does not tell its version; {REMEDY}")
    home, version = Path(home_line[1].strip()), int(version_line[1])
    if version < OLDEST_JAVA:
        raise MissingPrerequisite(f"OpenSearch needs Java {OLDEST_JAVA} or newer, {program} is Java {version}; {REMEDY}")
    libjvm = home / "lib" / "server" / ("libjvm.dylib" if sys.platform == "darwin" else "libjvm.so")
    if not libjvm.exists():
        raise MissingPrerequisite(f"the Java in {home} is not whole: {libjvm} is missing; {REMEDY}")
    modules = {line.split("@")[0] for line in _ask(program, "--list-modules").splitlines()}
    lacking = [name for name in NEEDED_MODULES if name not in modules]
    if lacking:
        raise MissingPrerequisite(f"the Java in {home} is not whole: module {lacking[0]} is missing; {REMEDY}")
    return Java(home, version, libjvm)


def _java_program() -> str:
    java_home = os.environ.get("JAVA_HOME")
    if java_home:
        program = Path(java_home) / "bin" / "java"
        if not program.exists():
            raise MissingPrerequisite(f"JAVA_HOME is {java_home}, which holds no bin/java; unset it, or {REMEDY}")
        return str(program)
    found = shutil.which("java")
    if not found:
        raise MissingPrerequisite(f"OpenSearch needs Java {OLDEST_JAVA} or newer, and no `java` is on PATH; {REMEDY}")
    return found


def _ask(program: str, *flags: str) -> str:
    try:
        answer = subprocess.run([program, *flags], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingPrerequisite(f"{program} does not run ({error}); {REMEDY}") from error
    return answer.stderr + answer.stdout
