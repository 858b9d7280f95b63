"""Acknowledge findings of cdk-nag on a construct, with the reason, beside the construct's own code."""

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct

CDK_WARNING = "Annotation::"


def acknowledge(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Acknowledge findings of AwsSolutions on a construct and on the constructs in it.

    Args:
        construct: construct with the findings.
        reasons: finding -> reason why it is right here. A finding is written without the name of the rule pack, such as
            "IAM5[Action::s3:*]", or as "Annotation::…" for a warning of the CDK.
    """
    for finding, reason in reasons.items():
        rule = finding if finding.startswith(CDK_WARNING) else f"AwsSolutions-{finding}"
        Validations.of(construct).acknowledge(Acknowledgment(id=rule, reason=reason))
