"""Queues whose messages become dead letters after some deliveries."""

from aws_cdk import Duration
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.removal import removal_policy
from infra.stage import Stage

RETENTION, LONGEST_RETENTION = Duration.days(4), Duration.days(14)


def queue_pair(
    scope: Construct, ids: tuple[str, str], *, stage: Stage, visibility_timeout: Duration, deliveries: int
) -> tuple[sqs.Queue, sqs.Queue]:
    """Create a queue, and the queue of its dead letters; both encrypted, and reached by TLS alone.

    Args:
        scope: construct that holds both.
        ids: id of the queue, and of the queue of its dead letters.
        stage: says whether the queues outlive their stack.
        visibility_timeout: time after which a message that was taken and not deleted is delivered again.
        deliveries: number of deliveries after which a message becomes a dead letter.

    Returns:
        The queue, and the queue of its dead letters.
    """

    def create(id: str, **settings: object) -> sqs.Queue:
        return sqs.Queue(
            scope,
            id,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            removal_policy=removal_policy(stage),
            **settings,  # type: ignore[arg-type]
        )

    dead_letters = create(ids[1], retention_period=LONGEST_RETENTION)
    acknowledge(dead_letters, {"SQS3": "This queue is one of dead letters."})
    queue = create(
        ids[0],
        retention_period=RETENTION,
        visibility_timeout=visibility_timeout,
        dead_letter_queue=sqs.DeadLetterQueue(queue=dead_letters, max_receive_count=deliveries),
    )
    return queue, dead_letters
