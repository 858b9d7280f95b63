"""Costs of a stage: its synthesised templates times a table of prices."""
