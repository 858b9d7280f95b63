"""End a process together with its parent."""

import threading
from collections.abc import Callable
from multiprocessing import parent_process


def end_with_parent(end: Callable[[], object]) -> None:
    """Call `end` in a thread once the parent process has ended, even if it was killed.

    Args:
        end: function that ends this process.
    """
    parent = parent_process()
    if parent is None:  # not a process that multiprocessing started
        return

    def watch() -> None:
        parent.join()
        end()

    threading.Thread(target=watch, daemon=True).start()
