"""The Lambda function that indexes embedding parts and publishes releases."""
