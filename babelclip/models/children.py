"""Child processes: they end with their parent, leave Ctrl-C to it, and tell it what became of a task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from babelclip.errors import BabelclipError, MissingExtraError


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


def serve(pipe: Connection, do: Callable[[Any], Any]) -> None:
    """Does the tasks that come through a pipe, until this process is ended or has lost its parent.

    Each is answered by ("done", what `do` returned), or by what it raised, which `raise_failure` raises in the parent.
    """
    while True:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the parent is gone
        try:
            message: tuple[str, Any] = ("done", do(task))
        except BabelclipError as error:
            message = ("refused", str(error))
        except MissingExtraError as error:
            message = ("lacks", str(error))
        except Exception:  # whatever it is, the parent tells it, and it is not lost
            message = ("failed", traceback.format_exc())
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # the parent is gone


def raise_failure(kind: str, content: str, who: str) -> NoReturn:
    """Raises what a child of `serve` answered instead of a result; `who` names the child and its task."""
    if kind == "refused":
        raise BabelclipError(content)
    if kind == "lacks":
        raise MissingExtraError(content)
    raise RuntimeError(f"{who} failed:\n{content}")


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
