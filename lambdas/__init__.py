"""Lambda functions: shells over the core."""
