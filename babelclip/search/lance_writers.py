"""Who writes into the folder of a collection: many may at once; files of no version are removed by one alone.

A writer that is killed leaves files behind that belong to no version, and they may hold rows that are deleted later.
To an engine they look like those of a writer that is about to finish, so it keeps them for days. Here every writer
holds a shared mark; whoever finds nobody else's mark, and no run that indexes, knows that such files are garbage.
Elsewhere than in a folder (`s3://`) nobody can know it. Entry point: `writing`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from babelclip.files import LockedError
from babelclip.search.index_state import state_folder, take_lock
from babelclip.storage import is_url

_MARK = "writing"


@contextlib.contextmanager
def writing(url: str, *, alone: bool = False) -> Iterator[bool]:
    """Holds the mark of a writer while the block runs.

    Args:
        url: of the collection.
        alone: try to be the only writer; others wait then until the block is over.

    Yields:
        Whether nobody else writes now. Always false without `alone`, and where it cannot be known.
    """
    if is_url(url) or sys.platform == "win32":
        yield False
        return
    import fcntl

    place = state_folder(url)
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        file = held.enter_context((place / _MARK).open("a", encoding="utf-8"))
        if alone:
            try:
                held.callback(take_lock(url))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (LockedError, BlockingIOError):
                alone = False
        if not alone:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield alone
