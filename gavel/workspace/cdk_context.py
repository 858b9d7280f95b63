"""The checkout's cdk.context.json, which the CDK's command line reads beside cdk.json: the published re-ranker of each stage."""

import json
from pathlib import Path

from gavel.workspace.checkout import require_checkout
from retrieval.errors import InvalidInput
from retrieval.files import replace_file

CONTEXT_FILE = "cdk.context.json"  # in the checkout
CONTEXT_KEY = "gavel:reranker:{}"  # RERANKER_CONTEXT of infra/stage.py, which gavel does not import; a test keeps them equal


def name_reranker(stage: str, model_key: str, path: Path) -> bool:
    """Write the key of a stage's re-ranker into cdk.context.json, so that the next `cdk deploy` serves it.

    Args:
        stage: name of the stage.
        model_key: key of the archive in the towers bucket.
        path: path of the context file; its other values stay.

    Returns:
        True if the file was changed; False if it named this key before.

    Raises:
        InvalidInput: the file holds no JSON object.
    """
    values = read_context(path)
    if values.get(CONTEXT_KEY.format(stage)) == model_key:
        return False
    replace_file(path, json.dumps({**values, CONTEXT_KEY.format(stage): model_key}, indent=2) + "\n")
    return True


def context_path() -> Path:
    """Return the path of the checkout's cdk.context.json.

    Raises:
        MissingPrerequisite: there is no checkout here.
    """
    return require_checkout() / CONTEXT_FILE


def read_context(path: Path) -> dict[str, object]:
    """Read cdk.context.json; a missing file is empty.

    Raises:
        InvalidInput: the file holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise InvalidInput(f"{path} is no JSON ({error}); mend it, or delete it: the CDK writes it again") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} holds no JSON object; mend it, or delete it: the CDK writes it again")
    return values
