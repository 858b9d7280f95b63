"""Methods that the API does not describe are refused, with the described ones in `Allow`."""

import pytest
from fastapi.testclient import TestClient

from lambdas.query_api.app import create_app


@pytest.mark.parametrize("path", ["/search", "/retrieve"])
def test_a_method_that_is_not_described_is_refused_with_the_methods_that_are(path):
    app = create_app(lambda: pytest.fail("no search is needed to refuse a method"))
    described = {method.upper() for method in app.openapi()["paths"][path]}
    answer = TestClient(app, base_url="http://127.0.0.1").options(path)
    assert answer.status_code == 405
    assert {method.strip() for method in answer.headers["allow"].split(",")} == described
