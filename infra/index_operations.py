"""The function by which operators list, publish and drop indices: the network of the domain has no way in."""

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.function_role import FunctionRole
from infra.log_group import log_group
from infra.network import Network
from infra.python_asset import bundled_code
from infra.stage import Stage
from infra.vector_index import OPERATOR, VectorIndex
from retrieval.config.settings import Settings

MEMORY_MIB = 512
TIMEOUT = Duration.minutes(2)


class IndexOperations(Construct):
    """The function of lambdas/index_operations, with an alias for each degree of permission.

    IAM judges a call by the ARN that is called, not by its event. So `lambda:InvokeFunction` on `…:read` allows to list, and on
    `…:change` to publish and drop as well. Finer degrees would be one alias each and no safer: who may move the alias of the index
    can already stop the search.

    Attributes:
        function: the Lambda function; its `$LATEST` allows what `change` allows.
        read: alias that lists.
        change: alias that lists, publishes and drops.
    """

    def __init__(
        self, scope: Construct, id: str, *, stage: Stage, network: Network, index: VectorIndex, settings: Settings
    ) -> None:
        super().__init__(scope, id)
        role = FunctionRole(self, "Role", log_group=log_group(self, "Logs", stage))
        self.function = network.function(
            self,
            "Function",
            description="Lists, publishes and drops indices",
            handler="lambdas.index_operations.handler.handler",
            code=bundled_code(self, "index_operations"),
            role=role,
            memory_size=MEMORY_MIB,
            timeout=TIMEOUT,
            tracing=lambda_.Tracing.ACTIVE,
            environment=settings.to_env() | stage.numbers.to_env(),
        )
        version = self.function.current_version
        self.read = lambda_.Alias(self, "Read", alias_name="read", version=version)
        self.change = lambda_.Alias(self, "Change", alias_name="change", version=version)
        index.connect(role)
        index.grant_access(self, "Operator", role, OPERATOR)
        if stage.operator_role:
            people = iam.Role.from_role_arn(self, "People", stage.operator_role, mutable=False)
            index.grant_access(self, "Operators", people, OPERATOR)
