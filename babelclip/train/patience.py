"""Work that one process of a run does while others wait for it, however long it takes.

A collective operation gives up after `train.timeout`, which is short so that a lost machine is noticed. Vectors of a
locked tower may take hours, and a checkpoint to a slow disk minutes: who works tells the others through the store of
the process group that it lives, and they wait as long as it does. Entry points: `worked`, `finished`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch import distributed as dist

from babelclip.errors import BabelclipError

# Signs of life in the time after which a process counts as lost.
_SIGNS = 6
_SHORTEST, _LONGEST = 0.01, 0.5


class LostProcessError(BabelclipError):
    """Another process of the run ended or fell silent."""


@contextlib.contextmanager
def worked(key: str, timeout: float) -> Iterator[None]:
    """Tells those who wait for `key` that this process lives, as long as the block runs, and then that it is done.

    Args:
        key: a name that no other piece of work of this process group has.
        timeout: seconds of silence after which the others give up.
    """
    # A connection of its own: the thread must not wait while the block uses that of the process group.
    store, over = _connection(timeout), threading.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):
            # Where the store is gone, the others know by themselves.
            while not over.wait(timeout / _SIGNS):
                store.add(f"{key}/alive", 1)

    teller = threading.Thread(target=tell, name="alive", daemon=True)
    teller.start()
    ended = b"failed"
    try:
        yield
        ended = b"done"
    finally:
        over.set()
        teller.join()
        with contextlib.suppress(RuntimeError):
            store.set(f"{key}/ended", ended)


def finished(key: str, timeout: float) -> bool:
    """Waits for the process that does the work of `key`; returns whether it did it well.

    Raises:
        LostProcessError: nothing was heard of it, or of the store, for `timeout` seconds.
    """
    pause, signs, heard = _SHORTEST, -1, time.monotonic()
    try:
        store = _connection(timeout)
        while not store.check([f"{key}/ended"]):
            now = store.add(f"{key}/alive", 0)
            if now != signs:
                signs, heard = now, time.monotonic()
            elif time.monotonic() - heard > timeout:
                raise LostProcessError(
                    f"Nothing was heard for {timeout:g} seconds (train.timeout) of the process that was to do the work "
                    "which the others of this run wait for. Read its own output, then start all of them again with "
                    "--resume."
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
        return bytes(store.get(f"{key}/ended")) == b"done"
    except RuntimeError as error:
        raise LostProcessError(
            f"The process that joins the others of this run is gone ({str(error).splitlines()[0]}). Read why in the "
            "output of rank 0 and of its torchrun, then start all of them again with --resume."
        ) from error


def _connection(timeout: float) -> Any:
    world = dist.group.WORLD
    if world is None:
        raise RuntimeError("there is no process group")
    store: Any = world.get_group_store()
    store = store.clone()
    store.set_timeout(timedelta(seconds=timeout))
    return store
