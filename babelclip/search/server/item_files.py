"""Pictures on the service's disk: opened by the id of a row only, below the folders of the collection only (S4).

Entry point: `read_picture_file`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from babelclip.search.server.problems import Problem

_ABSENT = "The picture's file is not here."


def read_picture_file(roots: Mapping[str, str], source: str | None, path: str | None, limit: int) -> bytes:
    """Returns the bytes of the file that a row names.

    Rows are as trustworthy as whoever made the collection: a path that leaves its root, by dots or by a symbolic link,
    is refused, and so is anything that is not a plain file.

    Args:
        roots: source -> folder.
        source: of the row.
        path: of the row, relative to the folder; `a.tar::member` inside a tar.
        limit: bytes.

    Raises:
        Problem: 404, whatever the reason: the answer does not tell what lies elsewhere.
    """
    from babelclip.models.tar_pictures import member_size, read_member

    root = roots.get(source or "")
    if not root or not path or "\0" in path:
        raise Problem(404, "not_found", _ABSENT)
    outer, _, member = path.partition("::")
    base = os.path.realpath(root)
    place = os.path.realpath(os.path.join(base, outer))
    if os.path.isabs(outer) or os.path.commonpath([base, place]) != base or not os.path.isfile(place):
        raise Problem(404, "not_found", _ABSENT)
    try:
        if member:
            if member_size(Path(place), member) > limit:
                raise Problem(404, "not_found", _ABSENT)
            return read_member(Path(place), member)
        # Opened without following a link that was put there since realpath looked.
        descriptor = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
            content = file.read(limit + 1)
    except (OSError, KeyError) as error:
        raise Problem(404, "not_found", _ABSENT) from error
    if len(content) > limit:
        raise Problem(404, "not_found", _ABSENT)
    return content
