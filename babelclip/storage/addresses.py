"""What is an address of object storage, also after it went through `Path`, and which one a file of the cache has."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

from babelclip.files import cache_folder

# Of pyarrow's file systems those that are not this machine's disk.
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
# `Path("s3://bucket/x")` is "s3:/bucket/x": one slash is enough, so that options and arguments of any type will do.
_URL = re.compile(rf"({'|'.join(_SCHEMES)}):/+(.*)", re.DOTALL)
_FILE = re.compile(r"file:/+(?=/|[^/])")
# What the cache holds, and the file of a writer's part that tells the address.
KINDS = ("objects", "work")
ADDRESS = ".address"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def url_of(path: Path | str) -> str | None:
    """Returns the address that `path` is, without a slash at its end; None where it is a path of this machine.

    Example:
        >>> from pathlib import Path
        >>> url_of("s3://bucket/photos/"), url_of(Path("s3://bucket/photos")), url_of("photos")
        ('s3://bucket/photos', 's3://bucket/photos', None)
    """
    match = _URL.match(str(path))
    return f"{match[1]}://{match[2].rstrip('/')}" if match else None


def is_url(path: Path | str) -> bool:
    """Returns whether `path` is an address of object storage."""
    return url_of(path) is not None


def plain(path: Path | str) -> Path:
    """Returns a path of this machine, which may be given as `file:///folder`."""
    text = str(path)
    return Path(_FILE.sub("/", text, count=1)) if text.startswith("file:/") else Path(path)


def joined(path: Path | str, name: str) -> str:
    """Returns the address, or the path, of `name` below `path`."""
    url = url_of(path)
    return str(Path(path) / name) if url is None else f"{url}/{name}"


def name_of(path: Path | str) -> str:
    """Returns the last part of an address or a path."""
    url = url_of(path)
    return Path(path).name if url is None else url.rpartition("/")[2]


def address(path: Path | str) -> str:
    """Returns where `path` comes from: the address of what lies in the cache for one, else the path itself."""
    found = origin_of(path)
    return found if found is not None else str(path)


def origin_of(path: Path | str) -> str | None:
    """Returns the address of which `path` is the copy in the cache; None of any other path.

    What readers share is named so that every machine knows it by its name alone.
    """
    text = os.fspath(path)
    base = f"{_cache(KINDS[0])}{os.sep}"
    if text.startswith(base):
        storage, _, name = text[len(base) :].replace(os.sep, "/").partition("/")
        scheme = storage.partition("-")[0]
        return f"{scheme}://{name}" if scheme in _SCHEMES and name else None
    base = f"{_cache(KINDS[1])}{os.sep}"
    if text.startswith(base):
        place, _, name = text[len(base) :].replace(os.sep, "/").partition("/")
        parent = _parent_address(f"{base}{place}")
        return f"{parent}{name}" if parent and name else None
    return None


def with_addresses(text: str) -> str:
    """Returns a message in which files of the cache are called by their addresses."""
    objects, work = (f"{_cache(kind)}{os.sep}" for kind in KINDS)
    if objects in text:
        text = re.sub(rf"{re.escape(objects)}({'|'.join(_SCHEMES)})(-[0-9a-f]+)?{re.escape(os.sep)}", r"\1://", text)
    if work in text:
        pattern = rf"({re.escape(work)}[0-9a-f]+){re.escape(os.sep)}"
        text = re.sub(pattern, lambda match: _parent_address(match[1]) or match[0], text)
    return text


def place_of(url: str, kind: str) -> tuple[Path, str]:
    """Returns the folder of the cache below which an address has its name, made where there is none, and the name."""
    parent, name = parent_and_name(url)
    root = cache_folder().resolve() / kind
    if kind == KINDS[0]:
        # Readers of a folder and of a part of it share what was fetched.
        scheme, _, below = parent.partition("://")
        place = root / f"{scheme}{_endpoint()}" / below
        place.mkdir(parents=True, exist_ok=True)
        return place, name
    place = root / hashlib.sha256(f"{_endpoint()}{parent}".encode()).hexdigest()[:20]
    if not (place / ADDRESS).exists():
        place.mkdir(parents=True, exist_ok=True)
        temporary = place / f"{ADDRESS}.{os.getpid()}.part"
        temporary.write_text(parent, encoding="utf-8")
        os.replace(temporary, place / ADDRESS)
    return place, name


def _endpoint() -> str:
    """Returns what tells a storage of one's own from the one that the scheme means by itself: "-" and 8 digits."""
    given = next((value for name in _ENDPOINTS if (value := os.environ.get(name))), "")
    return f"-{hashlib.sha256(given.encode()).hexdigest()[:8]}" if given else ""


def parent_and_name(url: str) -> tuple[str, str]:
    """Returns ("s3://bucket/a/", "b") of "s3://bucket/a/b", and ("s3://", "bucket") of a bucket."""
    parent, _, name = url.rpartition("/")
    return f"{parent}/", name


def _cache(kind: str) -> str:
    return os.path.join(os.fspath(cache_folder().resolve()), kind)


@functools.lru_cache(maxsize=256)
def _parent_address(place: str) -> str:
    try:
        return Path(place, ADDRESS).read_text(encoding="utf-8")
    except OSError:
        return ""
