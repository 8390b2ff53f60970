"""Child processes that do not outlive their parent and leave Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def end_with_parent() -> None:
    """Starts a thread that ends this process when the one that started it is gone, by kill -9 for example."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


@contextmanager
def interrupt_ignored() -> Iterator[None]:
    """Children started in the block ignore Ctrl-C: it reaches the whole group, and is the parent's to answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # An ignored signal stays so in a new process.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
