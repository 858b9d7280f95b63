"""The dead letters of a stage: parts and manifests that could not be indexed."""

from typing import Any

from gavel.aws.account import DeployedStage, aws_errors, client

COUNT = "ApproximateNumberOfMessages"


def redrive(stage: DeployedStage) -> dict[str, Any]:
    """Send the dead letters back to the queue that they came from, where the indexer takes them.

    Returns:
        {"messages": approximate number of messages, "task": handle of SQS's task; None if there is no message}.

    Raises:
        GavelError: SQS refuses, for instance because it is moving them already.
    """
    queue, sqs = stage.output("ArrivalsDeadLetters"), client("sqs")
    with aws_errors(f"queue {queue}"):
        attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn", COUNT])["Attributes"]
        messages = int(attributes[COUNT])
        task = sqs.start_message_move_task(SourceArn=attributes["QueueArn"])["TaskHandle"] if messages else None
    return {"messages": messages, "task": task}
