"""Description of the machine that a benchmark ran on."""

import os
import platform


def describe_machine() -> str:
    """Return processor, number of cores and load average of the last minute. Call this before the measurement."""
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load before {os.getloadavg()[0]:.1f}"
