"""Sources of items and judgments: readers of published data sets, and generators of synthetic ones."""
