"""Gavel on AWS: one file per construct; stacks.py puts them together."""
