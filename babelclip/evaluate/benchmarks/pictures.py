"""Where the pictures of a benchmark lie: found by the names that its files give them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from babelclip.data.images import list_pictures, picture_suffixes
from babelclip.errors import BabelclipError

# The pictures of COCO have one name in the release of 2014 and another in that of 2017.
_COCO = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(\.\w+)?")
_COCO_PREFIXES = ("", "COCO_val2014_", "COCO_train2014_")


class PictureFinder:
    """Finds pictures below some folders, by path or by name alone, with or without ending.

    The folders are walked at the first name that is not in its place.
    """

    def __init__(self, folders: Sequence[Path], *, anywhere: bool = False) -> None:
        """Takes the folders to look in; `anywhere` allows names that are absolute or lead out of them."""
        self._folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._anywhere = anywhere

    def find(self, name: str) -> Path | str | None:
        """Returns the picture that a benchmark calls `name`, None where it is not there.

        A member of a tar (`shard.tar::1.jpg`) is taken as it is where the tar exists.

        Raises:
            BabelclipError: several files are called so.
        """
        tar, mark, inside = name.partition(".tar::")
        plain = f"{tar}.tar" if mark else name
        pure = PurePosixPath(plain.replace("\\", "/"))
        if not plain or "\0" in plain or (not self._anywhere and (pure.is_absolute() or ".." in pure.parts)):
            return None
        for folder in self._folders or [Path()] * self._anywhere:
            path = folder / plain
            if os.path.isfile(path) and (mark or path.suffix.lower() in picture_suffixes()):
                return f"{path}::{inside}" if mark else path
        return None if mark else self._by_name(pure)

    def _by_name(self, wanted: PurePosixPath) -> Path | None:
        for name in _other_names(wanted.name):
            found = self._index.get(name, [])
            if len(found) > 1:
                parents = wanted.parts[-2:-1]
                found = [path for path in found if path.parts[-2:-1] == parents] or found
            if len(found) > 1 and len({path.resolve() for path in found}) > 1:
                raise BabelclipError(
                    f"{wanted} may be {found[0]} or {found[1]}. One picture of each name is needed: give the folder of "
                    "the right ones with ,images=DIR."
                )
            if found:
                return found[0]
        return None

    @functools.cached_property
    def _index(self) -> dict[str, list[Path]]:
        """File name, and the name without ending, -> paths."""
        index: dict[str, list[Path]] = {}
        seen = set()
        for folder in self._folders:
            for path in pictures_below(folder):
                if path not in seen:
                    seen.add(path)
                    index.setdefault(path.name, []).append(path)
                    index.setdefault(path.stem, []).append(path)
        return index


def pictures_below(folder: Path) -> list[Path]:
    """Returns the pictures below a folder, and below the folders that it has as links: sets share their pictures.

    Hidden ones are left out; a folder without pictures gives none.
    """
    places = [folder, *sorted(item for depth in ("*", "*/*") for item in folder.glob(depth) if _is_linked(item))]
    found: list[Path] = []
    for place in places:
        try:
            found += list_pictures(place)
        except BabelclipError:
            continue  # a folder without pictures: what is not there is counted by who asks
    return found


def _is_linked(item: Path) -> bool:
    return item.is_symlink() and item.is_dir()


def _other_names(name: str) -> list[str]:
    match = _COCO.fullmatch(name)
    if not match:
        return [name]
    number, ending = match.group(1), match.group(2) or ""
    return list(dict.fromkeys([name, *(f"{prefix}{number}{ending}" for prefix in _COCO_PREFIXES)]))
