"""Gavel on one machine: the command `gavel`, its server, and tools for deployed stages."""
