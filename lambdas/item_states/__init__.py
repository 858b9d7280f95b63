"""The Lambda function that takes states of lots, from a queue and from the API."""
