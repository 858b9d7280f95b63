"""Evaluate IAM policies as AWS does: a call is allowed by one statement and denied by none.

Covered is what the templates of the stages contain. Anything else in a policy is an error, so that no rehearsal passes by a
statement that was not understood.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from retrieval.errors import GavelError

Document = Mapping[str, Any]
READ = {"Effect", "Action", "Resource", "Condition", "Sid"}  # keys of a statement


class UnknownPolicy(GavelError):
    """A policy holds something that this module does not evaluate."""


@dataclass(frozen=True)
class Call:
    """One call, as far as policies judge it.

    Attributes:
        action: service and action, such as "s3:GetObject".
        resource: ARN of the resource, or "*" for an action without one.
        context: condition key -> value, such as "iam:PassedToService".
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, order=True)
class Grant:
    """One action on one resource pattern, as a policy grants it."""

    action: str
    resource: str


@dataclass(frozen=True)
class Decision:
    """The outcome of a call.

    Attributes:
        grants: grants that allow the call.
        denied: True if a statement denies it, whatever allows it.
    """

    grants: frozenset[Grant]
    denied: bool = False

    @property
    def allowed(self) -> bool:
        """True if the call may go on."""
        return bool(self.grants) and not self.denied


def decide(documents: Iterable[Document], call: Call) -> Decision:
    """Decide a call by the policy documents of the caller's role.

    Raises:
        UnknownPolicy: a document holds something that is not evaluated here.
    """
    grants: set[Grant] = set()
    for statement in _statements(documents):
        matching = {grant for grant in _grants(statement) if _covers(grant, call)}
        if matching and _holds(statement.get("Condition", {}), call.context):
            if statement["Effect"] == "Deny":
                return Decision(frozenset(), denied=True)
            grants |= matching
    return Decision(frozenset(grants))


def all_grants(documents: Iterable[Document]) -> set[Grant]:
    """Return every grant of documents, one for each pair of action and resource in a statement."""
    return {grant for statement in _statements(documents) if statement["Effect"] == "Allow" for grant in _grants(statement)}


def without_action(documents: Iterable[Document], action: str) -> list[Document]:
    """Return documents that no longer allow an action, which is spelt as in the statements."""
    return [
        {"Statement": [{**statement, "Action": [name for name in _listed(statement["Action"]) if name != action]}]}
        for statement in _statements(documents)
    ]


def _statements(documents: Iterable[Document]) -> Iterator[Mapping[str, Any]]:
    for document in documents:
        statements = document["Statement"]
        for statement in statements if isinstance(statements, list) else [statements]:
            unknown = set(statement) - READ
            if unknown:
                raise UnknownPolicy(f"a statement has {sorted(unknown)}, which a rehearsal does not evaluate: {statement}")
            yield statement


def _grants(statement: Mapping[str, Any]) -> Iterator[Grant]:
    for action in _listed(statement["Action"]):
        for resource in _listed(statement["Resource"]):
            yield Grant(action, resource)


def _covers(grant: Grant, call: Call) -> bool:
    return _matches(grant.action.lower(), call.action.lower()) and _matches(grant.resource, call.resource)


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    """True if every condition of a statement holds. A key that the call lacks fulfils none of these operators."""
    for operator, keys in conditions.items():
        for key, expected in keys.items():
            given = context.get(key)
            if operator in ("StringEquals", "ArnEquals", "Bool"):
                held = given in _listed(expected)
            elif operator in ("StringLike", "ArnLike"):
                held = given is not None and any(_matches(pattern, given) for pattern in _listed(expected))
            else:
                raise UnknownPolicy(f"the condition {operator} is not evaluated in a rehearsal")
            if not held:
                return False
    return True


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _matches(pattern: str, text: str) -> bool:
    return _pattern(pattern).fullmatch(text) is not None


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which `*` stands for any characters and `?` for one."""
    if "${" in pattern:
        raise UnknownPolicy(f"policy variables are not evaluated in a rehearsal: {pattern}")
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
