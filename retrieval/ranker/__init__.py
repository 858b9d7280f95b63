"""The re-ranking step: its features, its port and its adapters."""
