"""Set up permissions and resources of OpenSearch."""
