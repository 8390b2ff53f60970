"""Collections in Milvus."""

from __future__ import annotations

from collections.abc import Mapping

from babelclip.search.collection import Collection, ImageSpace, UnsupportedError


def open_milvus(url: str, *, write: bool = False) -> Collection:
    """Returns the collection at `url`."""
    raise UnsupportedError(f"{url}: not yet, {write}")


def create_milvus(url: str, fingerprint: ImageSpace, own: Mapping[str, str], roots: Mapping[str, str]) -> Collection:
    """Returns a new collection at `url`."""
    raise UnsupportedError(f"{url}: not yet, {fingerprint}, {own}, {roots}")
