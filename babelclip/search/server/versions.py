"""Which version of a collection is read: the newest, looked for beside the answers, with a copy in memory.

Requests never wait for the look while others come often enough: they read what was found last. A version that has just
been found is read from the collection until its copy is made. Older versions are kept for those who scroll in them,
without copies. Of a collection whose engine keeps no versions the collection itself is read, never a copy: nothing
would tell when that is out of date.

Entry point: `Versions`.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable

from babelclip.search.collection import Collection, UnsupportedError, snapshot_of
from babelclip.search.memory import MemoryCollection
from babelclip.search.server.problems import log

_KEPT = 8
# A version may be so many times older than the operator's seconds before a request waits for the look at newer ones.
_PATIENCE = 5
# Numbers (rows x dimension) from which copying and comparing take longer than a request may wait.
QUICK = 2_000_000
# Where a collection changes all the time, copies are made in at most this share of it.
_COPYING = 0.1

# Makes the copy of a version; None where it is not to be had. Asks the second argument now and then whether to go on.
Copy = Callable[[Collection, Callable[[], bool]], MemoryCollection | None]
# Seconds that closing waits for a copy that is being given up.
_GIVING_UP = 30.0


class Versions:
    """The versions of one collection, for any number of threads.

    Attributes:
        collection: that is looked at.
    """

    def __init__(self, collection: Collection, seconds: float, copy: Copy) -> None:
        """Takes the newest version.

        Args:
            collection: any.
            seconds: after which somebody looks for a newer version.
            copy: makes a version's copy in memory.
        """
        self.collection = collection
        self._seconds, self._copy = seconds, copy
        self._lock = threading.Lock()
        self._looking = self._closed = False
        self._copying: threading.Thread | None = None
        self._tried, self._not_before = -1, 0.0
        self._older: collections.OrderedDict[int, Collection] = collections.OrderedDict()
        # Versions are read as snapshots, so that nothing changes under a request that is being answered.
        self._now, self._lasting = collection, True
        try:
            self._now = snapshot_of(collection)
        except UnsupportedError:
            self._lasting = False
            log.info("%s keeps no versions, so it is not copied into memory", collection.name)
        self._looked = time.monotonic()
        self._make_copy()

    def ready(self) -> Collection | None:
        """Returns the version to read, without waiting; None where the last look was too long ago."""
        age = time.monotonic() - self._looked
        if age > self._seconds:
            if age > _PATIENCE * self._seconds:
                return None
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look_beside, name="versions", daemon=True).start()
        return self._now

    def current(self) -> Collection:
        """Returns the collection as it is now, or was some seconds ago."""
        ready = self.ready()
        if ready is None:
            with self._lock:
                if self.ready() is None:
                    self._look()
                ready = self._now
        return ready

    def at(self, version: int) -> Collection:
        """Returns the collection at a version, so that scrolling stays whole while rows come and go.

        Raises:
            BabelclipError: the version is not kept any more.
        """
        now = self.current()
        if version == now.version():
            return now
        with self._lock:
            kept = self._older.get(version)
            if kept is None:
                kept = self.collection.at(version)
            self._keep(kept)
            return kept

    def state(self, collection: Collection) -> tuple[int, float]:
        """Returns what is another one where rows may be: the version, and without versions when they were looked at."""
        return collection.version(), 0.0 if self._lasting else self._looked

    def expire(self) -> None:
        """Has the next reader look: the collection was changed. Older versions may be gone."""
        with self._lock:
            self._looked = float("-inf")
            self._older.clear()

    def close(self) -> None:
        """Closes the collection and its snapshots."""
        self._closed = True
        if self._copying is not None:
            self._copying.join(_GIVING_UP)
        with self._lock:
            for snapshot in (*self._older.values(), self._now, self.collection):
                snapshot.close()

    def _look_beside(self) -> None:
        try:
            with self._lock:
                if not self._closed:
                    self._look()
        except Exception as error:  # requests go on with what there is; one that has to wait for a look tells why
            log.warning("%s: its newest version cannot be read: %s", self.collection.name, error)
        finally:
            self._looking = False

    def _look(self) -> None:
        self.collection.refresh()
        old = self._now.base if isinstance(self._now, MemoryCollection) else self._now
        if self._lasting and (self.collection.version(), _facts(self.collection)) != (old.version(), _facts(old)):
            self._keep(old)
            self._now, self._tried = snapshot_of(self.collection), -1
        self._looked = time.monotonic()
        self._make_copy()

    def _keep(self, snapshot: Collection) -> None:
        """Keeps a version for those who scroll in it. Left ones are not closed: somebody may still read them."""
        self._older[snapshot.version()] = snapshot
        self._older.move_to_end(snapshot.version())
        while len(self._older) > _KEPT:
            self._older.popitem(last=False)

    def _make_copy(self) -> None:
        """Puts a copy in the place of the version that is read: now where that is quick, else when it is made."""
        snapshot = self._now
        if (
            not self._lasting
            or self._copying is not None
            or self._closed
            or snapshot.version() == self._tried
            or time.monotonic() < self._not_before
        ):
            return
        self._tried = snapshot.version()
        if snapshot.count() * snapshot.fingerprint.dim <= QUICK:
            self._now = self._copied(snapshot)
            return
        self._copying = threading.Thread(target=self._copy_beside, args=(snapshot,), name="copies", daemon=True)
        self._copying.start()

    def _copied(self, snapshot: Collection) -> Collection:
        start = time.monotonic()
        copy = None
        try:
            copy = self._copy(snapshot, lambda: not self._closed)
        except Exception as error:  # the collection itself answers
            log.warning("%s: no copy in memory: %s", self.collection.name, error)
        end = time.monotonic()
        self._not_before = end + (end - start) / _COPYING
        return copy or snapshot

    def _copy_beside(self, snapshot: Collection) -> None:
        copy = self._copied(snapshot)
        with self._lock:
            self._copying = None
            if self._now is snapshot:
                self._now = copy


def _facts(collection: Collection) -> tuple[object, ...]:
    """Returns what is noted beside the rows, and changes without a new version of these."""
    return dict(collection.roots), collection.fact("index_report")
