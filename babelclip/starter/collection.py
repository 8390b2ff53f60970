"""The starter's pictures as a collection, so that there is something to search and serve at once.

Entry point: `index_stamps`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from babelclip.data.captions import Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.search.index import IndexingReport, index_pictures
from babelclip.starter.debian import find_folder
from babelclip.starter.tuxpaint import STAMPS, read_stamps


def index_stamps(clip: Clip, out: Path | str, *, progress: bool = False) -> IndexingReport:
    """Returns what was done to make a collection of the captioned Tux Paint pictures, with their English captions.

    Args:
        clip: encodes the pictures.
        out: the collection, NAME.lance; the table of captions is written beside it. Run again, only what is new is
            encoded.
        progress: show bars on stderr.

    Raises:
        BabelclipError: the pictures are neither on this machine nor can be fetched, or the model has no picture tower.
    """
    place = find_folder(STAMPS).folder
    if place is None:
        raise BabelclipError(
            f"The pictures of the Debian package {STAMPS.package} are not here, and could not be fetched by apt-get. "
            "Install the package, or index pictures of your own: babelclip index PICTURES --out photos.lance"
        )
    stamps = read_stamps(place)
    english = stamps.table.filter(pc.equal(stamps.table["lang"], "en"))
    images = [str(Path(image).relative_to(place)) for image in english["image"].to_pylist()]
    table = Path(out).with_suffix(".captions.parquet")
    table.parent.mkdir(parents=True, exist_ok=True)
    # Neither mirrored copies nor coins and letters: a table names what is wanted of the folder.
    captions = Captions.from_columns(
        text=english["text"].to_pylist(), lang=english["lang"].to_pylist(), id=english["id"].to_pylist(), image=images
    )
    write_captions(captions, table)
    return index_pictures(clip, [table], out, image_root=place, progress=progress)
