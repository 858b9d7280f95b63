"""A deployed stage from one's own machine: jobs, machines, towers, status."""
