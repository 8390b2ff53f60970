"""Published checkpoint layouts, one reader each; `load` recognises the layout from the files, never from the name."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.models.checkpoints import native
from babelclip.models.clip import Clip

TOWERS = ("both", "text", "image")
DTYPES = {
    # The fastest dtype is not chosen yet: "auto" is exact (see docs/architecture.md).
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(
    name_or_dir: str | Path,
    towers: str = "both",
    dtype: str = "auto",
    device: str | torch.device | None = None,
) -> Clip:
    """Returns the model in a folder, or of a repository on the hub, ready to encode.

    Args:
        name_or_dir: a folder, which never needs the network, or a hub repository "organisation/name".
        towers: "both", "text" or "image"; the absent tower is neither read nor built.
        dtype: "float32" (which "auto" means), "bfloat16" or "float16"; vectors come out as float32 in any case.
        device: where the towers go; None takes CUDA where it is available, else the CPU.

    Example:
        >>> import babelclip
        >>> clip = babelclip.load("demo/student")  # doctest: +SKIP

    Raises:
        BabelclipError: the folder is missing or of no known layout, a file is damaged, a tensor is missing, unused
            or of another shape, or an argument has a value that is not listed above.
    """
    for value, allowed, argument in ((towers, TOWERS, "towers"), (dtype, tuple(DTYPES), "dtype")):
        if value not in allowed:
            raise BabelclipError(f"{argument}={value!r} is not known. {did_you_mean(value, allowed)}")
    folder = _folder_of(name_or_dir)
    if not native.recognises(folder):
        found = ", ".join(sorted(item.name for item in folder.iterdir())[:8]) or "nothing"
        raise BabelclipError(
            f"{folder} is no checkpoint that babelclip reads: it holds {found}. A model folder has a config.json with "
            '"format": "babelclip"; make one with `babelclip starter --out DIR` or `Clip.save`.'
        )
    clip = native.load(folder, towers)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for tower in (clip.text, clip.image):
        if tower is not None:
            tower.to(device=place, dtype=DTYPES[dtype]).eval()
    return clip


def _folder_of(name_or_dir: str | Path) -> Path:
    """Returns the folder of a model, fetching a hub repository into the cache where it is not there yet."""
    path = Path(name_or_dir)
    if path.is_dir():
        return path
    name = str(name_or_dir)
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise BabelclipError(
            f"{name_or_dir} is no folder. Give the folder of a saved model, or a hub repository as 'organisation/name'."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(native.FILES), local_files_only=offline, etag_timeout=4)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BabelclipError(
            f"{name} is neither a folder here nor to be had from the hub ({type(error).__name__}). With a network, "
            f"fetch it once: hf download {name}. Or give the folder of a saved model."
        ) from error
