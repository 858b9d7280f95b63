"""The re-rank endpoint on one machine: the container's functions at `/ping`, `/invocations` and SageMaker's path.

python -m gavel.web.ranker_server FOLDER [PORT]
AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8080 GAVEL_RANKER_ENDPOINT=local gavel serve

FOLDER holds an unpacked model.tar.gz. The second command needs a region and credentials as for AWS; here any values work.
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from processing.reranker_endpoint import inference

PORT = 8080  # the port of SageMaker's containers
MODEL_ERROR = 424  # SageMaker's status if the container fails


def create_ranker_app(model_dir: Path) -> FastAPI:
    """Create the app for one unpacked archive.

    Args:
        model_dir: folder with the unpacked output of pack_model().

    Raises:
        ValueError: the booster does not match its feature names.
    """
    booster = inference.model_fn(str(model_dir))
    app = FastAPI(title="Gavel's re-ranker", openapi_url=None)

    @app.get("/ping")
    def ping() -> Response:
        """Answer 200, because the booster is loaded."""
        return Response()

    @app.post("/invocations")
    async def invoke(request: Request) -> Response:
        """Score rows, as the container does."""
        headers = request.headers
        try:
            rows = inference.input_fn(await request.body(), headers.get("content-type", ""))
            body, kind = inference.output_fn(inference.predict_fn(rows, booster), headers.get("accept", ""))
        except inference.ServerError as error:  # type: ignore[attr-defined]  # imported there, or defined
            return Response(error.message, error.status_code, media_type="text/plain")
        return Response(body, media_type=kind)

    @app.post("/endpoints/{name}/invocations")
    async def invoke_endpoint(name: str, request: Request) -> Response:
        """Score rows as SageMaker's InvokeEndpoint does, which wraps an error of the container in its own error."""
        answer = await invoke(request)
        if answer.status_code < 400:
            return answer
        error = {"OriginalStatusCode": answer.status_code, "OriginalMessage": bytes(answer.body).decode()}
        error["Message"] = f"Received error ({answer.status_code}) from the container"
        return JSONResponse(error, MODEL_ERROR, {"x-amzn-ErrorType": "ModelError"})

    return app


if __name__ == "__main__":
    port = int(sys.argv[2]) if len(sys.argv) > 2 else PORT
    uvicorn.run(create_ranker_app(Path(sys.argv[1])), port=port, access_log=False)
