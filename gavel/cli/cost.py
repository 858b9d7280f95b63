"""`gavel cost`: the costs of a stage, computed from its templates."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gavel.workspace.console import console, show_table
from gavel.workspace.entry import EXIT_ERROR, say
from gavel.workspace.options import Json, print_json
from retrieval.errors import InvalidInput

if TYPE_CHECKING:
    from gavel.cost.bill import Bill

CENT = 0.005
LABELS = {
    "idle": "idle: before anybody comes",
    "night": "nightly runs",
    "kept": "lots uploaded and stored",
    "queries": "queries",
}


def cost(
    stage: Annotated[str, typer.Option(help="A stage of cdk.json.")] = "dev",
    items_per_night: Annotated[float, typer.Option(min=0, help="New lots per night, each with a photo.")] = 0,
    queries_per_month: Annotated[float, typer.Option(min=0, help="Queries per month.")] = 0,
    items_per_second: Annotated[
        float | None,
        typer.Option(min=0.1, help="Lots that one instance embeds per second; the price table's assumption by default."),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(help="Folder of templates, such as cdk.out/prod; synthesised anew by default, or from the wheel."),
    ] = None,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Include the re-rank endpoint even if no re-ranker is published yet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the costs of a stage per month and per night: every resource of its templates times the price table."""
    from gavel.cost.bill import make_bill
    from gavel.cost.charges import Usage
    from gavel.cost.price_table import load_prices
    from gavel.cost.stage_templates import packaged_templates, read_templates, synthesise

    templates = templates or packaged_templates(stage)
    with tempfile.TemporaryDirectory(prefix="gavel-cost-") as folder:
        if templates is None:
            synthesise(stage, Path(folder), reranker)
        elif reranker:
            raise InvalidInput("--reranker is for templates that are synthesised anew: in a checkout of Gavel, without --templates")
        resources = read_templates(templates or Path(folder))
    bill = make_bill(resources, load_prices(), Usage(items_per_night, queries_per_month, items_per_second))
    print_json({"stage": stage, **bill.to_dict()}) if as_json else show_bill(stage, bill)
    for resource, why in bill.unpriced:
        say(f"{resource.stack} {resource.logical_id}: {why}")
    if bill.unpriced:
        raise typer.Exit(EXIT_ERROR)


def show_bill(stage: str, bill: "Bill") -> None:
    """Print the lines that cost half a cent or more per month, the sum of the others, and the totals."""
    lines = sorted(bill.lines, key=lambda line: -line.charge.usd)
    shown = [line for line in lines if line.charge.usd >= CENT]
    rows = [
        (
            line.resource.logical_id,
            line.charge.what,
            line.charge.when,
            f"{line.charge.quantity:,.4g} {line.charge.price.unit}",
            f"{line.charge.price.usd:.10f}".rstrip("0").rstrip("."),
            f"{line.charge.usd:,.2f}",
        )
        for line in shown
    ]
    coming = f"{bill.usage.items_per_night:,.0f} lots a night, {bill.usage.queries_per_month:,.0f} queries a month"
    title = f"{stage}, {bill.region}: {coming}"
    show_table(title, ("resource", "what", "cause", "quantity", "$ a unit", "$ a month"), rows, right_from=3)
    rest = sum(line.charge.usd for line in lines[len(shown) :])
    console.print(
        f"{len(lines) - len(shown)} lines below a cent come to ${rest:.2f}; {bill.free} resources are of types that cost nothing",
        style="dim",
        highlight=False,
    )
    totals = bill.to_dict()["usd_month"]
    sums = [*((LABELS[cause], f"{totals[cause]:,.2f}") for cause in LABELS), ("together", f"{totals['total']:,.2f}")]
    show_table("", ("", "$ a month"), sums)
    if bill.usage.items_per_night:
        ladder = ", ".join(f"{kind} ${usd:.2f}" for kind, usd in bill.rungs.items())
        summary = f"a night: ${bill.night_usd:.2f}; its job by instance type, on demand: {ladder}"
        console.print(summary, highlight=False, soft_wrap=True)
