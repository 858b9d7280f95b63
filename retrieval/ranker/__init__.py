"""The re-ranking stage: its features, its port and its adapters."""
