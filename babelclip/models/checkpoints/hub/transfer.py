"""One file from the hub into its cache: resumable, checked by its hash, and complete or absent.

The hub's own `hf_hub_download` deletes what it got when it is interrupted (huggingface_hub 2.4), so Ctrl-C at 2.1 of
2.2 GB would mean to start again. What came is kept here as `blobs/<etag>.incomplete`, the name that huggingface_hub 1.x
uses and resumes too; the finished file is the cache's ordinary `blobs/<etag>`, which every other tool of the hub reads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.files import sha256, sync

logger = logging.getLogger(__name__)

# Seconds without a byte after which a connection counts as lost.
STALL = 4.0
# Seconds to wait before going on after a loss; a connection that brings nothing in all of these tries is given up.
WAITS = (1.0, 2.0, 4.0)
ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit.

    Attributes:
        name: its path in the repository, with "/".
        size: bytes.
        etag: what the cache calls its content: the SHA-256 of a large file, the git blob id (SHA-1) of a small one.
    """

    name: str
    size: int
    etag: str

    def __post_init__(self) -> None:
        """Refuses what would leave the cache folder: names and etags become paths, and they come from a server.

        Raises:
            BabelclipError: the name is no plain relative path, or the etag is no hash.
        """
        plain = isinstance(self.name, str) and self.name.isprintable() and not re.search(r"\\|^[A-Za-z]:", self.name)
        if not plain or not all(part not in ("", ".", "..") for part in self.name.split("/")):
            raise BabelclipError(
                f"the server lists a file named {self.name!r}, which is no plain path inside the repository. Nothing "
                "was fetched: do not trust this server or repository, and check HF_ENDPOINT."
            )
        if not isinstance(self.etag, str) or not ETAG.fullmatch(self.etag) or not isinstance(self.size, int):
            raise BabelclipError(
                f"the server lists {self.name} with size {self.size!r} and hash {self.etag!r}; a size in bytes and a "
                "SHA-1 or SHA-256 are needed to fetch and check it. Check HF_ENDPOINT."
            )


def transport_errors() -> tuple[type[Exception], ...]:
    """Returns what a request raises when no answer comes (no network, no server, silence, a cut connection)."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The HTTP library is httpx under huggingface_hub 1.x and httpx2 under 2.x; its base error is the first base here.
    return (HfHubHTTPError.__bases__[0], OfflineModeIsEnabled, ConnectionError, TimeoutError)


def partial_path(blob: Path) -> Path:
    """Returns where the bytes of an unfinished `blob` are kept."""
    return blob.with_name(f"{blob.name}.incomplete")


def size_of(path: Path) -> int:
    """Returns the bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def fetch_blob(url: str, file: RemoteFile, blob: Path, *, advance: Callable[[int], None]) -> None:
    """Writes the content of `file` to `blob`, going on from the bytes of an earlier try.

    A connection that was lost after it brought something is taken up again, with a logged warning each time.

    Args:
        url: where the file is at its commit.
        file: its size and hash, which the content must have.
        blob: the path in the cache; it appears only when the content is complete and its hash is right.
        advance: called with the number of bytes that came.

    Raises:
        BabelclipError: the content is longer than listed, or its hash is another.
        OSError: the disk is full or not writable, or the server refuses (`HfHubHTTPError`).
        Exception: one of `transport_errors` when no answer comes; what came stays for the next try.
    """
    partial = partial_path(blob)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if size_of(partial) > file.size:
        partial.unlink()
    idle, begun = 0, False
    while not partial.is_file() or size_of(partial) < file.size:
        before = size_of(partial)
        loss: Exception = ConnectionError("the server ended the transfer early")
        try:
            _stream(url, file, partial, advance)
        except transport_errors() as error:
            if getattr(error, "response", None) is not None:
                raise  # an answer, and it is a refusal
            loss = error
        came = size_of(partial) - before
        begun, idle = begun or came > 0, 0 if came > 0 else idle + 1
        if size_of(partial) >= file.size:
            break
        if not begun or idle >= len(WAITS):
            raise loss
        logger.warning(
            "%s: connection lost at %.0f of %.0f MB (%s); going on from there",
            file.name, size_of(partial) / 1e6, file.size / 1e6, type(loss).__name__,
        )  # fmt: skip
        time.sleep(WAITS[idle])
    _check(partial, file)
    sync(partial)
    os.replace(partial, blob)


def _stream(url: str, file: RemoteFile, partial: Path, advance: Callable[[int], None]) -> None:
    """Appends to `partial` what the server sends from its end on."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    done = size_of(partial)
    # Compressed bytes could be neither counted nor resumed.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with (
        partial.open("ab", buffering=0) as out,
        get_session().stream("GET", url, headers=headers, timeout=STALL) as response,
    ):
        hf_raise_for_status(response)
        if done and response.status_code != 206:  # the server does not resume: it sends the whole file
            out.truncate(0)
            done = 0
        for block in response.iter_bytes():
            done += len(block)
            if done > file.size:
                out.truncate(0)
                raise BabelclipError(
                    f"{file.name} is longer than the {file.size:,} bytes that the server lists for it. What came was "
                    "dropped: try again later, and check HF_ENDPOINT if it happens again."
                )
            out.write(block)
            advance(len(block))


def _check(partial: Path, file: RemoteFile) -> None:
    """Deletes `partial` and raises unless its hash is the listed one."""
    if len(file.etag) == 64:
        found = sha256(partial)
    else:
        # How git names a small file; it tells damage, and no more is asked of it: large ones have SHA-256.
        blob = b"blob %d\0" % file.size + partial.read_bytes()
        found = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    if found != file.etag:
        partial.unlink()
        raise BabelclipError(
            f"{file.name} came with hash {found} where the server lists {file.etag}: it was damaged on the way. "
            "What came was dropped: run the same command again."
        )
