"""The folder in which the workers of `gavel serve` share metrics, in the format of prometheus_client's multiprocess mode."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FILES = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


@contextmanager
def shared_files() -> Iterator[Callable[[int], None]]:
    """Let the processes that are started in the block share their metrics.

    Yields:
        A function to call with the id of each ended process. It removes the gauges of the process; its counters stay.
    """
    with tempfile.TemporaryDirectory(prefix="gavel-metrics-") as folder:
        os.environ[FILES] = folder
        from prometheus_client.multiprocess import mark_process_dead  # imported only now, because the import reads the variable

        try:
            yield lambda process_id: mark_process_dead(process_id, folder)  # type: ignore[no-untyped-call]
        finally:
            del os.environ[FILES]
