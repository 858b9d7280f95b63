"""Run a command: errors of Gavel become one line on stderr and an exit status."""

import logging
import shlex
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from catalog.folder import CatalogFolder
from gavel.workspace.console import notes
from retrieval.errors import GavelError, InvalidInput
from retrieval.files import explain_os_error

EXIT_ERROR, EXIT_USAGE, EXIT_CUT, EXIT_INTERRUPTED = 1, 2, 3, 130  # EXIT_CUT: a time limit cut a training
COMMAND = "gavel"


def run_command(command: Callable[[], object], name: str = COMMAND) -> None:
    """Run a command line to its end.

    Args:
        command: function that parses and runs the command line.
        name: prefix of error messages.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):  # unencodable text must not end a command
            stream.reconfigure(errors=errors)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        command()
    except (GavelError, OSError) as error:
        say(explain_os_error(error) if isinstance(error, OSError) and not isinstance(error, GavelError) else str(error), name=name)
        sys.exit(EXIT_USAGE if isinstance(error, InvalidInput) else EXIT_ERROR)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            say("interrupted; run the same command again to go on", style="yellow", name=name)
        raise


def say(text: str, *, style: str = "red", name: str = COMMAND) -> None:
    """Print one line on stderr. Each `gavel …` in the text is written as this command was called, so that it can be copied."""
    line = f"{name}: {text.replace(f'`{COMMAND} ', f'`{as_called()} ')}"
    notes.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def as_called() -> str:
    """Return the path by which the user called `gavel`, such as .venv/bin/gavel, or "gavel" if it is on the PATH."""
    called = Path(sys.argv[0])
    return str(called) if called.name == COMMAND and not called.is_absolute() else COMMAND


def show_next(*commands: str) -> None:
    """Print the commands that go on, each without `gavel` before it, on stderr."""
    line = ", then ".join(f"{as_called()} {command}" for command in commands)
    notes.print(f"next: {line}", style="dim", markup=False, highlight=False, soft_wrap=True)


def commands_for(catalog: CatalogFolder) -> tuple[str, ...]:
    """Return the commands that embed and index a catalogue, with the user's own file if it was made of one."""
    source = f" {' '.join(map(shlex.quote, catalog.sources))}" if catalog.sources else ""
    return f"embed{source}", "index"
