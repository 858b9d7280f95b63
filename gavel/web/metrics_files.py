"""The folder in which the workers of `gavel serve` share their metrics, as prometheus_client's multiprocess mode writes them."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FILES = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported


@contextmanager
def shared_files() -> Iterator[Callable[[int], None]]:
    """Have the processes that are started in the block share their metrics.

    Yields:
        A function to call with the id of each process that has ended: its gauges go, its counters stay.
    """
    with tempfile.TemporaryDirectory(prefix="gavel-metrics-") as folder:
        os.environ[FILES] = folder
        from prometheus_client.multiprocess import mark_process_dead  # not before: what it imports reads the variable

        try:
            yield lambda process_id: mark_process_dead(process_id, folder)  # type: ignore[no-untyped-call]
        finally:
            del os.environ[FILES]
