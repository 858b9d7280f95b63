"""Why a rule of cdk-nag does not apply to a construct, said beside the construct."""

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct

CDK_WARNING = "Annotation::"


def acknowledge(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Say why findings of AwsSolutions on a construct, and on what it holds, are as they should be.

    Args:
        construct: where the findings are.
        reasons: finding -> why it is right here; a finding is "IAM5[Action::s3:*]", without the name of the rule pack, or
            "Annotation::…" for a warning of the CDK.
    """
    for finding, reason in reasons.items():
        rule = finding if finding.startswith(CDK_WARNING) else f"AwsSolutions-{finding}"
        Validations.of(construct).acknowledge(Acknowledgment(id=rule, reason=reason))
