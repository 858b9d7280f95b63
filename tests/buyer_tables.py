"""A DynamoDB table of buyers' events, as infra/buyer_events.py makes it."""

import boto3


def make_buyer_table(name: str) -> None:
    """Make the table in the account that boto3 finds."""
    boto3.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "buyer_id", "KeyType": "HASH"}, {"AttributeName": "act", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("buyer_id", "act")],
        BillingMode="PAY_PER_REQUEST",
    )
