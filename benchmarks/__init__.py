"""Benchmarks, which compare Gavel with named references."""
