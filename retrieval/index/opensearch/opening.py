"""The OpenSearch store that the settings of a process ask for: plain, or with requests signed by its AWS role."""

from collections.abc import Callable

from opensearchpy import OpenSearch, Urllib3AWSV4SignerAuth

from retrieval.config.settings import Settings
from retrieval.errors import InvalidSettings
from retrieval.index.hybrid_tuning import Tuning, untuned
from retrieval.index.opensearch.client import connect
from retrieval.index.opensearch.store import OpenSearchStore

SIGNING_NAME = "es"  # what Amazon OpenSearch Service is called in a signature


def open_store(settings: Settings, tuning: Callable[[str], Tuning] = untuned) -> OpenSearchStore:
    """The store at settings.opensearch_url, searched as was tuned for a tower_id.

    Raises:
        InvalidInput: the URL cannot be read.
        InvalidSettings: requests are to be signed, and this process has no AWS credentials or region.
    """
    server = _signing_client(settings) if settings.opensearch_auth == "sigv4" else settings.opensearch_url
    return OpenSearchStore(
        server,
        alias=settings.index_alias,
        timeout_s=settings.request_timeout_s,
        shards=settings.index_shards,
        replicas=settings.index_replicas,
        language=settings.language,
        tuning=tuning,
    )


def _signing_client(settings: Settings) -> OpenSearch:
    import boto3

    session = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None or session.region_name is None:
        raise InvalidSettings(
            "GAVEL_OPENSEARCH_AUTH is 'sigv4', and there are no AWS credentials or no region; "
            "set AWS_PROFILE and AWS_DEFAULT_REGION, or GAVEL_OPENSEARCH_AUTH=none"
        )
    auth = Urllib3AWSV4SignerAuth(credentials, session.region_name, SIGNING_NAME)
    return connect(settings.opensearch_url, settings.request_timeout_s, http_auth=auth)
