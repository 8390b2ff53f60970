"""`list_pictures`: the pictures of a folder. Opening and preparing them is `babelclip.models.preprocess`."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from babelclip import storage
from babelclip.errors import BabelclipError

_log = logging.getLogger(__name__)

# Pillow names these formats but holds no decoder for them, except EPS, for which it starts Ghostscript: a program
# run on a file that was merely found in a folder.
_WITHOUT_DECODER = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Returns the file name endings, in lower case and with the dot, of the formats that Pillow decodes here."""
    from PIL import Image

    formats = Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in _WITHOUT_DECODER)


def list_pictures(folder: Path | str) -> list[Path]:
    """Returns the paths of all pictures in `folder` and below, sorted; by their names alone, so some may not decode.

    Hidden files and folders (names that begin with a dot) are left out; links to folders are not followed.

    Args:
        folder: where to look; it may be hidden itself.

    Raises:
        BabelclipError: the folder is missing, is a file, or has no pictures.
    """
    folder = storage.shadow(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BabelclipError(f"{folder} {what}, and pictures are read from a folder: give a folder that has pictures.")
    pictures = []
    for here, folders, files in os.walk(folder, onerror=report_left_out):
        folders[:] = [name for name in folders if not name.startswith(".")]
        pictures += [
            Path(here, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in picture_suffixes()
        ]
    if not pictures:
        raise BabelclipError(
            f"{folder} holds no pictures. Pictures are files ending in "
            f"{', '.join(s for s in ('.jpg', '.png', '.webp', '.gif') if s in picture_suffixes())} or "
            "another format of Pillow, and not hidden: give a folder that has some."
        )
    return sorted(pictures)


def report_left_out(error: OSError) -> None:
    """Logs which folder could not be looked into; for `os.walk`, which passes over it in silence otherwise."""
    _log.warning("%s was left out: %s", error.filename, error.strerror)
