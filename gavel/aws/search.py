"""Search a stage through its API, with the address and the key of the stage's outputs."""

import json
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from gavel.aws.account import DeployedStage, aws_errors, client, session
from retrieval.errors import GavelError, InvalidInput, MissingPrerequisite

TIMEOUT_S = 30  # API Gateway's own limit is 29
REFUSED = {
    403: "the API refuses the key or the signature; a new key takes a minute to be known",
    429: "more requests than the key's rate or daily quota allow; wait, or raise requests_per_second of the stage",
}


def search_stage(stage: DeployedStage, query: str, k: int) -> dict[str, Any]:
    """Send GET /search to a stage.

    Args:
        stage: deployed stage.
        query: words of the query.
        k: number of lots.

    Returns:
        The answer, see docs/http-api.

    Raises:
        InvalidInput: the API refuses the query.
        GavelError: the API cannot be reached, refuses the caller, or has no index yet.
    """
    url = f"{stage.output('ApiUrl')}search?{urlencode({'q': query, 'k': k})}"
    try:
        with urlopen(Request(url, headers=_proof(stage, url)), timeout=TIMEOUT_S) as response:
            return dict(json.load(response))
    except HTTPError as error:
        raise _problem(url, error.code, error.read()) from error
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise GavelError(f"{url} does not answer as a search API: {reason}; deploy stage {stage.name} again if it moved") from error


def _proof(stage: DeployedStage, url: str) -> dict[str, str]:
    """Return the headers that let the caller in: the stage's API key, or a signature if callers sign."""
    if "ApiKeyId" in stage.outputs:
        key_id = stage.output("ApiKeyId")
        with aws_errors(f"API key {key_id}"):
            return {"x-api-key": client("apigateway").get_api_key(apiKey=key_id, includeValue=True)["value"]}
    account = session()
    credentials = account.get_credentials()
    if credentials is None:
        raise MissingPrerequisite("no AWS credentials to sign the search with; run `aws configure` or set AWS_PROFILE")
    request = AWSRequest("GET", url)
    SigV4Auth(credentials, "execute-api", account.region_name).add_auth(request)
    return dict(request.headers)


def _problem(url: str, status: int, body: bytes) -> GavelError:
    """Return the error of an answer that is no result: the problem that it describes, or what its status means."""
    problem: Any = {}
    with suppress(ValueError):
        problem = json.loads(body)
    if not isinstance(problem, dict):  # of something before the API
        problem = {}
    text = problem.get("detail") or problem.get("title") or problem.get("message") or "no reason given"
    if problem.get("type") == "index_unavailable":
        text += "; before the first release that is so: `gavel aws status` shows the nights"
    text = f"{url} answers {status}: {text}"
    if status in REFUSED:
        text += f"; {REFUSED[status]}"
    return InvalidInput(text) if status == 400 else GavelError(text)
