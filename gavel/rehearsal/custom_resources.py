"""Custom resources, created as by CloudFormation: the function is called, then its uploaded answer is read."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
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
    created: ClassVar[list[dict[str, Any]]]  # events of the account's custom resources

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
        event = {
            "RequestType": "Create",
            "StackId": kwargs["StackId"],
            "LogicalResourceId": kwargs["LogicalId"],
            "ResourceType": kwargs["ResourceType"],
            "ResourceProperties": cloudformation_json["Properties"],
        }
        answer = cls.send(event, account_id, region_name)
        if answer.get("Status") != "SUCCESS":
            raise ValidationError(message=f"{kwargs['ResourceType']} {kwargs['LogicalId']} failed: {answer.get('Reason')}")
        cls.created.append(event)
        return cls(answer)

    @classmethod
    def send(cls, event: Mapping[str, Any], account_id: str, region_name: str) -> dict[str, Any]:
        """Call the function of a resource with an event, under a new request id, and return its answer."""
        name, bucket = uuid4().hex, s3_backends[account_id][PARTITION]
        if ANSWERS not in bucket.buckets:
            bucket.create_bucket(ANSWERS, region_name)
        request = {**event, "RequestId": name, "ResponseURL": cls.answer_url(ANSWERS, name)}
        function = lambda_backend(account_id, region_name).get_function(event["ResourceProperties"]["ServiceToken"])
        function.invoke(json.dumps(request), {}, {})
        stored = bucket.get_object(ANSWERS, name)
        return dict(json.loads(stored.value)) if stored else {"Reason": "no answer"}

    @classmethod
    def send_all(cls, request_type: str, account_id: str, region_name: str) -> list[dict[str, Any]]:
        """Create or delete all of the account's custom resources again, side by side, and return the answers."""
        with ThreadPoolExecutor(len(cls.created)) as threads:
            events = [{**event, "RequestType": request_type} for event in cls.created]
            return list(threads.map(lambda event: cls.send(event, account_id, region_name), events))
