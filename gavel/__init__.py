"""Gavel on one machine."""
