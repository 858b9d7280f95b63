"""What a stage costs: its synthesised templates times a table of prices."""
