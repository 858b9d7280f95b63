"""The Lambda function that renews the snapshot of the query function once the live index has another tower."""
