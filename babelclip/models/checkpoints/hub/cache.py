"""The hub's cache folder as it lies on disk, and the lists of files that babelclip keeps beside it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.files import cache_folder, read_json, write_json
from babelclip.models.checkpoints.hub.transfer import RemoteFile

COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_cache() -> Path:
    """Returns the hub's cache folder, by HF_HUB_CACHE or HF_HOME as they are now."""
    from huggingface_hub import constants

    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(constants.HF_HUB_CACHE)


def storage(name: str) -> Path:
    """Returns the folder of a repository in the cache: its blobs, refs and snapshots."""
    return hub_cache() / f"models--{name.replace('/', '--')}"


def _list_path(name: str, commit: str) -> Path:
    return cache_folder() / "hub" / storage(name).name / f"{commit}.json"


def keep(name: str, revision: str, commit: str, files: dict[str, RemoteFile]) -> None:
    """Remembers which commit a revision is, as the hub's cache does, and what its files are."""
    with contextlib.suppress(OSError):  # a shortcut for the next load: nothing depends on it
        if kept_list(name, commit) is None:
            write_json(_list_path(name, commit), {file.name: [file.size, file.etag] for file in files.values()})
        if revision != commit:
            ref = storage(name) / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit, encoding="utf-8")


def kept_commit(name: str, revision: str) -> str | None:
    """Returns the commit that a branch or tag was when the hub was last asked, or None."""
    path = storage(name) / "refs" / revision
    content = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return content if COMMIT.fullmatch(content) else None


def kept_list(name: str, commit: str) -> dict[str, RemoteFile] | None:
    """Returns the files of a commit as the hub listed them once, or None."""
    path = _list_path(name, commit)
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        return {file: RemoteFile(file, size, etag) for file, (size, etag) in content.items()}
    except (BabelclipError, AttributeError, TypeError, ValueError):
        return None  # damaged: as if it were not there


def files_in(folder: Path) -> dict[str, RemoteFile]:
    """Returns the files that another tool put into the cache; their content is that of the cache, not checked again."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        name: RemoteFile(name, path.stat().st_size, "0" * 40)
        for path in paths
        if (name := path.relative_to(folder).as_posix())
    }
