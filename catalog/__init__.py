"""Where items and judgments come from."""
