"""One question to the hub, which commit and which files, and every way in which it can fail to answer."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.hub.cache import COMMIT
from babelclip.models.checkpoints.hub.transfer import RemoteFile

# Seconds for the question which commit and which files: below the 5 s in which a load without network must end.
DEADLINE = 4.0
# What stands between says so by these: a login is wanted, or nobody is there.
_OF_PROXIES = (407, 502, 503, 504)


def offline() -> bool:
    """Returns whether the user forbids the network, by the environment as it is now."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "TRUE", "YES", "ON")


def endpoint() -> str:
    """Returns the hub's address: HF_ENDPOINT as it is now, else the library's own.

    Raises:
        BabelclipError: HF_ENDPOINT is no http address.
    """
    from huggingface_hub import constants

    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise BabelclipError(
            f"HF_ENDPOINT is {endpoint!r}; it must be an address like https://host. Correct or unset it."
        )
    return endpoint


def shown_endpoint() -> str:
    """Returns the hub's address for messages: without a name and password that stand in it."""
    parts = urlsplit(endpoint())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def ask(name: str, revision: str) -> tuple[str, dict[str, RemoteFile]]:
    """Returns commit and files of a revision, from one request that is answered within DEADLINE or not at all.

    Raises:
        BabelclipError: the hub refuses, or the answer is none of a hub.
        Exception: one of `transport_errors` when no answer comes.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=endpoint())
    try:
        info = _within(DEADLINE, lambda: api.model_info(name, revision=revision, files_metadata=True, timeout=DEADLINE))
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            raise ConnectionError(f"it answers {error.response.status_code}") from error
        raise refusal(name, revision, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_hub(name, error) from error
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise _no_hub(name, ValueError(f"commit {info.sha!r}"))
    try:
        files = [
            RemoteFile(item.rfilename, item.lfs.size, item.lfs.sha256)
            if item.lfs is not None
            else RemoteFile(item.rfilename, item.size or 0, item.blob_id or "")
            for item in info.siblings or ()
        ]
    except BabelclipError as error:
        raise BabelclipError(f"{name}: {error}") from error
    return info.sha, {file.name: file for file in files}


def knock(seconds: float = 5.0) -> str:
    """Returns "" where the hub answers at all, else why not, as a clause; takes so many seconds at most.

    Raises:
        BabelclipError: HF_ENDPOINT is no http address.
    """
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    address = endpoint()
    try:
        answer = _within(seconds, lambda: get_session().head(address, timeout=seconds))
        if answer.status_code in _OF_PROXIES:
            raise ConnectionError(f"it answers {answer.status_code}")
    except Exception as error:  # any failure is the answer to the question
        return silence(error)
    return ""


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """Returns what `work` returns; its own timeouts do not cover the name server, so it gets a thread and a clock.

    Raises:
        TimeoutError: it took longer; the thread is left to end by itself.
        Exception: what `work` raises.
    """
    results: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((work(), None))
        except Exception as error:  # handed to the caller's thread
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result


def refusal(name: str, revision: str, error: Any) -> BabelclipError:
    """The error for an answer of the hub that is a no."""
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code if error.response is not None else 0
    if isinstance(error, GatedRepoError) or status == 403:
        reason = (
            f"{name} is gated: its owners ask to accept their terms on its page, {shown_endpoint()}/{name}. Accept "
            "them, log in with `hf auth login` or set HF_TOKEN, and try again."
        )
    elif isinstance(error, RevisionNotFoundError):
        reason = f"{name} has no revision {revision!r}. Give one of its branches, tags or commits, or none for main."
    elif isinstance(error, RepositoryNotFoundError):
        reason = (
            f"{name} is not on the hub, or it is private and you are not logged in. Check the spelling "
            "(`babelclip models` lists known ones), or log in with `hf auth login` or HF_TOKEN."
        )
    elif isinstance(error, DisabledRepoError):
        reason = f"{name} was disabled by the hub. Ask its owners, or give the folder of a saved copy."
    elif status == 401:
        reason = f"the hub refuses your token for {name}. Renew it with `hf auth login`, or set or unset HF_TOKEN."
    elif status == 429:
        reason = f"the hub answers 'too many requests' for {name}. Wait, or log in with `hf auth login`."
    else:
        reason = f"the hub answers {status} for {name} (revision {revision}). Try again later, or check HF_ENDPOINT."
    return BabelclipError(reason)


def _no_hub(name: str, error: Exception) -> BabelclipError:
    return BabelclipError(
        f"{shown_endpoint()} answers for {name} with something that is no model listing of a hub "
        f"({type(error).__name__}: {str(error)[:80]}). Check HF_ENDPOINT, and whether a login page is in between."
    )


def silence(cause: Exception | None) -> str:
    """Returns why nothing can be fetched, as a clause; without a cause it is the user's own setting."""
    if cause is None or type(cause).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE forbids to ask the hub"
    detail = str(cause).splitlines()[0][:100] if str(cause) else ""
    return f"the hub at {shown_endpoint()} does not answer ({type(cause).__name__}{': ' if detail else ''}{detail})"
