"""The private network of OpenSearch and of the Lambdas that query it."""

from typing import Any

from aws_cdk import Fn
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.function_role import FunctionRole
from infra.log_group import log_group
from infra.stage import Stage

HTTPS = ec2.Port.tcp(443)


class Network(Construct):
    """A VPC without access to the internet: no gateway, no NAT, no public address.

    Lambda writes logs and traces from outside the VPC. So the functions themselves need only S3 and DynamoDB (by gateway endpoints,
    which are free of charge), Firehose, and the re-ranker's endpoint if there is one.

    Attributes:
        vpc: VPC with isolated subnets, one in each availability zone.
        functions: security group of the Lambdas; it reaches OpenSearch and endpoints by HTTPS, nothing else.
        index: security group of OpenSearch; it admits only HTTPS from the Lambdas.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage) -> None:
        super().__init__(scope, id)
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            # without names by number, because a stack without a region knows two zones at most
            availability_zones=stage.zones or [Fn.select(number, Fn.get_azs()) for number in range(stage.azs)],
            ip_addresses=ec2.IpAddresses.cidr(stage.vpc_cidr) if stage.vpc_cidr else None,
            nat_gateways=0,
            create_internet_gateway=False,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="private", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)
            ],
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.DYNAMODB),
            },
        )
        self.vpc.add_flow_log("FlowLog", destination=ec2.FlowLogDestination.to_cloud_watch_logs(log_group(self, "FlowLogs", stage)))
        self.functions = self._group("Functions", "Lambdas of Gavel")
        self.index = self._group("Index", "OpenSearch of Gavel")
        self.index.add_ingress_rule(self.functions, HTTPS, "Lambdas ask OpenSearch")
        self.functions.add_egress_rule(self.index, HTTPS, "OpenSearch")
        self.functions.add_egress_rule(
            ec2.Peer.any_ipv4(), HTTPS, "S3 and DynamoDB, whose addresses no rule can name; there is no other way out"
        )
        self._reach(stage)

    def function(self, scope: Construct, id: str, *, role: FunctionRole, **settings: Any) -> lambda_.Function:
        """Create a Lambda in the private subnets.

        Args:
            scope: construct that holds the function.
            id: id of the function in the scope.
            role: role of the function; it also names the log group.
            settings: further arguments of lambda_.Function, such as handler, code and timeout.
        """
        function = lambda_.Function(
            scope,
            id,
            runtime=lambda_.Runtime.PYTHON_3_12,
            architecture=lambda_.Architecture.X86_64,
            role=role,
            log_group=role.log_group,
            vpc=self.vpc,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
            security_groups=[self.functions],
            **settings,
        )
        acknowledge(function, {"L1": "Python 3.12 is the runtime that every bundle is built and tested for."})
        return function

    def _group(self, id: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(self, id, vpc=self.vpc, description=description, allow_all_outbound=False)

    def _reach(self, stage: Stage) -> None:
        """Add interface endpoints for the AWS services that the functions call."""
        endpoints = self._group("Endpoints", "Interface endpoints of Gavel")
        endpoints.add_ingress_rule(self.functions, HTTPS, "Lambdas ask Firehose and the re-ranker")
        services = {"Firehose": ec2.InterfaceVpcEndpointAwsService.KINESIS_FIREHOSE}
        if stage.reranker and stage.reranker.model_key:
            services["SageMakerRuntime"] = ec2.InterfaceVpcEndpointAwsService.SAGEMAKER_RUNTIME
        for id, service in services.items():
            self.vpc.add_interface_endpoint(id, service=service, security_groups=[endpoints], open=False)
