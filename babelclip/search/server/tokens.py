"""Keys of the service: made here, kept hashed, compared in constant time; and addresses and cursors that it signs.

A key file has one line a key: `NAME SCOPES SHA256`, scopes joined by commas (read, write, metrics, admin). A key is 32
random bytes, so a plain hash keeps it: there is nothing to guess. The file is read again when it changes, which is how
keys are added, rotated and withdrawn. Entry points: `KeyFile`, `make_key`, `Signer`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.files import atomic_path

SCOPES = ("read", "write", "metrics", "admin")


@dataclass(frozen=True)
class Key:
    """A known key: its name, what it may do, and its hash."""

    name: str
    scopes: frozenset[str]
    digest: str


def make_key(path: Path | str, name: str, scopes: tuple[str, ...] = ("read",)) -> str:
    """Adds a key to the file and returns it; only its hash is kept, so this is the one time it can be seen.

    Raises:
        BabelclipError: the name is taken or not plain, or a scope is unknown.
    """
    file = Path(path)
    known = _read(file) if file.exists() else []
    if not name.replace("-", "").replace("_", "").isalnum() or any(key.name == name for key in known):
        raise BabelclipError(
            f"{name!r} cannot name a new key in {file}: a name is letters, digits, - and _, and each is used once. "
            "Take another, or remove the old line to rotate it."
        )
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise BabelclipError(f"{sorted(unknown)} are no scopes; allowed are {', '.join(SCOPES)}. Name one or more.")
    token = secrets.token_urlsafe(32)
    line = f"{name} {','.join(scopes)} {_digest(token)}\n"
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    with atomic_path(file) as part:
        part.touch(0o600)
        part.write_text(before + line, encoding="utf-8")
    return token


class KeyFile:
    """The keys of a file, read again when the file changes."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int] | None = None
        self._keys: list[Key] = []
        self.find("")

    def find(self, token: str) -> Key | None:
        """Returns the key that `token` is, None where it is none of them.

        Raises:
            BabelclipError: a line of the file is not a key.
        """
        facts = self._path.stat()
        if (facts.st_mtime_ns, facts.st_size) != self._stamp:
            self._keys = _read(self._path)
            self._stamp = (facts.st_mtime_ns, facts.st_size)
        digest = _digest(token)
        # All of them are compared, so that the time tells nothing of which one came near.
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


_DIGEST = re.compile(r"[0-9a-f]{64}")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(path: Path) -> list[Key]:
    keys = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        scopes = frozenset(parts[1].split(",")) if len(parts) == 3 else frozenset()
        if len(parts) != 3 or not scopes <= set(SCOPES) or not _DIGEST.fullmatch(parts[2]):
            raise BabelclipError(
                f"Line {number} of the key file {path.name} is not `NAME SCOPES SHA256`. "
                "Make keys with babelclip serve --make-key, and remove lines to withdraw them."
            )
        keys.append(Key(parts[0], scopes, parts[2]))
    return keys


class Signer:
    """Signs what the service gives out and takes back: cursors, uploads, addresses of pictures."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def seal(self, purpose: str, content: dict[str, Any]) -> str:
        """Returns content as text that only this service can have made."""
        text = base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")
        return f"{text}.{self.mark(purpose, text)}"

    def unseal(self, purpose: str, sealed: str) -> dict[str, Any] | None:
        """Returns what `seal` was given for the same purpose, None where the text is not ours."""
        if not sealed.isascii():
            return None
        text, _, mark = sealed.rpartition(".")
        if not text or not hmac.compare_digest(mark.encode(), self.mark(purpose, text).encode()):
            return None
        content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return content

    def address(self, path: str, seconds: float = 3600.0) -> str:
        """Returns `path` with a signature that opens it for some time: an <img> cannot send a key.

        It is called `sig`, a name that OpenTelemetry and proxies know to leave out of what they write down.
        """
        # Rounded up to quarters of an hour, so that the browser's cache meets the same address again.
        expires = int((time.time() + seconds) // 900 + 1) * 900
        return f"{path}?sig={expires}.{self.mark('address', f'{path} {expires}')}"

    def opens(self, path: str, signature: str) -> bool:
        """Returns whether `signature` opens `path` now."""
        expires, _, mark = signature.partition(".")
        if not expires.isascii() or not expires.isdigit() or len(expires) > 12 or int(expires) < time.time():
            return False
        return hmac.compare_digest(mark.encode(), self.mark("address", f"{path} {expires}").encode())

    def mark(self, purpose: str, text: str) -> str:
        """Returns what only this service can write under a text, for this purpose."""
        digest = hmac.new(self._secret, f"{purpose}\n{text}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:18]).decode()
