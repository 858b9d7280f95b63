"""The OpenSearch domain, its permissions, and the resources that it needs before the first lot."""

import json
from collections.abc import Sequence
from typing import Any

from aws_cdk import CfnTag, CfnUpdatePolicy, CustomResource, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_opensearchservice as opensearch
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.function_role import FunctionRole
from infra.log_group import log_group
from infra.network import Network
from infra.permissions import allow_below
from infra.python_asset import source_code
from infra.removal import removal_policy
from infra.stage import Stage
from retrieval.index.opensearch.mapping import HYBRID_PIPELINE, pipeline_name, template_body

HTTP_VERBS = ("es:ESHttpGet", "es:ESHttpHead", "es:ESHttpPost", "es:ESHttpPut", "es:ESHttpDelete")
READ_VERBS, WRITE_VERBS = ("es:ESHttpGet", "es:ESHttpPost"), ("es:ESHttpGet", "es:ESHttpPost", "es:ESHttpPut")
SET_UP_VERBS = ("es:ESHttpPut", "es:ESHttpDelete")
TLS = "Policy-Min-TLS-1-2-PFS-2023-10"
# index permission groups of the OpenSearch security plugin; {alias} is the alias of the live index
# all that indexer and rebuild do; an index is dropped by nobody's mistake but an operator's
WRITER: dict[str, Any] = {
    "cluster_permissions": ["cluster_composite_ops", "cluster:monitor/main", "cluster:admin/search/pipeline/put"],
    "index_permissions": [
        {
            "index_patterns": ["{alias}*"],
            "allowed_actions": [
                "read",
                "write",
                "create_index",
                "indices:admin/aliases",
                "indices:admin/aliases/get",
                "indices:admin/get",
                "indices:admin/mapping/put",
                "indices:admin/mappings/get",
                "indices:admin/refresh*",
            ],
        }
    ],
}
READER: dict[str, Any] = {
    "cluster_permissions": ["cluster_composite_ops_ro"],
    "index_permissions": [
        {
            "index_patterns": ["{alias}*"],
            "allowed_actions": ["read", "indices:admin/get", "indices:admin/mappings/get", "indices:admin/aliases/get"],
        }
    ],
}
STATE_WRITER: dict[str, Any] = {  # writes states, and deletions into the live index
    "cluster_permissions": ["cluster_composite_ops"],
    "index_permissions": [
        {"index_patterns": ["{alias}-states"], "allowed_actions": ["create_index", "indices:admin/mappings/get"]},
        {
            "index_patterns": ["{alias}*"],
            "allowed_actions": [
                "read",
                "write",
                "indices:admin/get",
                "indices:admin/mappings/get",
                "indices:admin/aliases/get",
                "indices:admin/refresh*",
            ],
        },
    ],
}
OPERATOR = {  # writes deletions alone, into the index that goes live
    "cluster_permissions": ["cluster_composite_ops"],
    "index_permissions": [
        {
            "index_patterns": ["{alias}*"],
            "allowed_actions": [
                "read",
                "write",
                "indices:admin/get",
                "indices:admin/mapping/put",
                "indices:admin/mappings/get",
                "indices:admin/aliases/get",
                "indices:admin/aliases",
                "indices:admin/refresh*",
                "indices:admin/delete",
                "indices:monitor/stats",
            ],
        }
    ],
}


