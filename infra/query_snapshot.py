"""The function that renews the query function's snapshot once the live index has another tower."""

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.function_role import FunctionRole, function_arn
from infra.log_group import log_group
from infra.permissions import allow_below
from infra.python_asset import source_code
from infra.query_api import QueryApi
from infra.snapshot_states import SNAPSHOT_S
from infra.stage import Stage

FUNCTION_ACTIONS = ["lambda:UpdateFunctionConfiguration", "lambda:ListVersionsByFunction", "lambda:PublishVersion"]
ALIAS_ACTIONS = ["lambda:GetFunctionConfiguration", "lambda:GetAlias", "lambda:UpdateAlias"]  # of the function, or of its qualifier
VERSION_ACTIONS = ["lambda:DeleteFunction"]
VERSIONS = "Versions and the alias of the query function alone. Deletion is allowed for these, and not for the function."


def snapshot_arn(scope: Construct, stage: Stage) -> str:
    """Build the function's ARN from its name: the machines that call it are in another stack."""
    return function_arn(scope, _name(stage))


def _name(stage: Stage) -> str:
    return f"gavel-{stage.name}-query-snapshot"


class QuerySnapshot(Construct):
    """The function of lambdas/query_snapshot. It is outside the network, which does not reach the API of Lambda.

    It moves the alias `live` to versions that it publishes. A deployment moves the alias only with a new version of its own, which
    is newer: the template's alias has nothing else that could change (a test holds it to that).

    Attributes:
        function: the Lambda function.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage, api: QueryApi) -> None:
        super().__init__(scope, id)
        role = FunctionRole(self, "Role", log_group=log_group(self, "Logs", stage), in_network=False)
        query = api.function
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=_name(stage),
            description="Renews the snapshot of the query function",
            runtime=lambda_.Runtime.PYTHON_3_12,
            architecture=lambda_.Architecture.X86_64,
            handler="handler.handler",
            code=source_code("lambdas/query_snapshot"),
            role=role,
            log_group=role.log_group,
            timeout=Duration.seconds(SNAPSHOT_S),
            tracing=lambda_.Tracing.ACTIVE,
            environment={"GAVEL_QUERY_FUNCTION": query.function_name, "GAVEL_QUERY_ALIAS": api.live.alias_name},
        )
        acknowledge(self.function, {"L1": "Python 3.12 is the runtime that every bundle is built and tested for."})
        role.add_to_policy(iam.PolicyStatement(actions=[*FUNCTION_ACTIONS, *ALIAS_ACTIONS], resources=[query.function_arn]))
        allow_below(role, [*ALIAS_ACTIONS, *VERSION_ACTIONS], query, query.function_arn, ":*", VERSIONS)
