"""Tools to work on a deployed stage from one's own machine: jobs, state machines, towers, status."""
