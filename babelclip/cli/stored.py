"""`stored`: arguments of a verb that may be addresses of object storage become paths of this machine, and back.

A verb is written for folders on disk. Where one of its arguments is `s3://…`, it gets a folder of the cache instead:
with the names that lie there and contents that come when read, or one that is published while the verb runs and at its
end (`babelclip.storage`). What it prints names addresses, not the cache. Without an address nothing is done or loaded.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from babelclip.errors import BabelclipError
from babelclip.storage.addresses import is_url, url_of, with_addresses

V = TypeVar("V", bound=Callable[..., Any])


def stored(
    *,
    reads: Collection[str] = (),
    whole: Collection[str] = (),
    folders: Collection[str] = (),
    files: Collection[str] = (),
    launched: Collection[str] = (),
) -> Callable[[V], V]:
    """Returns what makes a verb take addresses.

    Args:
        reads: arguments whose contents are fetched as they are read: captions, pictures.
        whole: arguments that are fetched at once: recipes, results, vectors of other tools.
        folders: folders that the verb writes.
        files: files that the verb writes.
        launched: values of the argument `launcher` with which many processes write the folders, each by itself: then
            these stay addresses.
    """

    def wrap(verb: V) -> V:
        @functools.wraps(verb)
        def run(**given: Any) -> Any:
            if not any(_has_address(given.get(name)) for name in (*reads, *whole, *folders, *files)):
                return verb(**given)
            with contextlib.ExitStack() as stack:
                stack.enter_context(_named_by_addresses())
                for name in (*reads, *whole):
                    given[name] = _mapped(given.get(name), functools.partial(_fetched, everything=name in whole))
                for name in folders if given.get("launcher") not in launched else ():
                    given[name] = _mapped(given.get(name), functools.partial(_published, stack))
                for name in files:
                    given[name] = _mapped(given.get(name), functools.partial(_uploaded, stack))
                return verb(**given)

        return run  # type: ignore[return-value]

    return wrap


def _has_address(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(item, (str, Path)) and is_url(item) for item in values)


def _mapped(value: Any, change: Callable[[str], Path]) -> Any:
    """Returns an argument with its addresses changed, of the type that it had."""
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    if isinstance(value, (str, Path)) and is_url(value):
        return type(value)(change(str(url_of(value))))
    return value


def _fetched(url: str, *, everything: bool) -> Path:
    from babelclip.storage import shadow

    return shadow(url, everything=everything)


def _published(stack: contextlib.ExitStack, url: str) -> Path:
    import os

    if url.endswith(".json"):  # one file of results
        return _uploaded(stack, url)

    from babelclip.storage import output

    # Of the processes that torchrun starts the first one writes.
    return stack.enter_context(output(url, leads=os.environ.get("RANK", "0") == "0"))


def _uploaded(stack: contextlib.ExitStack, url: str) -> Path:
    from babelclip.storage import upload
    from babelclip.storage.addresses import place_of

    place, name = place_of(url, "work")
    file = place / name
    file.unlink(missing_ok=True)

    def send(kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None and file.exists():
            upload(file, url)

    stack.push(send)
    return file


@contextlib.contextmanager
def _named_by_addresses() -> Iterator[None]:
    """Lets what is printed, and what is raised, name addresses where it names files of the cache."""
    with (
        contextlib.redirect_stdout(_Named(sys.stdout)),  # type: ignore[type-var]
        contextlib.redirect_stderr(_Named(sys.stderr)),  # type: ignore[type-var]
    ):
        try:
            yield
        except BabelclipError as error:
            error.args = (with_addresses(str(error)),)
            raise


class _Named:
    """A stream that writes with addresses and is else the one it stands for."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes `text`, and returns its length."""
        self._stream.write(with_addresses(text) if isinstance(text, str) else text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
