"""Custom resources, created as by CloudFormation: the function is called, then its uploaded answer is read."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from moto.awslambda.utils import get_backend as lambda_backend
from moto.cloudformation.exceptions import ValidationError
from moto.core.common_models import CloudFormationModel
from moto.s3.models import s3_backends

ANSWERS = "cloudformation-custom-resource-response"
PARTITION = "aws"


class CustomResource(CloudFormationModel):
    """A custom resource, which a function of the deployment manages."""

    answer_url: Callable[[str, str], str]  # bucket and key -> presigned URL for the answer

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self._answer = answer

    @property
    def physical_resource_id(self) -> str:
        """Id that the function returned."""
        return str(self._answer["PhysicalResourceId"])

    @staticmethod
    def cloudformation_name_type() -> str:
        """Return "": custom resources have no name property."""
        return ""

    @staticmethod
    def cloudformation_type() -> str:
        """Return the prefix of the types of all custom resources."""
        return "Custom::"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Return True, because the function decides which attributes there are."""
        return True

    def get_cfn_attribute(self, attribute_name: str) -> Any:
        """Return an attribute of the function's answer."""
        return self._answer.get("Data", {}).get(attribute_name)

    def is_created(self) -> bool:
        """Return True, because the function has already answered."""
        return True

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **kwargs: Any
    ) -> "CustomResource":
        """Call the function and read its answer.

        Raises:
            ValidationError: the function failed or gave no answer; moto answers with the message.
        """
        properties, name = cloudformation_json["Properties"], uuid4().hex
        event = {
            "RequestType": "Create",
            "ResponseURL": cls.answer_url(ANSWERS, name),
            "StackId": kwargs["StackId"],
            "RequestId": name,
            "LogicalResourceId": kwargs["LogicalId"],
            "ResourceType": kwargs["ResourceType"],
            "ResourceProperties": properties,
        }
        bucket = s3_backends[account_id][PARTITION]
        if ANSWERS not in bucket.buckets:
            bucket.create_bucket(ANSWERS, region_name)
        lambda_backend(account_id, region_name).get_function(properties["ServiceToken"]).invoke(json.dumps(event), {}, {})
        stored = bucket.get_object(ANSWERS, name)
        answer = json.loads(stored.value) if stored else {"Reason": "no answer"}
        if answer.get("Status") != "SUCCESS":
            raise ValidationError(message=f"{kwargs['ResourceType']} {kwargs['LogicalId']} failed: {answer.get('Reason')}")
        return cls(answer)
