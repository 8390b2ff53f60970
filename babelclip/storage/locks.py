"""The right to write below an address: one process of any machine at a time.

S3 cannot lock. But a listing shows every object whose writing has ended, so this is enough: each candidate writes an
object of its own into `<address>/.lock/` and lists the folder. Who finds itself alone holds the lock; who finds others
takes its object away. Of two that begin at once, the later listing sees both objects, so never do both hold it.

The holder writes its object again every twenty seconds. One that was not for two minutes, by the storage's own clock,
or whose process is gone from this machine, was killed, and is taken away by the next candidate. A holder that was
frozen for so long finds its object gone before it publishes (`Lock.check`), and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import threading
import time
import uuid

from babelclip.errors import BabelclipError
from babelclip.files import LockedError
from babelclip.storage.addresses import joined
from babelclip.storage.objects import Entry, delete, entry_of, exists, list_files, read_bytes, write_bytes

FOLDER = ".lock"
_BEAT, _DEAD = 20.0, 120.0
_TRIES = 4


class Lock:
    """A held lock; `release` gives it back. Made by `lock`."""

    def __init__(self, url: str, beat: float = _BEAT) -> None:
        self.url = url
        self.object = joined(joined(url, FOLDER), f"{uuid.uuid4().hex}.json")
        self._holder = json.dumps({"host": platform.node(), "pid": os.getpid()}).encode()
        self._ended = threading.Event()
        self._beat = beat
        self._thread = threading.Thread(target=self._keep, name="babelclip-lock", daemon=True)
        write_bytes(self.object, self._holder)

    def keep(self) -> None:
        """Begins to renew the lock."""
        self._thread.start()

    def check(self) -> None:
        """Does nothing while the lock is held.

        Raises:
            BabelclipError: it was lost, since this process was stopped for too long.
        """
        if self._ended.is_set() or not exists(self.object):
            raise BabelclipError(
                f"{self.url} was taken over by another writer: this one gave no sign of life for {_DEAD:.0f} s. "
                "Nothing was overwritten. Run it again, which goes on where that one stopped."
            )

    def release(self) -> None:
        """Gives the lock back; again does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        with contextlib.suppress(BabelclipError, OSError):  # it ends by itself after a while
            delete(self.object)

    def _keep(self) -> None:
        while not self._ended.wait(self._beat):
            with contextlib.suppress(BabelclipError, OSError):  # a storage that is away for a moment
                if exists(self.object) and not self._ended.is_set():
                    write_bytes(self.object, self._holder)


def lock(url: str) -> Lock:
    """Returns the held lock of an address.

    Raises:
        BabelclipError: another process holds it, which is named; or the storage cannot be written.
    """
    try:
        return take(url)
    except LockedError as error:
        raise BabelclipError(
            f"{url} is being written by process {error.holder}. It takes one writer at a time: wait for it, or stop "
            f"it; after a kill on another machine the lock ends by itself within {_DEAD:.0f} s."
        ) from error


def take(url: str) -> Lock:
    """Does what `lock` does, for those who can wait.

    Raises:
        LockedError: another process holds it; says which.
        BabelclipError: the storage cannot be written.
    """
    for attempt in range(_TRIES):
        mine = Lock(url)
        try:
            living = _others(mine)
        except BaseException:
            mine.release()
            raise
        if not living:
            mine.keep()
            return mine
        holder = _holder(living[0])
        mine.release()
        if attempt + 1 < _TRIES:
            time.sleep(random.uniform(0.05, 0.3))  # of two that began at once, one is to win
    raise LockedError(holder)


def _others(mine: Lock) -> list[Entry]:
    """Returns the living candidates beside `mine`, and takes the dead ones away."""
    own = entry_of(mine.object)
    others = [other for other in list_files(joined(mine.url, FOLDER)) if other.url != mine.object]
    dead = [other for other in others if _is_dead(other, own)]
    for other in dead:
        delete(other.url)
    return [other for other in others if other not in dead]


def _holder(entry: Entry) -> str:
    facts = _facts(entry)
    this = " (this process: another writer)" if _is_here(facts) and facts.get("pid") == os.getpid() else ""
    return f"{facts.get('pid', '?')} of {facts.get('host', 'an unknown machine')}{this}"


def _is_dead(other: Entry, own: Entry) -> bool:
    """Returns whether the writer of `other` lives no more; `own` was written just now, by the same clock."""
    if own.modified - other.modified > _DEAD * 1e9:
        return True
    facts = _facts(other)
    if not _is_here(facts):
        return False
    try:
        os.kill(int(str(facts.get("pid"))), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _is_here(facts: dict[str, object]) -> bool:
    return facts.get("host") == platform.node()


def _facts(entry: Entry) -> dict[str, object]:
    try:
        facts = json.loads(read_bytes(entry.url))
    except (FileNotFoundError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
