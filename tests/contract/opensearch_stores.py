"""OpenSearch stores for tests, each with indices of its own on a node that they share."""

import uuid
from collections.abc import Iterator

from retrieval.index.port import IndexStore


def opensearch_store(url: str) -> Iterator[IndexStore]:
    """A store behind an alias of its own on a real node; its indices are deleted in the end."""
    from opensearchpy import OpenSearch

    from retrieval.index.opensearch.store import OpenSearchStore

    alias = f"lots-{uuid.uuid4().hex[:8]}"
    yield OpenSearchStore(url, alias=alias)
    client = OpenSearch(url)
    client.indices.delete(index=f"{alias}-*")
    client.close()
