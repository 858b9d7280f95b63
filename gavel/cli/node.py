"""`gavel up` and `gavel down`: start and stop an OpenSearch on this machine."""

from typing import Annotated
from urllib.parse import urlsplit

import typer

from gavel.workspace.console import console
from gavel.workspace.entry import as_called, say
from gavel.workspace.folders import Workspace
from gavel.workspace.options import Json, print_json, report
from retrieval.config.settings import Settings

NAMES = {"node": "the node on this machine's Java", "container": "the container", "cluster": "the cluster"}


def up(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9200,
    nodes: Annotated[
        int, typer.Option(min=1, max=9, help="Number of nodes; two or more form a cluster, for shards and replicas.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Provide an OpenSearch: the one at OPENSEARCH_URL, a container, or a node from Maven Central."""
    from gavel.opensearch.service import up

    running = up(Workspace(Settings.from_env()).opensearch, port, nodes=nodes)
    if running.kind != "given" and urlsplit(running.url.split(",")[0]).port != port:
        again = f" --nodes {nodes}" if nodes > 1 else ""
        say(
            f"the {running.kind} that runs already answers at {running.url} and stays there; for port {port} run "
            f"`gavel down`, then `gavel up{again} --port {port}`",
            style="yellow",
        )
    report({"opensearch_url": running.url, "kind": running.kind}, as_json)
    if not as_json:
        command = f"GAVEL_INDEX=opensearch GAVEL_OPENSEARCH_URL={running.url} {as_called()} index"
        console.print(command, style="dim", highlight=False, soft_wrap=True)


def down(as_json: Json = False) -> None:
    """Stop the OpenSearch that `gavel up` started; its data stays."""
    from gavel.opensearch.service import down

    stopped = down(Workspace(Settings.from_env()).opensearch)
    if as_json:
        print_json({"stopped": stopped})
    elif stopped:
        console.print(f"stopped {' and '.join(NAMES[kind] for kind in stopped)}; the data stays", highlight=False)
    else:
        console.print("nothing ran here")
