"""What a benchmark ran on."""

import os
import platform


def describe_machine() -> str:
    """Processor, cores and the load average of the last minute: to be asked before the measurement begins."""
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load before {os.getloadavg()[0]:.1f}"
