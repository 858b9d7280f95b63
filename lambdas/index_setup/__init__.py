"""The Lambda function that sets up permissions and resources of OpenSearch during a deployment."""
