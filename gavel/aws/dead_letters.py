"""The dead letters of a stage: parts and manifests that could not be indexed, and states that could not be taken."""

from typing import Any

from gavel.aws.account import DeployedStage, aws_errors, client

COUNT = "ApproximateNumberOfMessages"
REDRIVEN_QUEUES = ("ArrivalsDeadLetters", "StatesDeadLetters")  # outputs of the stacks: URLs of the queues


def redrive(stage: DeployedStage) -> dict[str, Any]:
    """Send the dead letters back to the queues that they came from, where the indexer and the function of states take them.

    Returns:
        {"messages": approximate number of messages, "tasks": handle of SQS's task for each queue that has messages}.

    Raises:
        GavelError: SQS refuses, for instance because it is moving them already.
    """
    sqs, messages, tasks = client("sqs"), 0, []
    for output in REDRIVEN_QUEUES:
        queue = stage.output(output)
        with aws_errors(f"queue {queue}"):
            attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn", COUNT])["Attributes"]
            if count := int(attributes[COUNT]):
                messages += count
                tasks.append(sqs.start_message_move_task(SourceArn=attributes["QueueArn"])["TaskHandle"])
    return {"messages": messages, "tasks": tasks}
