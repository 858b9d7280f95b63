"""Gavel on AWS: one file a construct, put together by stacks.py."""
