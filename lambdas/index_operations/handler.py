"""List the indices of the domain, point the alias at one, or drop one: the operations behind `gavel aws indices` and its like.

    {"operation": "list"}                                        -> {"indices": [IndexSummary, …]}
    {"operation": "publish", "index": NAME, "force": false}      -> {"index": NAME, "previous": NAME or null, "moved": true}
    {"operation": "drop", "index": NAME}                         -> {"index": NAME, "items": 100}

Callers are told apart by the alias of the function that they may invoke, because IAM sees the function's ARN and not the event: who
may invoke `…:read` alone may list, who may invoke `…:change` may do everything.
"""

import logging
from dataclasses import asdict
from functools import cache
from typing import Any

from retrieval.config.settings import Settings
from retrieval.errors import InvalidInput
from retrieval.index.opensearch.store import OpenSearchStore, open_store
from retrieval.index.port import summary_of
from retrieval.ingestion import publish_index

READ_ONLY = "read"  # alias of the function
logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run one operation.

    Raises:
        InvalidInput: the event is no operation, names no index of the alias, or would drop the live one; or the caller may only
            read.
        ReleaseError: the index has too few open items to replace the live one.
        IndexUnavailable: the domain does not answer.
    """
    return run(event, store(), read_only=context.invoked_function_arn.endswith(f":{READ_ONLY}"))


def run(event: dict[str, Any], store: OpenSearchStore, *, read_only: bool = False) -> dict[str, Any]:
    """Run one operation on a store; see handler()."""
    match event:
        case {"operation": "list"}:
            return {"indices": [asdict(summary) for summary in store.list_indices()]}
        case {"operation": "publish" | "drop" as operation} if read_only:
            raise InvalidInput(f"alias {READ_ONLY!r} of this function only lists; to {operation}, invoke the alias 'change'")
        case {"operation": "publish", "index": str(name)}:
            return _publish(store, name, force=event.get("force") is True)
        case {"operation": "drop", "index": str(name)}:
            return _drop(store, name)
    raise InvalidInput('the event is no operation; send {"operation": "list"}, "publish" or "drop", the latter two with "index"')


def _publish(store: OpenSearchStore, name: str, *, force: bool) -> dict[str, Any]:
    """Point the alias at an index, unless it has far fewer open items than the live one."""
    summaries = store.list_indices()
    index = summary_of(name, summaries)
    live = next((summary.name for summary in summaries if summary.is_live), None)
    if index.tower_id is None:
        raise InvalidInput(f"{name} was not made by Gavel and cannot be searched; `gavel aws indices` shows those that can be")
    if live != name:
        publish_index(store.open_index(name), store, force=force)
        logger.info("%s is live, before: %s", name, live)
    return {"index": name, "previous": live, "moved": live != name}


def _drop(store: OpenSearchStore, name: str) -> dict[str, Any]:
    """Delete an index that is not live. The name must be that of one index: OpenSearch takes patterns, too."""
    index = summary_of(name, store.list_indices())
    store.drop(name)
    logger.info("%s is dropped, it had %s items", name, index.items)
    return {"index": name, "items": index.items}


@cache
def store() -> OpenSearchStore:
    """Open the store that the environment configures, once per process."""
    return open_store(Settings.from_env())
