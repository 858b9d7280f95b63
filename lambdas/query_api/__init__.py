"""The query API: search, retrieval, buyers and events over HTTP."""
