"""A domain with fine-grained access control, set up by the function and the bodies that the templates hold."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from moto.iam.models import iam_backends

from gavel.rehearsal.domain import Domain, https_domain
from gavel.rehearsal.principals import Principals
from lambdas.index_setup.handler import apply
from retrieval.config.settings import Settings
from retrieval.index.opensearch.store import OpenSearchStore, open_store

ACCOUNT, REGION = "123456789012", "eu-west-1"
ARN = f"arn:aws:es:{REGION}:{ACCOUNT}:domain/gavel"
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})
ALIAS = "auction-items"
ADMIN = "domain-admin"


@dataclass
class SecuredDomain:
    """The domain, its master user, and the environment of processes that call it.

    Attributes:
        domain: the domain.
        admin: ARN of the master user's role.
    """

    domain: Domain
    admin: str

    def role(self, *actions: str) -> str:
        """Make an IAM role that may send requests to the domain, and return its ARN."""
        return self.make_role(f"role-{uuid4().hex[:8]}", *actions)

    def make_role(self, name: str, *actions: str) -> str:
        """Make an IAM role of this name."""
        backend = iam_backends[ACCOUNT]["aws"]
        made = backend.create_role(name, TRUST, "/", None, "", {}, "3600")
        allowed = {"Effect": "Allow", "Action": list(actions) or "es:ESHttp*", "Resource": f"{ARN}/*"}
        backend.put_role_policy(name, "policy", json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
        return str(made.arn)

    @contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Let this process sign with a role's key for the length of the block."""
        environment = {
            "GAVEL_OPENSEARCH_URL": f"https://{self.domain.endpoint}",
            "SSL_CERT_FILE": str(self.domain.certificate),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            **self.domain.principals.credentials(role),
        }
        with patch.dict("os.environ", environment):
            yield

    def set_up(self, kind: str, resource: str, properties: Mapping[str, Any]) -> str:
        """Create or delete a custom resource as the master user, with the function of the deployment."""
        return apply({"RequestType": kind, "ResourceType": resource, "ResourceProperties": dict(properties)})

    def store(self, role: str, alias: str = ALIAS) -> OpenSearchStore:
        """A store whose requests are signed by a role."""
        with self.acting_as(role):
            settings = Settings(opensearch_url=f"https://{self.domain.endpoint}", opensearch_auth="sigv4", index_alias=alias)
            return open_store(settings)


@contextmanager
def secured_domain(node_url: str, folder: Path) -> Iterator[SecuredDomain]:
    """A domain in front of a node with the security plugin, for the length of the block. Its roles have names of their own."""
    with https_domain(node_url, folder, Principals(ACCOUNT)) as domain:
        secured = SecuredDomain(domain, f"arn:aws:iam::{ACCOUNT}:role/{ADMIN}")
        backend = iam_backends[ACCOUNT]["aws"]
        if ADMIN not in [role.name for role in backend.get_roles()]:
            secured.make_role(ADMIN, "es:ESHttp*")
        domain.create(ARN, {"AdvancedSecurityOptions": {"MasterUserOptions": {"MasterUserARN": secured.admin}}})
        domain.passing.clear()  # a test says when the domain is young
        yield secured
