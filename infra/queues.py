"""Queues whose messages become dead letters after some deliveries."""

from aws_cdk import Duration
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.removal import removal_policy
from infra.stage import Stage

MAX_AGE, MAX_DEAD_AGE = Duration.days(4), Duration.days(14)


def queue_with_dead_letters(
    scope: Construct, id: str, dead_letters_id: str, *, stage: Stage, visibility_timeout: Duration, deliveries: int
) -> tuple[sqs.Queue, sqs.Queue]:
    """Create a queue, and the queue of its dead letters; both encrypted, and reached by TLS alone.

    Args:
        scope: construct that holds both.
        id: id of the queue.
        dead_letters_id: id of the queue of dead letters.
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

    dead_letters = create(dead_letters_id, retention_period=MAX_DEAD_AGE)
    acknowledge(dead_letters, {"SQS3": "This queue is one of dead letters."})
    dead = sqs.DeadLetterQueue(queue=dead_letters, max_receive_count=deliveries)
    return create(id, retention_period=MAX_AGE, visibility_timeout=visibility_timeout, dead_letter_queue=dead), dead_letters
