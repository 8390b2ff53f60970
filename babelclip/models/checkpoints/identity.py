"""Which published model a loaded folder is, and the id of its embedding space.

Most published files do not say which space they belong to. The card of the model does; a folder that no card fits gets
an id of its own, made from the bytes of its weights, so that two unknown models are never taken for one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from babelclip import registry
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.checkpoints.files.tensors import weight_files
from babelclip.models.clip import Clip
from babelclip.storage import present

# 64 samples of 64 kB: 4 MB read of 2 GB, and any training step changes every one of them.
_SAMPLES = 64
_SAMPLE_BYTES = 1 << 16
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".h5")


def name_and_space(clip: Clip, folder: Path, *, layout: str, hub_name: str = "", space: str | None = None) -> Clip:
    """Completes a freshly read model, in place, with what its files do not say, and returns it.

    A card fits where the hub name or the folder's name is that of its repository and layout and
    dimensions agree. It gives space, name, languages, licence, and the logit scale of a text tower alone.

    Args:
        clip: as a reader returned it; an empty `space` or `name` was not in the files.
        folder: where it was read from.
        layout: NAME of the reader.
        hub_name: the repository, where it came from the hub.
        space: what the caller declares the space to be.

    Raises:
        SpaceMismatchError: the files state another space than the caller.
        BabelclipError: the card is of another layout, because a file of the model is absent.
    """
    if clip.space and space is not None and clip.space != space:
        raise SpaceMismatchError(given=space, expected=clip.space, what=f"The space= given and {folder}")
    # What the config calls `_name_or_path` is no hint: a fine-tuned copy still names the model it came from.
    hints = [hub_name] if hub_name else [folder.name, str(folder.resolve())]
    card = registry.identify(hints, layout=layout, embed_dim=clip.embed_dim)
    if card is not None and hub_name and card.repo != hub_name:
        card = None  # another's repository of the same short name
    if card is None:
        _refuse_headless(hints, layout, folder)
    else:
        clip.name = clip.name or card.name
        clip.languages = clip.languages or card.languages
        clip.space = clip.space or space or card.space
        if clip.logit_scale is None and clip.space == card.space:
            clip.logit_scale = card.logit_scale
        if not clip.attribution and card.licence:
            clip.attribution = (f"{card.name}: {card.licence}",)
    clip.name = clip.name or hub_name or folder.resolve().name
    clip.space = clip.space or space or f"unknown/{fingerprint(folder)}"
    return clip


def fingerprint(folder: Path) -> str:
    """Returns 12 hexadecimal digits that stand for the weights in a folder, whichever tower is loaded.

    Samples of each weight file, evenly spread, go into a SHA-256. The same weights in another file form get another
    fingerprint; declare the space where that matters (`load(..., space=...)`).
    """
    digest = hashlib.sha256()
    by_folder: dict[Path, list[str]] = {}
    for name in sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()):
        by_folder.setdefault(Path(name).parent, []).append(Path(name).name)
    for parent, files in sorted(by_folder.items()):
        heads = [name for name in files if name.endswith(".pkl")]
        # OpenAI's and open_clip's files may have any name.
        loose = [name for name in files if name.endswith(_WEIGHT_ENDINGS)] if parent == Path() else []
        for name in sorted({*(weight_files(files) or loose), *heads}):
            path = present(folder / parent / name)
            size = path.stat().st_size
            digest.update(f"{parent / name} {size}".encode())
            with path.open("rb") as file:
                for sample in range(_SAMPLES):
                    file.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def _refuse_headless(hints: list[str], layout: str, folder: Path) -> None:
    """Raises where a published model lacks the head that is distributed apart from it."""
    if layout != "transformer":
        return
    for hint in hints:
        card = registry.find(hint)
        if card is not None and card.layout == "mclip_legacy":
            raise BabelclipError(
                f"{folder} holds the transformer of {card.name} without its linear head, which was published apart "
                'from it, as a file "... Linear Weights.pkl". Put that file into a copy of the folder and load it.'
            )
