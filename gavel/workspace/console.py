"""Output of the command line: progress bars and tables of items, quality and timings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from retrieval.contracts.items import moment_of
from retrieval.search.service import SearchAnswer
from retrieval.text.analysis import clean_text

Step = Callable[[int, int], None]
ESTIMATE_SECONDS = 120.0  # steps of the last seconds that the estimate of the remaining time rests on
CELL_WIDTH = 24  # characters of a cell of a table that are never folded, however narrow the terminal
CELL_PADDING = 3  # characters between two cells
WIDE = 100  # characters; on a narrower terminal the table of items has fewer columns

console = Console()
notes = Console(stderr=True)  # for everything except the answer, so that stdout holds only JSON with --json


@contextmanager
def progress(label: str, *, note: Callable[[], str] | None = None) -> Iterator[Step]:
    """Show a bar on stderr while a long step runs, with the time so far and an estimate of the remaining time.

    Args:
        label: label of the bar.
        note: returns a text that is shown behind the bar instead of the times, such as the time that all steps still take.

    Yields:
        A function of (done, total).
    """
    bar = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times: tuple[ProgressColumn, ...] = (TimeElapsedColumn(), _TimeLeftColumn()) if note is None else (_NoteColumn(note),)
    with Progress(*bar, *times, console=notes, speed_estimate_period=ESTIMATE_SECONDS) as bars:
        task = bars.add_task(label, total=None)
        resumed = False

        def step(done: int, total: int) -> None:
            nonlocal resumed
            if not resumed and done > 1:  # steps of an earlier call say nothing about the pace of this one
                bars.update(task, completed=done - 1, total=total)
                bars.reset(task, start=True, completed=done - 1, total=total)
            resumed = True
            bars.update(task, completed=done, total=total)

        yield step
        if bars.tasks[0].total is None:  # no step was reported
            bars.update(task, visible=False)


class _NoteColumn(ProgressColumn):
    """A text behind a bar, which is asked for at every refresh."""

    def __init__(self, note: Callable[[], str]) -> None:
        super().__init__()
        self._note = note

    def render(self, task: Task) -> Text:
        return Text("" if task.finished else self._note())


class _TimeLeftColumn(TimeRemainingColumn):
    """An estimate of the remaining time; nothing once a step is over."""

    def render(self, task: Task) -> Text:
        """Return the estimate, such as "0:01:20 left"."""
        if task.finished or task.time_remaining is None:
            return Text("")
        return Text.assemble(super().render(task), " left", style="progress.remaining")


class Stages(ExitStack):
    """Progress bars one after another: the bar of a new phase ends the bar before."""

    def __call__(self, label: str) -> Step:
        """Show the bar of a phase and return a function of (done, total)."""
        self.close()
        return self.enter_context(progress(label))


def show_answer(query: str, answer: SearchAnswer) -> None:
    """Print the ranked items of one answer as a table, with mode and timings below."""
    wide = console.width >= WIDE
    table = Table(title=Text(f"“{query}”"), title_justify="left", box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("#", "title", "item id", "similarity" if wide else "sim", "category", "price", "bids", "seller"):
        is_text = name in ("title", "item id", "category")
        table.add_column(
            name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold", min_width=8 if is_text else None
        )
    if wide:
        table.add_column("ends", no_wrap=True)
    for result in answer.results:
        fields = result.fields
        row: list[str | Text] = [
            str(result.rank),
            Text(clean_text(fields.get("title", ""))),
            Text(result.item_id),
            "" if result.similarity is None else f"{result.similarity:.3f}",
            Text(fields.get("category", "")),
            _number(fields.get("current_price"), ",.2f"),
            str(fields.get("bid_count", 0)),
            _number(fields.get("seller_rating"), ".1f"),
        ]
        table.add_row(*row, *([_ends(fields.get("ends_at"))] if wide else []))
    remedy = "loosen the filters" if answer.mode == "hybrid" else "loosen the filters or try --mode hybrid"
    console.print(table if answer.results else Text(f"“{query}”: no lot fits; {remedy}"))
    if answer.did_you_mean:
        console.print(Text(f"Did you mean “{answer.did_you_mean}”?"))
    timings = ", ".join(f"{step} {ms:.1f}" for step, ms in answer.timings_ms.items() if step != "total")
    order = "re-ranked" if answer.reranked else "first-stage order"
    failed = f", without {', '.join(answer.failed_components)}" if answer.failed_components else ""
    console.print(
        f"{answer.mode}, {order}{failed}; {answer.timings_ms['total']:.1f} ms ({timings}); tower {answer.tower_id}\n", style="dim"
    )


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], right_from: int = 1) -> None:
    """Print a plain table, whose numbers and words stay whole: what does not fit beside the first columns follows beneath.

    Args:
        title: title of the table, printed above it; "" for none.
        header: names of the columns.
        rows: rows of cells.
        right_from: number of the first right-aligned column, from 0; all later columns are right-aligned, too.
    """
    cells = [[Text.from_markup(cell) for cell in row] for row in rows]
    columns = [[row[column] for row in cells] for column in range(len(header))]
    widest = [max([cell_len(name), *(cell.cell_len for cell in column)]) for name, column in zip(header, columns, strict=True)]
    narrowest = [
        min(
            CELL_WIDTH,
            widest[number]
            if number < right_from
            else max([*map(cell_len, name.split()), *(cell.cell_len for cell in column)], default=0),
        )
        for number, (name, column) in enumerate(zip(header, columns, strict=True))
    ]
    for number, part in enumerate(_parts(narrowest, right_from, console.width)):
        table = Table(
            title=title if title and not number else None,
            title_justify="left",
            box=SIMPLE_HEAD,
            show_header=any(header),
            header_style="bold",
        )
        spare = console.width - 1 - sum(narrowest[column] + CELL_PADDING for column in part)
        for column in part:
            width = narrowest[column] + max(0, min(spare, widest[column] - narrowest[column]))
            spare -= width - narrowest[column]
            table.add_column(header[column], justify="right" if column >= right_from else "left", overflow="fold", width=width)
        for row in cells:
            table.add_row(*(row[column] for column in part))
        console.print(table)


def _parts(widths: Sequence[int], right_from: int, width: int) -> list[list[int]]:
    """Return the columns of each table that fits into the width; every table begins with the left-aligned columns."""
    names, numbers = [*range(min(right_from, len(widths)))], [*range(right_from, len(widths))]
    parts: list[list[int]] = [[*names]]
    for column in numbers:
        if len(parts[-1]) > len(names) and sum(widths[i] + CELL_PADDING for i in [*parts[-1], column]) >= width:
            parts.append([*names])
        parts[-1].append(column)
    return parts


def show_values(values: Mapping[str, object]) -> None:
    """Print named values, one per line. Long values are not wrapped, so that they can be copied."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        console.print(f"  {name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def show_metrics(title: str, quality: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table with one row per system and one column per metric, the best value of each column in bold."""
    metrics = list(next(iter(quality.values())))
    best = {name: max(values[name] for values in quality.values()) for name in metrics}
    rows = []
    for system, values in quality.items():
        cells = [f"[bold]{values[m]:.3f}[/]" if values[m] == best[m] else f"{values[m]:.3f}" for m in metrics]
        rows.append([system, *cells])
    show_table(title, ["system", *metrics], rows)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _ends(moment_ms: int | None) -> str:
    if moment_ms is None:
        return "–"
    left = moment_of(moment_ms) - datetime.now(UTC)
    hours = left.total_seconds() / 3600
    return f"in {hours:.0f} h" if hours < 48 else f"in {hours / 24:.0f} d"
