"""The re-ranker of a rehearsal: a small booster, published as a user does, and the container's script behind the endpoint."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.middleware.base import RequestResponseEndpoint

from gavel.aws.account import DeployedStage
from gavel.rehearsal.cloud import Cloud
from gavel.rehearsal.policies import Call
from gavel.web.http_server import served_in_thread
from gavel.web.ranker_server import create_ranker_app

QUERIES, CANDIDATES, ROUNDS = 30, 20, 20


def make_booster(path: Path, tower_id: str) -> Path:
    """Train a booster on random features, by which the more similar items are better, and return its path."""
    from retrieval.ranker.features import FEATURES
    from retrieval.ranker.parameters import BoosterParameters
    from retrieval.ranker.xgboost_ranker import RankingData, fit_booster

    def random_queries(seed: int) -> RankingData:
        rng = np.random.default_rng(seed)
        features = [rng.random((CANDIDATES, len(FEATURES)), dtype=np.float32) for _ in range(QUERIES)]
        words = FEATURES.index("title_overlap")
        return RankingData(features, [np.floor(4 * rows[:, words]).astype(np.float32) for rows in features])

    booster = fit_booster(random_queries(0), random_queries(1), parameters=BoosterParameters(rounds=ROUNDS))
    booster.save(path, tower_id)
    return path


@contextmanager
def serving_endpoint(cloud: Cloud, stage: DeployedStage, model_key: str, work: Path) -> Iterator[None]:
    """Answer InvokeEndpoint for the length of the block, with the script and booster of the archive in the stage's bucket.

    moto's endpoint gives fixed answers. So the functions are directed to a server of this process for SageMaker's runtime alone.
    """
    archive = work / "model.tar.gz"
    cloud.client("s3").download_file(stage.output("TowersBucket"), model_key, str(archive))
    with tarfile.open(archive) as packed:
        packed.extractall(work / "model", filter="data")
    app = create_ranker_app(work / "model")

    @app.middleware("http")
    async def authorise(request: Request, answer: RequestResponseEndpoint) -> Response:
        """Refuse a caller whose role does not allow InvokeEndpoint."""
        caller = cloud.principals.caller(request.headers.get("Authorization", ""))
        name = request.url.path.split("/")[2]  # /endpoints/<name>/invocations
        call = Call("sagemaker:InvokeEndpoint", cloud.deployed.arn("sagemaker", f"endpoint/{name}"))
        if cloud.principals.allows(caller, [call]):
            return await answer(request)
        refusal = {"Message": f"User: {caller} is not authorized to perform: {call.action} on resource: {call.resource}"}
        return JSONResponse(refusal, 403, {"x-amzn-ErrorType": "AccessDeniedException"})

    with served_in_thread(app) as url:
        cloud.function_environment["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = url
        yield
