"""What a process may use, limited for a while, as a quota or a busy machine does it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process, such as resource.RLIMIT_NOFILE; with 0 of those no file can be opened."""
    limits = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, limits)
