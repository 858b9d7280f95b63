"""Publish a version of the query function, and move the alias `live` to it.

SnapStart takes its snapshot when a version is published. The query function loads the tower of the live index then, so a snapshot
that is older than the live index holds another tower, or none: the first search of each new instance loads the tower and is slow.
State machines call this function after a release moved the alias of the index, and `gavel aws` after it did so itself.

A failure leaves `live` where it was. If a deployment changes the function meanwhile, the version is thrown away and another one is
made of the new code, so that `live` never goes back to older code. The function uses only the boto3 of Lambda's own Python.
"""

import logging
import os
import time
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError, WaiterError

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)
OWN_DESCRIPTION = "Renewed snapshot"  # begins the description of the versions of this function, which it may delete
ATTEMPTS = 3  # at a version that no deployment gets in the way of
WAIT = {"Delay": 5, "MaxAttempts": 120}  # for a snapshot, which takes minutes
DRAIN_S = 25  # until no request runs in the version before; a request takes 20 s at most
INTERFERED = ("PreconditionFailedException", "ResourceConflictException")


class SnapshotFailed(Exception):
    """The alias was not moved."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Renew the snapshot.

    Returns:
        {"version": the version that is live now, "previous": the version that was live before}.

    Raises:
        SnapshotFailed: the alias is where it was; the message says why.
    """
    functions, name = boto3.client("lambda"), os.environ["GAVEL_QUERY_FUNCTION"]
    result = renew(functions, name, os.environ["GAVEL_QUERY_ALIAS"])
    try:
        delete_older_versions(functions, name, live=result["version"])
    except ClientError as error:
        logger.warning("older versions of %s stay: %s", name, error)  # the next call deletes them
    return result


def renew(functions: Any, name: str, alias: str) -> dict[str, Any]:
    """Publish a version of a function and move its alias there; arguments are a client of Lambda and the two names."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _renew_once(functions, name, alias)
        except ClientError as error:
            if error.response["Error"]["Code"] not in INTERFERED:
                raise SnapshotFailed(str(error)) from error
            logger.warning("attempt %d of %d: another change of %s came in between: %s", attempt, ATTEMPTS, name, error)
        except WaiterError as error:
            answer = error.last_response
            reason = answer.get("StateReason") or answer.get("LastUpdateStatusReason") or error
            raise SnapshotFailed(f"{name} has no new version: {reason}") from error
    raise SnapshotFailed(f"{name} was changed by others in each of {ATTEMPTS} attempts; try again after the deployment")


def _renew_once(functions: Any, name: str, alias: str) -> dict[str, Any]:
    """Renew the snapshot if nobody else changes function or alias meanwhile; their revisions say so."""
    before = functions.get_alias(FunctionName=name, Name=alias)
    functions.get_waiter("function_updated").wait(FunctionName=name, WaiterConfig=WAIT)  # a deployment may just change it
    description = f"{OWN_DESCRIPTION}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    functions.update_function_configuration(FunctionName=name, Description=description)  # Lambda publishes only what has changed
    functions.get_waiter("function_updated").wait(FunctionName=name, WaiterConfig=WAIT)
    changed = functions.get_function_configuration(FunctionName=name)
    unless_changed = {key: changed[key] for key in ("RevisionId",) if key in changed}  # emulated functions have no revision
    version = functions.publish_version(FunctionName=name, Description=description, **unless_changed)["Version"]
    try:
        waiter = functions.get_waiter("published_version_active")
        waiter.wait(FunctionName=name, Qualifier=version, WaiterConfig=WAIT)
        functions.update_alias(FunctionName=name, Name=alias, FunctionVersion=version, RevisionId=before["RevisionId"])
    except (ClientError, WaiterError):
        _delete(functions, name, version)
        raise
    logger.info("%s of %s is version %s now, it was %s", alias, name, version, before["FunctionVersion"])
    return {"version": version, "previous": before["FunctionVersion"]}


def delete_older_versions(functions: Any, name: str, live: str) -> None:
    """Delete the versions of earlier calls: each costs the storage of its snapshot. Deployments delete their own versions."""
    pages = functions.get_paginator("list_versions_by_function").paginate(FunctionName=name)
    versions = [version for page in pages for version in page["Versions"] if version["Version"] not in ("$LATEST", live)]
    own_versions = [version["Version"] for version in versions if version.get("Description", "").startswith(OWN_DESCRIPTION)]
    if own_versions:
        time.sleep(DRAIN_S)
    for version in own_versions:
        _delete(functions, name, version)


def _delete(functions: Any, name: str, version: str) -> None:
    """Delete a version; one that cannot be deleted now is deleted by the next call."""
    try:
        functions.delete_function(FunctionName=name, Qualifier=version)
    except ClientError as error:
        logger.warning("version %s of %s stays: %s", version, name, error)
