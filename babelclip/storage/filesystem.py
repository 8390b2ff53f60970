"""The file system of an address, and what goes wrong with it in words that say what to do."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any

from babelclip.errors import BabelclipError, shown
from babelclip.storage.addresses import url_of

# Seconds to reach an endpoint, and without a byte from it, before it counts as down. The first question to an endpoint
# is asked once; transfers may try again, for a busy server says so.
_CONNECT, _FIRST_ANSWER, _SILENCE = 3.0, 5.0, 30.0
_ATTEMPTS = 4
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
)


def opened(url: str) -> tuple[Any, str]:
    """Returns the `pyarrow.fs.FileSystem` of an address, and the path that it has there ("bucket/name").

    Raises:
        BabelclipError: the address has no bucket or holds a password, the bucket does not exist, or the endpoint does
            not answer.
    """
    scheme, _, path = (url_of(url) or url).partition("://")
    bucket = path.partition("/")[0]
    if not bucket:
        raise BabelclipError(f"{url!r} names no bucket. An address is {scheme}://bucket/name: give it whole.")
    if scheme == "s3" and "@" in bucket:  # not told again: a secret may stand before it
        raise BabelclipError(
            "The s3:// address has a name or a password before its bucket. Keys are read from AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY alone: set these, and give s3://bucket/name."
        )
    if scheme != "s3":
        return _other(f"{scheme}://{bucket}"), path
    settings = tuple(os.environ.get(name, "") for name in _ENVIRONMENT)
    _check_bucket(bucket, settings, os.getpid())
    return _s3(settings, os.getpid(), _SILENCE, _ATTEMPTS), path


def lance_options(url: str) -> dict[str, str]:
    """Returns what Lance's own object store is to be told beside the environment, after a look whether it may list.

    Raises:
        BabelclipError: as `opened`, or the keys are refused.
    """
    system, place = opened(url)
    with reaching(url):
        system.get_file_info(place)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if not url.startswith("s3://") or not endpoint:
        return {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    plain = {"allow_http": "true"} if endpoint.startswith("http://") else {}
    return {"endpoint": endpoint, "region": region, **plain}


@functools.lru_cache(maxsize=16)
def _other(root: str) -> Any:
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(root)[0]
    except Exception as error:  # pyarrow: ArrowException, OSError or ImportError, by the scheme and its library
        raise BabelclipError(
            f"{root} cannot be opened ({shown(error)}). Addresses are those of pyarrow's file systems: check the "
            "credentials of this storage in the environment, or use s3://."
        ) from error


@functools.lru_cache(maxsize=16)
def _s3(settings: tuple[str, ...], _process: int, silence: float, attempts: int) -> Any:
    """Returns a file system; `_process` keeps a forked process from using that of its parent."""
    from pyarrow import fs

    given = dict(zip(_ENVIRONMENT, settings, strict=True))
    region = given["AWS_REGION"] or given["AWS_DEFAULT_REGION"]
    endpoint = given["AWS_ENDPOINT_URL_S3"] or given["AWS_ENDPOINT_URL"]
    options: dict[str, Any] = {"endpoint_override": endpoint} if endpoint else {}
    # A storage of one's own has no regions, and to ask the machine for one takes seconds.
    options |= {"region": region or "us-east-1"} if region or endpoint else {}
    if given["AWS_ACCESS_KEY_ID"]:
        options |= {"access_key": given["AWS_ACCESS_KEY_ID"], "secret_key": given["AWS_SECRET_ACCESS_KEY"]}
        options |= {"session_token": given["AWS_SESSION_TOKEN"]} if given["AWS_SESSION_TOKEN"] else {}
    return fs.S3FileSystem(
        connect_timeout=_CONNECT,
        request_timeout=silence,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,
        **options,
    )


@functools.lru_cache(maxsize=64)
def _check_bucket(bucket: str, settings: tuple[str, ...], process: int) -> None:
    """Asks for the bucket once, with little patience: else a wrong endpoint is found out after minutes of retries."""
    from pyarrow import fs

    with reaching(f"s3://{bucket}"):
        try:
            info = _s3(settings, process, _FIRST_ANSWER, 1).get_file_info(bucket)
        except OSError as error:
            if "ACCESS_DENIED" in str(error):  # who may read objects may not always list the bucket
                return
            raise
        if info.type == fs.FileType.NotFound:
            raise BabelclipError(_no_bucket(bucket))


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns what pyarrow raises about `url` into an error that says what to do; a missing object stays its own kind.

    Raises:
        FileNotFoundError: there is no such object.
        BabelclipError: anything else.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} does not exist. Check the address; names are case-sensitive.") from error
    except BabelclipError:
        raise
    except (OSError, RuntimeError) as error:
        raise BabelclipError(_explained(url, str(error))) from error


def _explained(url: str, told: str) -> str:
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "the endpoint of its region"
    )
    endpoint = re.sub(r"//[^/]*@", "//…@", endpoint)  # without a password that stands in it
    upper = told.upper()
    if "NO_SUCH_BUCKET" in upper:
        return _no_bucket(url.partition("://")[2].partition("/")[0])
    if any(word in upper for word in ("NETWORK_CONNECTION", "RESOLVE HOST", "COULD NOT CONNECT")):
        return (
            f"{url} cannot be reached at {endpoint} ({shown(told.rpartition('Details: ')[2], 120)}). Check that the "
            "storage runs and that AWS_ENDPOINT_URL names it, then run the same again: what was finished is kept."
        )
    if any(word in upper for word in ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "FORBIDDEN", "403", "401")):
        key = os.environ.get("AWS_ACCESS_KEY_ID", "")
        who = f"the key {key[:4]}…" if key else "no AWS_ACCESS_KEY_ID in the environment"
        return (
            f"{url} was refused by {endpoint} for {who}. The key must exist and be allowed to read, list and, for "
            "results, write there: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return f"{url} cannot be read or written ({shown(told, 300)}). Check the address and the rights, and run it again."


def _no_bucket(bucket: str) -> str:
    return (
        f"bucket {bucket!r} does not exist, or not for these credentials. Objects are kept in a bucket that is there: "
        "check its name, AWS_ENDPOINT_URL and AWS_REGION, or make it first."
    )
