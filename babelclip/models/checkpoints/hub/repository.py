"""Models of the hub: one commit, only the files that a load needs, and a quick answer when there is no network.

    repository = open_repository("org/name")            # or "org/name@revision": asks once which commit, which files
    folder = repository.small_files()                   # the JSON configs, by which a layout is recognised
    folder = repository.download(reader.wanted(repository.names, towers))
    repository.commit                                   # belongs to every result

Everything comes from the commit that was resolved first, so an upload in between cannot mix two versions. Files lie in
the hub's ordinary cache, shared with every other tool. The list of a commit's files is kept too: with it a revision
given as a full commit id needs no network at all, and an incomplete copy is told from a complete one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub.answers import ask, endpoint, offline, refusal, silence
from babelclip.models.checkpoints.hub.cache import COMMIT, files_in, hub_cache, keep, kept_commit, kept_list, storage
from babelclip.models.checkpoints.hub.transfer import RemoteFile, fetch_blob, partial_path, size_of, transport_errors
from babelclip.progress import progress_bar

logger = logging.getLogger(__name__)

# A layout is recognised from small JSON files; those of tokenizers are larger, and a picture tower needs none.
SMALL = 1 << 20
NOT_CONFIGS = ("tokenizer.json", "vocab.json", "added_tokens.json")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".pkl")


@dataclass(frozen=True)
class Repository:
    """A model repository at one commit.

    Attributes:
        name: "organisation/name".
        revision: what was asked for: "main", another branch, a tag or a commit.
        commit: the full commit id that every file comes from.
        files: name -> file. Where the hub could not be asked, those that the cache has.
        listed: whether `files` is the hub's own list, and so complete.
        unreachable: why the hub is not to be asked for files, as a clause; "" where it may be asked.
        progress: whether downloads show a bar.
    """

    name: str
    revision: str
    commit: str
    files: dict[str, RemoteFile]
    listed: bool = True
    unreachable: str = ""
    progress: bool = True

    @property
    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted(self.files)

    @property
    def folder(self) -> Path:
        """Where this commit's files lie in the cache."""
        return storage(self.name) / "snapshots" / self.commit

    def small_files(self) -> Path:
        """Fetches the JSON configs, never weights or vocabularies, and returns the folder."""
        self._get(
            name
            for name, file in self.files.items()
            if name.endswith(".json") and file.size <= SMALL and name.rsplit("/", 1)[-1] not in NOT_CONFIGS
        )
        return self.folder

    def download(self, names: Iterable[str]) -> Path:
        """Fetches those of the files `names` that the cache lacks, and returns the folder.

        Ctrl-C or a lost connection leaves what came; the next call goes on from there.

        Raises:
            BabelclipError: the repository has no such file, the hub does not answer or refuses, or the disk is full.
        """
        names = sorted(set(names))
        if not self.listed and not any(name.endswith(WEIGHT_SUFFIXES) for name in names):
            raise self._incomplete(names, self.unreachable)
        self._get(names)
        return self.folder

    def _get(self, wanted: Iterable[str]) -> None:
        names = list(wanted)
        unknown = [name for name in names if name not in self.files]
        if unknown and self.listed:
            raise BabelclipError(
                f"{self.name} at {self.commit} has no file {', '.join(unknown)}; it has {', '.join(self.names[:12])}. "
                "Give another revision, or the folder of a saved model."
            )
        missing = [self.files[name] for name in names if name in self.files and not self._has(self.files[name])]
        if not missing and not unknown:
            return
        unreachable = self.unreachable or (silence(None) if offline() else "")
        if unreachable:
            raise self._incomplete(names, unreachable)
        left = sum(file.size - size_of(partial_path(self._blob(file))) for file in missing)
        with self._clear_errors(names, left):
            self._check_space(left)
            shown = self.progress and left > SMALL
            with progress_bar(self.name, -(-left // 10**6), shown=shown, unit="MB") as advance:
                count = _in_megabytes(advance)
                for file in missing:
                    self._fetch(file, count)

    def _blob(self, file: RemoteFile) -> Path:
        return storage(self.name) / "blobs" / file.etag

    def _has(self, file: RemoteFile) -> bool:
        path = self.folder / file.name
        return path.is_file() and path.stat().st_size == file.size

    def _fetch(self, file: RemoteFile, advance: Callable[[int], None]) -> None:
        """Puts one file into the cache; another process that wants the same file waits for this one."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        blob, pointer = self._blob(file), self.folder / file.name
        lock = hub_cache() / ".locks" / storage(self.name).name / f"{file.etag}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not blob.is_file() or size_of(blob) != file.size:
                url = hf_hub_url(self.name, file.name, revision=self.commit, endpoint=endpoint())
                fetch_blob(url, file, blob, advance=advance)
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:  # a file system without links: the snapshot holds the file itself
                os.replace(blob, pointer)

    def _check_space(self, left: int) -> None:
        folder = storage(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < left:
            raise BabelclipError(
                f"{self.name} needs {left / 1e6:,.0f} MB more and {hub_cache()} has {free / 1e6:,.0f} MB free. Make "
                "room, or set HF_HOME to a folder on a larger disk."
            )

    @contextlib.contextmanager
    def _clear_errors(self, names: list[str], left: int) -> Iterator[None]:
        """Turns what goes wrong in a download into one BabelclipError."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except HfHubHTTPError as error:
            raise refusal(self.name, self.commit, error) from error
        except transport_errors() as error:
            raise self._incomplete(names, silence(error)) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BabelclipError(
                    f"the disk of {hub_cache()} is full; {self.name} needs {left / 1e6:,.0f} MB. Make room, or set "
                    "HF_HOME to a folder on a larger disk, and run the same command again: it goes on from there."
                ) from error
            raise BabelclipError(
                f"{self.name} cannot be kept in {hub_cache()} ({error}). Set HF_HOME to a folder that you may write."
            ) from error

    def _incomplete(self, names: list[str], reason: str) -> BabelclipError:
        """The error that says what is missing, how much is there, and the command that fetches the rest."""
        files = [self.files[name] for name in names if name in self.files]
        missing = [name for name in names if name not in self.files or not self._has(self.files[name])]
        there = sum(file.size if self._has(file) else size_of(partial_path(self._blob(file))) for file in files)
        lacks = f"it lacks {', '.join(missing[:6])}{', …' if len(missing) > 6 else ''}" if missing else "no weights"
        share = f"{there / 1e6:,.1f} of {sum(file.size for file in files) / 1e6:,.1f} MB are there"
        if not self.listed:
            share = f"{len(self.files)} files are there"
        command = _command(self.name, self.commit, missing if self.listed else [])
        return BabelclipError(
            f"{self.name} is not complete in the cache {hub_cache()} ({lacks}; {share}), and "
            f"{reason}. With a network, fetch the rest once: {command}. Or give the folder of a saved model."
        )


def open_repository(
    name: str, revision: str | None = None, *, progress: bool = True, unreachable: str = ""
) -> Repository:
    """Returns a model repository at one commit; the network is asked once, or not at all.

    It is not asked where the revision is a full commit id whose files are known already, or with HF_HUB_OFFLINE=1.
    Where it is asked and does not answer, the copy in the cache serves, with a logged warning.

    Args:
        name: "organisation/name" or "organisation/name@revision".
        revision: a branch, tag or commit; None means that of `name`, else "main".
        progress: whether downloads show a bar (on a terminal).
        unreachable: that of another repository of the same load: a hub that was silent is not waited for twice.

    Raises:
        BabelclipError: the name is malformed, the hub has no such repository or revision or refuses it, or it does not
            answer (within 5 seconds) and the cache has no copy.
    """
    name, revision = _parse(name, revision)
    pinned = COMMIT.fullmatch(revision) is not None
    if pinned and (known := kept_list(name, revision)) is not None:
        return Repository(name, revision, revision, known, progress=progress)
    cause: Exception | None = None
    if not offline() and not unreachable:
        try:
            commit, files = ask(name, revision)
            keep(name, revision, commit, files)
            return Repository(name, revision, commit, files, progress=progress)
        except transport_errors() as error:
            cause = error
    reason = unreachable or silence(cause)
    cached = revision if pinned else kept_commit(name, revision)
    folder = storage(name) / "snapshots" / (cached or "none")
    if cached is None or not folder.is_dir():
        begun = any(storage(name).glob("blobs/*"))
        raise BabelclipError(
            f"{name} (revision {revision}) is not in the cache {hub_cache()}{', only parts of it' if begun else ''}, "
            f"and {reason}. With a network, fetch it once: {_command(name, revision, [])}. "
            "Or give the folder of a saved model."
        ) from cause
    if cause is not None:
        logger.warning("%s: %s; taking the copy in the cache, commit %s", name, reason, cached)
    known = kept_list(name, cached)
    found = files_in(folder) if known is None else known
    return Repository(name, revision, cached, found, known is not None, unreachable=reason, progress=progress)


def _parse(name: str, revision: str | None) -> tuple[str, str]:
    """Returns repository and revision of "organisation/name[@revision]"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    repository, at, own = name.partition("@")
    if at and revision not in (None, own):
        raise BabelclipError(f"{name} names revision {own!r}, and revision={revision!r} was given. Give one of them.")
    revision = own if at else (revision or "main")
    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise BabelclipError(
            f"{name!r} is no folder and no name of a hub repository. Give the folder of a saved model, or "
            "'organisation/name' with letters, digits, '-', '_' and '.', and '@revision' behind it if you like."
        )
    if not re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", revision) or ".." in revision:
        raise BabelclipError(
            f"revision {revision!r} of {repository} is no branch, tag or commit id. Leave it out for main."
        )
    return repository, revision


def _command(name: str, revision: str, files: list[str]) -> str:
    """The shell command that fetches what is missing."""
    return " ".join(["hf download", name, *files, "--revision", revision])


def _in_megabytes(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Returns a counter of bytes that moves a bar of megabytes."""
    left = 0

    def count(n: int) -> None:
        nonlocal left
        whole, left = divmod(left + n, 10**6)
        if whole:
            advance(whole)

    return count
