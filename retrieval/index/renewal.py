"""What an index does beside its searches: a thread of low priority that makes its parts anew."""

import logging
import os
import sys
import threading
from collections.abc import Callable

import faiss

from retrieval.errors import GavelError

logger = logging.getLogger(__name__)

NICENESS = 10


class Closed(Exception):
    """The index was closed while a part of it was made anew."""


def renew_apart(name: str, renew: Callable[[], None], otherwise: str) -> None:
    """Start a thread that renews something, on one core and where the system allows it at a low priority.

    Args:
        name: of the thread.
        renew: what it does.
        otherwise: how things stand if that fails, for the log.
    """

    def run() -> None:
        faiss.omp_set_num_threads(1)  # of this thread: the other cores are for searches
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            renew()
        except GavelError as error:
            logger.error("%s: %s", otherwise, error)

    threading.Thread(target=run, name=name, daemon=True).start()
