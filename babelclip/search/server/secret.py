"""The secret that replicas of one service share: a cursor, an upload or an address of one is good at the others.

Entry point: `shared_secret`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.files import sync

# Characters; 32 random bytes in hexadecimal digits are 64.
_SHORTEST = 32


def shared_secret(path: Path | str) -> bytes:
    """Returns the secret that a file holds; where there is no file, one is made, which only this user may read.

    Replicas that start at once on one file system find the same secret: the file appears whole, and once.

    Raises:
        BabelclipError: the file is too short to be a secret, or cannot be read or made.
    """
    file = Path(path)
    try:
        if not file.exists():
            _make(file)
        secret = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BabelclipError(
            f"The secret {file} cannot be read or made: {error.strerror}. "
            "Name a file in a folder that this user may write in, or one that is there already."
        ) from error
    if len(secret) < _SHORTEST:
        raise BabelclipError(
            f"The secret {file} has {len(secret)} characters; it must have {_SHORTEST} or more. "
            "Remove the file, and the service makes one."
        )
    return secret.encode()


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        part.touch(0o600)
        part.write_text(secrets.token_hex(32) + "\n", encoding="utf-8")
        sync(part)
        # Unlike a replacement, a link fails where another replica was first.
        with contextlib.suppress(FileExistsError):
            os.link(part, file)
    finally:
        part.unlink(missing_ok=True)
