"""Lambda functions: thin shells around the package `retrieval`."""
