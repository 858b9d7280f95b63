"""Who may do what in OpenSearch."""
