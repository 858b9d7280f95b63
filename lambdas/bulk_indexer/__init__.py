"""The bulk indexer."""
