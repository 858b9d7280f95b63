"""The command line of a job: options that jobs share, and how a job begins and ends."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from retrieval.config.settings import ITEM_FILE_VARIABLES
from retrieval.contracts.item_columns import parse_columns
from retrieval.contracts.item_files import ReadOptions
from retrieval.contracts.text_encoding import check_encoding
from retrieval.errors import GavelError, InvalidInput

EXIT_USAGE = 2
NO_ATTRIBUTES = "none"  # value of --attributes that keeps none
CONTAINER = Path("/opt/ml/processing")  # the folders of a SageMaker processing job
EXIT_MESSAGE = Path("/opt/ml/output/message")  # its first 1,024 bytes are in the description of the job that ends

CatalogOption = Annotated[Path, typer.Option("--catalog", help="The catalogue's folder.")]
TowerOption = Annotated[Path, typer.Option("--tower", help="The tower artefact.")]
ReleaseOption = Annotated[Path, typer.Option("--release", help="Release of that tower with the lots.")]
BoosterOutputOption = Annotated[Path, typer.Option("--output", help="The booster's file.")]
CandidatesOption = Annotated[int, typer.Option("--candidates", help="First-stage lots per query.")]
DebiasOption = Annotated[bool, typer.Option("--debias/--no-debias", help="Correct clicks for position bias.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]

ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        envvar=ITEM_FILE_VARIABLES["column"],
        help="Column of a field, such as image=img; may be repeated.",
        metavar="FIELD=COLUMN",
    ),
]
DecimalOption = Annotated[
    str | None,
    typer.Option(
        "--decimal",
        envvar=ITEM_FILE_VARIABLES["decimal"],
        help="Decimal sign of prices that are text: comma or point; by default the whole column decides.",
    ),
]
DatesOption = Annotated[
    str | None,
    typer.Option(
        "--dates",
        envvar=ITEM_FILE_VARIABLES["dates"],
        help="Order of dates such as 03/04/2026: day-first or month-first; by default the whole column decides.",
    ),
]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        "--encoding", envvar=ITEM_FILE_VARIABLES["encoding"], help="Encoding of text files, such as cp1252; by default it is found."
    ),
]
AttributesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attributes",
        envvar=ITEM_FILE_VARIABLES["attributes"],
        help="Attribute to keep, such as colour; may be repeated. By default all are kept; none keeps none.",
        metavar="NAME|none",
    ),
]
FetchOption = Annotated[
    bool,
    typer.Option("--fetch/--no-fetch", envvar=ITEM_FILE_VARIABLES["fetch"], help="Fetch photos that lots name by http(s) address."),
]
PhotoHostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--photo-host",
        envvar=ITEM_FILE_VARIABLES["photo_host"],
        help="Host, such as photos.intranet or 127.0.0.1:8080, that may have no public address; may be repeated.",
    ),
]


def read_options(
    columns: Sequence[str] | None,
    decimal: str | None,
    dates: str | None,
    encoding: str | None,
    attributes: Sequence[str] | None = None,
) -> ReadOptions:
    """Return the options of reading catalogue files, from the options above.

    Raises:
        InvalidInput: a value is not allowed.
    """
    encoding = check_encoding(encoding) if encoding else None
    names = tuple(attributes) if attributes else None
    if names is not None and NO_ATTRIBUTES in names:
        if len(names) > 1:
            raise InvalidInput(f"--attributes {NO_ATTRIBUTES} keeps no attribute; leave it out, or the other names")
        names = ()
    return ReadOptions(tuple(parse_columns(columns or ()).items()), decimal, dates, encoding, names)


def run_job(job: Callable[..., int], arguments: Sequence[str] | None, name: str, *, log_level: int | None = logging.INFO) -> int:
    """Run a job from its command line.

    Args:
        job: function that takes the options described by its annotations and returns the exit status.
        arguments: the command line; None takes the process's own.
        name: name of the job, printed before an error message.
        log_level: level of the log on stderr; None sets up no log.

    Returns:
        The job's exit status; 2 if the input or an option cannot be used, after one line on stderr with the reason. In a
        container of SageMaker the reason is the job's exit message, too.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
    app.command(help=(job.__doc__ or "").partition("\n")[0])(job)
    command = typer.main.get_command(app)
    try:
        with command.make_context(Path(sys.argv[0]).name, list(sys.argv[1:] if arguments is None else arguments)) as context:
            if log_level is not None:
                logging.basicConfig(level=log_level, format="%(asctime)s %(message)s", stream=sys.stderr)
            return int(command.invoke(context))
    except typer.Exit as end:  # --help
        return end.exit_code
    except typer.TyperException as error:
        print(f"{name}: {error.format_message()}", file=sys.stderr)
    except GavelError as error:
        print(f"{name}: {error}", file=sys.stderr)
        if CONTAINER.is_dir():
            EXIT_MESSAGE.parent.mkdir(exist_ok=True)
            EXIT_MESSAGE.write_text(f"{error}\n", encoding="utf-8", errors="replace")  # the night's notice names the reason
    return EXIT_USAGE
