"""Stand-ins for resource types that moto's CloudFormation lacks: records of their properties."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moto.awslambda.utils import get_backend as lambda_backend
from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.firehose.models import firehose_backends

from gavel.rehearsal.custom_resources import CustomResource

# a reference to a resource gives the first of these properties that the resource has
NAMES = ("StageName", "AlarmName", "DomainName", "DeliveryStreamName", "Name")
OTHER_DESTINATIONS = ("s3", "redshift", "elasticsearch", "splunk", "http_endpoint", "snowflake", "iceberg")  # of streams
# resource type -> the ARN's service and the form of its last part; policies name these resources
ARNS = {
    "AWS::CloudWatch::Alarm": ("cloudwatch", "alarm:{}"),
    "AWS::KinesisFirehose::DeliveryStream": ("firehose", "deliverystream/{}"),
    "AWS::OpenSearchService::Domain": ("es", "domain/{}"),
    "AWS::WAFv2::WebACL": ("wafv2", "regional/webacl/{}/rehearsal"),
}
Attributes = Mapping[tuple[str, str], str]


@dataclass
class Record:
    """Resources that an emulated deployment replaced by stand-ins.

    Attributes:
        attributes: (resource type, attribute) -> value, for attributes whose default value would not work.
        created: resource type -> function that is called with the ARN and the properties of each resource of it.
        resources: resource type -> names of the resources that stand-ins replaced.
    """

    attributes: Attributes
    created: Mapping[str, Callable[[str, Mapping[str, Any]], None]] = field(default_factory=dict)
    resources: dict[str, list[str]] = field(default_factory=dict)


class StandIn(CloudFormationModel):
    """A stand-in for one resource. It only gives values to references and attributes."""

    def __init__(self, kind: str, name: str, reference: str, attributes: Attributes, arn: str) -> None:
        self._kind, self._name, self._reference, self._attributes, self._arn = kind, name, reference, attributes, arn

    @property
    def physical_resource_id(self) -> str:
        """Value of a reference to the resource."""
        return self._reference

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Return True, because every attribute has a value."""
        return True

    def get_cfn_attribute(self, attribute_name: str) -> str:
        """Return the attribute's value in the record, or a default derived from the resource's name."""
        default = self._arn if attribute_name.endswith("Arn") else f"{self._name}-{attribute_name}".lower()
        return self._attributes.get((self._kind, attribute_name), default)

    def is_created(self) -> bool:
        """Return True, because a stand-in exists at once."""
        return True


def install(record: Record) -> Callable[[], None]:
    """Make moto deploy a stand-in for every resource type that it does not know.

    Args:
        record: receives the name of each replaced resource.

    Returns:
        A function that removes the stand-ins from moto.
    """
    moto_class = parsing.resource_class_from_type
    models: dict[str, type[CloudFormationModel]] = {}

    def resource_class(resource_type: str) -> type[CloudFormationModel]:
        kind = resource_type
        if kind.startswith("Custom::"):
            return CustomResource
        if kind in parsing.get_model_map() or kind in parsing.NULL_MODELS:
            return moto_class(kind)
        if kind not in models:
            models[kind] = _model(kind, record)
        return models[kind]

    def take_out() -> None:
        parsing.resource_class_from_type = moto_class

    parsing.resource_class_from_type = resource_class
    return take_out


def _model(kind: str, record: Record) -> type[CloudFormationModel]:
    """Create the stand-in class of a resource type, because moto needs one class per type."""

    def create(
        cls: type[StandIn], /, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_: Any
    ) -> StandIn:
        properties = cloudformation_json.get("Properties", {})
        record.resources.setdefault(kind, []).append(resource_name)
        if kind == "AWS::Lambda::Alias":
            reference = _make_alias(properties, account_id, region_name)
        else:
            reference = next((str(properties[name]) for name in NAMES if name in properties), resource_name)
        if kind == "AWS::KinesisFirehose::DeliveryStream":
            _make_stream(properties, account_id, region_name)
        service, last = ARNS.get(kind, ("stand-in", f"{kind.replace('::', '-').lower()}/{{}}"))
        arn = f"arn:aws:{service}:{region_name}:{account_id}:{last.format(reference)}"
        if kind in record.created:
            record.created[kind](arn, properties)
        return cls(kind, resource_name, reference, record.attributes, arn)

    members = {
        "__module__": __name__,
        "create_from_cloudformation_json": classmethod(create),
        "cloudformation_name_type": staticmethod(lambda: None),
        "cloudformation_type": staticmethod(lambda: kind),
    }
    return type("StandIn" + kind.replace("::", ""), (StandIn,), members)


def _make_stream(properties: Mapping[str, Any], account_id: str, region: str) -> None:
    """Create a delivery stream in moto's Firehose, because moto's CloudFormation does not.

    The stream writes to S3 at once and uncompressed.
    """
    firehose_backends[account_id][region].create_delivery_stream(
        region=region,
        delivery_stream_name=properties["DeliveryStreamName"],
        delivery_stream_type=properties["DeliveryStreamType"],
        delivery_stream_encryption_configuration_input=properties["DeliveryStreamEncryptionConfigurationInput"],
        kinesis_stream_source_configuration={},
        extended_s3_destination_configuration=dict(properties["ExtendedS3DestinationConfiguration"]),
        tags=[],
        **{f"{kind}_destination_configuration": {} for kind in OTHER_DESTINATIONS},
    )


def _make_alias(properties: Mapping[str, Any], account_id: str, region: str) -> str:
    """Create an alias in moto's Lambda, because moto's CloudFormation does not.

    Returns:
        The alias's ARN.
    """
    backend = lambda_backend(account_id, region)
    alias = backend.create_alias(properties["Name"], properties["FunctionName"], properties["FunctionVersion"], "", "")
    return str(alias.arn)
