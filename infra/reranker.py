"""The re-rank endpoint: a booster on SageMaker, deployed once a re-ranker is published."""

from aws_cdk import Aws, Duration, Fn
from aws_cdk import aws_applicationautoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from infra.item_store import ItemStore
from infra.permissions import allow_below, allow_container
from infra.stage import RerankerArtefact, Stage

VARIANT = "AllTraffic"
CAPTURED_PERCENT = 5
CAPTURES = "captures"
CANARY_PERCENT = 10
BAKING_S = 300  # duration of each step, in which an alarm rolls the deployment back; alarms look at three minutes
INVOCATIONS_PER_INSTANCE = 3_000  # per minute
SLOWEST_MS = 50  # limit of the model's p99 latency, because a query waits for the model
SCRIPT_MODE = {  # with these variables the container's server calls the functions of processing/reranker_endpoint/inference.py
    "SAGEMAKER_PROGRAM": "inference.py",
    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",  # in the archive itself, because without a network nothing else can be read
    "SAGEMAKER_REGION": Aws.REGION,
    "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
    "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv",
}


class Reranker(Construct):
    """The re-ranker's model, endpoint configuration and endpoint.

    A new artefact makes a new configuration. Its instances start beside the old instances, take a tenth of the traffic and then all
    of it. If an alarm rings, they are removed again.

    Attributes:
        name: name of the endpoint.
        endpoint: the endpoint.
        alarms: alarms of errors and latency, which can roll a deployment back.
    """

    def __init__(
        self, scope: Construct, id: str, *, stage: Stage, store: ItemStore, artefact: RerankerArtefact, model_key: str
    ) -> None:
        super().__init__(scope, id)
        self.name = f"gavel-{stage.name}-reranker"
        self._stage, self._store, self._artefact, self._model_key = stage, store, artefact, model_key
        self.alarms = self._guards()
        model = self._model()
        config = sagemaker.CfnEndpointConfig(
            self,
            "Config",
            production_variants=[
                sagemaker.CfnEndpointConfig.ProductionVariantProperty(
                    variant_name=VARIANT,
                    model_name=model.attr_model_name,
                    initial_instance_count=artefact.instances,
                    instance_type=artefact.instance,
                    initial_variant_weight=1,
                )
            ],
            data_capture_config=self._capture() if stage.retain_data else None,
        )
        self.endpoint = self._endpoint(config)
        self._scale()

    def allow_invoke(self, role: iam.Role) -> None:
        """Allow a role to invoke the endpoint."""
        role.add_to_principal_policy(iam.PolicyStatement(actions=["sagemaker:InvokeEndpoint"], resources=[self.endpoint.ref]))

    def _model(self) -> sagemaker.CfnModel:
        role = self._role()
        model = sagemaker.CfnModel(
            self,
            "Model",
            execution_role_arn=role.role_arn,
            enable_network_isolation=True,
            primary_container={
                "image": Fn.sub(self._artefact.image),
                "modelDataUrl": f"s3://{self._store.towers.bucket_name}/{self._model_key}",
                "environment": SCRIPT_MODE,
            },
        )
        model.node.add_dependency(role)  # SageMaker reads the artefact when the model is created
        return model

    def _role(self) -> iam.Role:
        """Create the role, which may read one artefact, pull the image, and write logs and captured requests."""
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        store = self._store
        artefact = store.towers.arn_for_objects(self._model_key)
        role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[artefact]))
        allow_container(role, self._artefact.image, f"log-group:/aws/sagemaker/Endpoints/{self.name}:*")
        if self._stage.retain_data:
            bucket = store.releases
            allow_below(role, ["s3:PutObject"], bucket, bucket.bucket_arn, f"/{CAPTURES}/*", "SageMaker names captures by time.")
        return role

    def _capture(self) -> sagemaker.CfnEndpointConfig.DataCaptureConfigProperty:
        return sagemaker.CfnEndpointConfig.DataCaptureConfigProperty(
            enable_capture=True,
            initial_sampling_percentage=CAPTURED_PERCENT,
            destination_s3_uri=f"s3://{self._store.releases.bucket_name}/{CAPTURES}",
            capture_options=[{"captureMode": "Input"}, {"captureMode": "Output"}],
            capture_content_type_header={"csvContentTypes": ["text/csv"]},
        )

    def _guards(self) -> list[cloudwatch.Alarm]:
        def measure(name: str, statistic: str) -> cloudwatch.Metric:
            return cloudwatch.Metric(
                namespace="AWS/SageMaker",
                metric_name=name,
                dimensions_map={"EndpointName": self.name, "VariantName": VARIANT},
                statistic=statistic,
                period=Duration.minutes(1),
            )

        def alarm(name: str, metric: cloudwatch.Metric, threshold: float) -> cloudwatch.Alarm:
            return metric.create_alarm(
                self,
                f"Reranker{name.title()}",
                alarm_name=f"gavel-{self._stage.name}-reranker-{name}",
                alarm_description=f"docs/operations.md#reranker-{name}",
                threshold=threshold,
                evaluation_periods=3,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            )

        return [
            alarm("errors", measure("Invocation5XXErrors", "sum"), 5),
            alarm("latency", measure("ModelLatency", "p99"), SLOWEST_MS * 1_000),  # SageMaker counts microseconds
        ]

    def _endpoint(self, config: sagemaker.CfnEndpointConfig) -> sagemaker.CfnEndpoint:
        return sagemaker.CfnEndpoint(
            self,
            "Endpoint",
            endpoint_name=self.name,
            endpoint_config_name=config.attr_endpoint_config_name,
            deployment_config=sagemaker.CfnEndpoint.DeploymentConfigProperty(
                auto_rollback_configuration={"alarms": [{"alarmName": alarm.alarm_name} for alarm in self.alarms]},
                blue_green_update_policy=sagemaker.CfnEndpoint.BlueGreenUpdatePolicyProperty(
                    termination_wait_in_seconds=BAKING_S,
                    maximum_execution_timeout_in_seconds=3600,
                    traffic_routing_configuration=self._traffic(),
                ),
            ),
        )

    def _traffic(self) -> dict[str, object]:
        """Return how a deployment shifts traffic. A canary takes at most half of the instances, so one is switched at once."""
        if self._artefact.instances == 1:
            return {"type": "ALL_AT_ONCE", "waitIntervalInSeconds": BAKING_S}
        return {
            "type": "CANARY",
            "canarySize": {"type": "CAPACITY_PERCENT", "value": CANARY_PERCENT},
            "waitIntervalInSeconds": BAKING_S,
        }

    def _scale(self) -> None:
        target = autoscaling.ScalableTarget(
            self,
            "Scaling",
            service_namespace=autoscaling.ServiceNamespace.SAGEMAKER,
            resource_id=f"endpoint/{self.endpoint.attr_endpoint_name}/variant/{VARIANT}",
            scalable_dimension="sagemaker:variant:DesiredInstanceCount",
            min_capacity=self._artefact.instances,
            max_capacity=self._artefact.most_instances,
        )
        target.scale_to_track_metric(
            "Invocations",
            target_value=INVOCATIONS_PER_INSTANCE,
            predefined_metric=autoscaling.PredefinedMetric.SAGEMAKER_VARIANT_INVOCATIONS_PER_INSTANCE,
            scale_in_cooldown=Duration.minutes(5),
            scale_out_cooldown=Duration.minutes(1),
        )