class VectorIndex(Construct):
    """One OpenSearch domain in private subnets: HTTPS and IAM signatures only, encrypted, slow requests logged.

    IAM admits a role of this account only if the role's own policy allows it (connect()). Fine-grained access control sets the
    permissions inside the domain (grant_access()). Its master user is the role of one small function.

    Attributes:
        domain: the OpenSearch domain.
        alias: alias of the live index.
        url: HTTPS URL of the domain.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage, network: Network, alias: str) -> None:
        super().__init__(scope, id)
        self.alias = alias
        self._stage = stage
        self._network = network
        self._admin = FunctionRole(self, "Admin", log_group=log_group(self, "AccessLogs", stage))
        self._logs = {kind: log_group(self, f"{kind.title().replace('_', '')}", stage) for kind in LOG_KINDS}
        self.domain = self._domain()
        self.url = f"https://{self.domain.attr_domain_endpoint}"
        self._access = self._access_function()
        self._grants: list[CustomResource] = []
        self._before_the_first_lot()

    def connect(self, role: iam.Role, verbs: Sequence[str] = HTTP_VERBS) -> None:
        """Allow a role to send signed requests of these kinds to the domain."""
        allow_below(role, verbs, self.domain, self.domain.attr_arn, "/*", "Fine-grained access control says which requests.")

    def grant_access(self, scope: Construct, id: str, role: iam.IRole, permissions: dict[str, Any]) -> CustomResource:
        """Give an IAM role permissions inside the domain, through a role of OpenSearch that is mapped to the IAM role.

        Args:
            scope: construct that holds the mapping, in the stack of the role.
            id: id of the mapping in the scope; OpenSearch's role is named after it.
            role: IAM role that gets the permissions.
            permissions: WRITER, READER, STATE_WRITER or OPERATOR.
        """
        index_permissions = [
            {**given, "index_patterns": [pattern.format(alias=self.alias) for pattern in given["index_patterns"]]}
            for given in permissions["index_permissions"]
        ]
        access = CustomResource(
            scope,
            id,
            service_token=self._access.function_arn,
            resource_type="Custom::IndexAccess",
            properties={
                "Role": f"gavel_{id.lower()}",
                "BackendRole": role.role_arn,
                "Permissions": {**permissions, "index_permissions": index_permissions},
            },
        )
        if self._grants:
            access.node.add_dependency(self._grants[-1])  # all roles are one document; two writers at once are a conflict
        self._grants.append(access)
        return access

    def _before_the_first_lot(self) -> None:
        """Add the pipeline of hybrid queries, and the index template, without which a stray write would create guessed mappings."""
        stage = self._stage
        template = template_body(
            self.alias,
            shards=stage.index_shards,
            replicas=stage.index_replicas,
            language=stage.language,
            numbers=stage.numbers,
        )
        for id, path, body in (
            ("Template", f"/_index_template/{self.alias}", template),
            ("Pipeline", f"/_search/pipeline/{pipeline_name(self.alias)}", HYBRID_PIPELINE),
        ):
            resource = CustomResource(
                self,
                id,
                service_token=self._access.function_arn,
                resource_type="Custom::IndexResource",
                properties={"Path": path, "Body": json.dumps(body)},
            )
            resource.node.add_dependency(self._network)  # its deletion needs the network, too, to answer CloudFormation

    def _domain(self) -> opensearch.CfnDomain:
        stack, stage = Stack.of(self), self._stage
        domain = opensearch.CfnDomain(
            self,
            "Domain",
            engine_version=f"OpenSearch_{stage.opensearch_version}",
            cluster_config=self._cluster(),
            ebs_options={"ebsEnabled": True, "volumeType": "gp3", "volumeSize": stage.opensearch_volume_gib},
            vpc_options={
                "subnetIds": [subnet.subnet_id for subnet in self._network.vpc.isolated_subnets],
                "securityGroupIds": [self._network.index.security_group_id],
            },
            domain_endpoint_options={"enforceHttps": True, "tlsSecurityPolicy": TLS},
            node_to_node_encryption_options={"enabled": True},
            encryption_at_rest_options={"enabled": True},
            advanced_security_options={
                "enabled": True,
                "internalUserDatabaseEnabled": False,
                "masterUserOptions": {"masterUserArn": self._admin.role_arn},
            },
            access_policies=_account_only(stack),
            log_publishing_options={
                kind: {"cloudWatchLogsLogGroupArn": group.log_group_arn, "enabled": True} for kind, group in self._logs.items()
            },
            tags=[CfnTag(key="gavel:stage", value=stage.name)],
        )
        domain.apply_removal_policy(removal_policy(stage))
        domain.cfn_options.update_policy = CfnUpdatePolicy(enable_version_upgrade=True)  # otherwise a new version is a new domain
        domain.node.add_dependency(self._log_policy())
        _acknowledge_small(domain, stage)
        return domain

    def _cluster(self) -> dict[str, Any]:
        stage = self._stage
        cluster: dict[str, Any] = {
            "instanceType": stage.opensearch_instance,
            "instanceCount": stage.opensearch_nodes,
            "zoneAwarenessEnabled": stage.azs > 1,
            "dedicatedMasterEnabled": stage.opensearch_dedicated_masters > 0,
        }
        if stage.azs > 1:
            cluster["zoneAwarenessConfig"] = {"availabilityZoneCount": stage.azs}
        if stage.opensearch_dedicated_masters:
            cluster["dedicatedMasterCount"] = stage.opensearch_dedicated_masters
            cluster["dedicatedMasterType"] = "m7g.medium.search"
        return cluster

    def _log_policy(self) -> logs.CfnResourcePolicy:
        """Create the policy that lets OpenSearch write its logs. OpenSearch checks the permission before it creates the domain."""
        stack = Stack.of(self)
        statement = iam.PolicyStatement(
            principals=[iam.ServicePrincipal("es.amazonaws.com")],
            actions=["logs:CreateLogStream", "logs:PutLogEvents"],
            resources=[group.log_group_arn for group in self._logs.values()],
            conditions={"StringEquals": {"aws:SourceAccount": stack.account}},
        )
        document = iam.PolicyDocument(statements=[statement])
        return logs.CfnResourcePolicy(
            self, "LogPolicy", policy_name=f"gavel-{self._stage.name}-opensearch", policy_document=stack.to_json_string(document)
        )

    def _access_function(self) -> lambda_.Function:
        self.connect(self._admin, SET_UP_VERBS)
        function = self._network.function(
            self,
            "Access",
            description="Sets OpenSearch up: who is let in, the index template, the search pipeline",
            handler="handler.handler",
            code=source_code("lambdas/index_setup"),
            role=self._admin,
            timeout=Duration.minutes(4),
            environment={"GAVEL_OPENSEARCH_URL": self.url},
        )
        return function


LOG_KINDS = ("SEARCH_SLOW_LOGS", "INDEX_SLOW_LOGS", "ES_APPLICATION_LOGS")


def _account_only(stack: Stack) -> dict[str, Any]:
    """Return a resource policy that leaves access to this account's identity policies and admits nobody else, nothing unsigned.

    It names no domain, because it is part of one that has no name yet.
    """
    domain_arn = stack.format_arn(service="es", resource="domain", resource_name="*/*")
    root = stack.format_arn(service="iam", region="", resource="root")
    statement = {"Effect": "Allow", "Principal": {"AWS": root}, "Action": "es:ESHttp*", "Resource": domain_arn}
    return {"Version": "2012-10-17", "Statement": [statement]}


def _acknowledge_small(domain: opensearch.CfnDomain, stage: Stage) -> None:
    reasons = {"OS3": "The domain has no public address; its security group admits the Lambdas alone."}
    if not stage.opensearch_dedicated_masters:
        reasons["OS4"] = "A development domain of one node needs no dedicated masters."
    if stage.azs == 1:
        reasons["OS7"] = "A development domain of one node stands in one zone."
    acknowledge(domain, reasons)
