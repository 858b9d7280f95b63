"""The principals of an emulated account: every deployed role has an access key, and is held to its own policies."""

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from moto.iam.models import iam_backends

from gavel.rehearsal.policies import Call, Document, Grant, all_grants, decide, without_action
from retrieval.errors import GavelError

PARTITION = "aws"
STACKS = "Gavel-"  # first word of the stacks' names, and so of their roles'; the CDK's own roles are another matter
ADMIN = "administrator"  # may do everything
ANYBODY = "unsigned"  # principal of a request without a signature
_KEY = re.compile(r"Credential=([^/,\s]+)")


class AccessRefused(GavelError):
    """A deployed principal asked for something that its role does not allow."""


@dataclass(frozen=True)
class Denial:
    """A refused call.

    Attributes:
        role: name of the role.
        action: action, such as "s3:GetObject", or a permission of the security plugin, such as "indices:admin/delete".
        resource: ARN, or path of the request to OpenSearch.
        by: the judge: "IAM" or "OpenSearch".
    """

    role: str
    action: str
    resource: str
    by: str = "IAM"

    def __str__(self) -> str:
        return f"{self.by} refuses {self.role} {self.action} on {self.resource}"


@dataclass(frozen=True, order=True)
class RoleGrant:
    """A grant of a role."""

    role: str
    grant: Grant


@dataclass
class Principals:
    """Access keys of roles, and what the roles did.

    Attributes:
        account: number of the account.
        removed: (role, action) that is taken out of the role's policies; the role may be any part of its name.
        has_removed: True if a policy had the action of `removed`.
        denials: refused calls.
        calls: role -> calls that were allowed.
        used: grants that allowed a call.
    """

    account: str
    removed: tuple[str, str] | None = None
    has_removed: bool = False
    denials: list[Denial] = field(default_factory=list)
    calls: dict[str, set[Call]] = field(default_factory=dict)
    used: set[RoleGrant] = field(default_factory=set)
    _roles: dict[str, str] = field(default_factory=dict)  # access key -> ARN of the role
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def credentials(self, role_arn: str) -> dict[str, str]:
        """Return the environment variables of a process that runs with a role, with a key that is always the same for the role."""
        key = "ASIA" + hashlib.sha256(role_arn.encode()).hexdigest()[:16].upper()
        self._roles[key] = role_arn
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": hashlib.sha256(key.encode()).hexdigest()}

    def caller(self, authorization: str, credential: str = "") -> str:
        """Return who signed a request: the ARN of a deployed role, ADMIN for any other key, or ANYBODY without a signature.

        Other keys are those of the one who deploys and operates, and of the CDK's own roles, which it assumes.

        Args:
            authorization: header of the request, "" if it has none.
            credential: value of X-Amz-Credential in a presigned URL, "" if it has none.
        """
        match = _KEY.search(authorization)
        key = match[1] if match else credential.split("/")[0]
        return self._roles.get(key, ADMIN) if key else ANYBODY

    def allows(self, caller: str, calls: Iterable[Call]) -> bool:
        """Return True if the caller may do all calls. The first that is refused is recorded as a denial."""
        return caller == ADMIN or all(self._allows(caller, call) for call in calls)

    def refuse(self, denial: Denial) -> None:
        """Record a denial."""
        with self._lock:
            if denial not in self.denials:
                self.denials.append(denial)

    def check(self) -> None:
        """Check that nothing was refused so far.

        Raises:
            AccessRefused: something was; the message names role, action and resource of everything that was.
        """
        if self.denials:
            raise AccessRefused("; ".join(map(str, self.denials)))

    def grants(self) -> set[RoleGrant]:
        """Return all grants of the stacks' roles."""
        return {
            RoleGrant(role.name, grant)
            for role in iam_backends[self.account][PARTITION].get_roles()
            if role.name.startswith(STACKS)
            for grant in all_grants(self.documents(role.name))
        }

    def needed_actions(self) -> dict[tuple[str, str], bool]:
        """Return (role, action) -> True if the role needs the action: without it, one of its calls so far would be refused."""
        pairs = {(grant.role, grant.grant.action) for grant in self.grants()}
        return {(role, action): self._needs(role, action) for role, action in sorted(pairs)}

    def documents(self, role_name: str) -> list[Document]:
        """Return the inline and the attached policies of a role that were deployed; policies that AWS manages are left out."""
        role = iam_backends[self.account][PARTITION].get_role(role_name)
        written: list[Any] = list(role.policies.values())
        for policy in role.managed_policies.values():
            if f":{self.account}:" in policy.arn:
                written += [version.document for version in policy.versions if version.is_default]
        documents: Sequence[Document] = [json.loads(text) if isinstance(text, str) else text for text in written]
        if not self.removed or self.removed[0] not in role_name:
            return list(documents)
        self.has_removed |= self.removed[1] in {grant.action for grant in all_grants(documents)}
        return without_action(documents, self.removed[1])

    def _allows(self, caller: str, call: Call) -> bool:
        role = caller.rsplit("/", 1)[-1]
        if caller == ANYBODY:
            self.refuse(Denial(ANYBODY, call.action, call.resource))
            return False
        decision = decide(self.documents(role), call)
        if not decision.allowed:
            self.refuse(Denial(role, call.action, call.resource))
            return False
        with self._lock:
            self.calls.setdefault(role, set()).add(call)
            self.used |= {RoleGrant(role, grant) for grant in decision.grants}
        return True

    def _needs(self, role: str, action: str) -> bool:
        left = without_action(self.documents(role), action)
        return any(not decide(left, call).allowed for call in self.calls.get(role, ()))
