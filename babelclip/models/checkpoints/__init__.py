"""Published checkpoint layouts, one reader each; `load` recognises the layout from the files, never from the name.

A reader is a module of this package with `NAME`, `recognises(folder)`, `wanted(names, towers)` (which files of a hub
repository a load reads) and `load(folder, towers)`. To add a family, add its reader to `READERS` and a card.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelclip import registry
from babelclip.errors import BabelclipError, did_you_mean
from babelclip.storage import is_url, present, shadow

if TYPE_CHECKING:
    import torch

    from babelclip.models.clip import Clip

# The first that recognises a folder reads it: layouts with a file of their own come before those told by config.json.
READERS = (
    "native",
    "sentence_transformers",
    "openclip",
    "mclip",
    "altclip",
    "siglip",
    "metaclip2",
    "clip",
    "mclip_legacy",
    "transformer",
    "openai",
)
TOWERS = ("both", "text", "image")


def load(
    name_or_dir: str | Path,
    towers: str = "both",
    dtype: str = "auto",
    device: str | torch.device | None = None,
    *,
    space: str | None = None,
    compile: bool = False,
    progress: bool = True,
) -> Clip:
    """Returns the model in a folder, or of a repository on the hub, ready to encode.

    A published text tower without pictures (M-CLIP) is completed with its published picture tower when it is given by
    name. A folder is taken as it is; `pair` joins the towers of two.

    Args:
        name_or_dir: a folder, which never needs the network; one in object storage (`s3://…`); a name that `babelclip
            models` lists; or any hub repository "organisation/name", with "@revision" where another than the card's or
            `main` is wanted.
        towers: "both", "text" or "image"; the absent tower is neither fetched, read nor built. A model that has only
            one gives that one for "both".
        dtype: "auto" is bfloat16 where the device has the instructions and vectors keep a cosine of 0.9999 to float32,
            else float32. "float32", "bfloat16", "float16", or "int8" (text tower, CPU; a quarter of the memory).
            Vectors come out as float32 in any case; `clip.fidelity` says what a lower precision cost.
        device: where the towers go; None takes CUDA where it is available, else the CPU (int8: always the CPU).
        space: the embedding space of a folder that does not state it, for example of an own student.
        compile: compile the backbones by torch.compile at their first pass, which takes a minute and pays on a GPU.
        progress: show a bar while files are fetched.

    Example:
        >>> import babelclip
        >>> clip = babelclip.load("demo/student")  # doctest: +SKIP

    Raises:
        BabelclipError: the folder is missing or of no known layout, a file is damaged, a tensor is missing, unused
            or of another shape, the hub cannot be reached, or an argument has a value that is not listed above.
    """
    from babelclip.models.precision import DTYPES, set_precision
    from babelclip.models.quantize import is_quantized

    for value, allowed, argument in ((towers, TOWERS, "towers"), (dtype, DTYPES, "dtype")):
        if value not in allowed:
            raise BabelclipError(f"{argument}={value!r} is not known. {did_you_mean(value, allowed)}")
    if is_url(name_or_dir):
        clip = _from_storage(name_or_dir, towers, space=space)
    elif str(name_or_dir) and Path(name_or_dir).is_dir():
        clip = _from_folder(Path(name_or_dir), towers, space=space)
    elif Path(name_or_dir).is_file():
        raise _no_folder(name_or_dir)
    else:
        clip = _from_name(str(name_or_dir), towers, space=space, progress=progress)
    import torch

    from babelclip.models.encoding import checked_device

    int8 = dtype == "int8" or (clip.text is not None and is_quantized(clip.text))
    place = checked_device(device or ("cuda" if torch.cuda.is_available() and not int8 else "cpu"))
    clip = set_precision(clip, dtype, place)
    for tower in (clip.text, clip.image) if compile else ():
        if tower is not None:
            tower.backbone.compile(dynamic=True)  # in place: names of weights stay, and so does saving
    return clip


def reader_of(folder: Path) -> Any:
    """Returns the module that reads the checkpoint in `folder`.

    Raises:
        BabelclipError: no layout fits; it says what the folder holds.
    """
    for name in READERS:
        reader = import_module(f"{__name__}.{name}")
        if reader.recognises(folder):
            return reader
    from babelclip.models.checkpoints.unreadable import explain_unreadable

    raise BabelclipError(explain_unreadable(folder))


def _from_folder(folder: Path, towers: str, *, hub_name: str = "", space: str | None = None, **settings: Any) -> Clip:
    from babelclip.models.checkpoints.identity import name_and_space

    reader = reader_of(folder)
    clip: Clip = reader.load(folder, towers, **settings)
    return name_and_space(clip, folder, layout=reader.NAME, hub_name=hub_name, space=space)


def _no_folder(file: str | Path) -> BabelclipError:
    return BabelclipError(
        f"{file} is a file, and a model is a folder: weights with their config and tokenizer. Give the folder that it "
        "lies in; where that holds several models, put this one into a folder of its own."
    )


def _from_storage(url: str | Path, towers: str, *, space: str | None) -> Clip:
    """Returns the model in a folder of object storage, of which only the files that it needs are fetched."""
    folder = shadow(url)
    if folder.is_file():
        raise _no_folder(url)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for name in reader_of(folder).wanted(names, towers):
        present(folder / name)
    return _from_folder(folder, towers, space=space)


def _from_name(name: str, towers: str, *, space: str | None, progress: bool) -> Clip:
    """Returns a model of the hub; the card of a published one knows its repository and the picture tower it lacks."""
    card = _card(name)
    if card is None:
        return _from_hub(_plausible(name), towers, space=space, progress=progress)[0]
    twin = _card(card.image_twin) if card.towers == "text" and card.image_twin else None
    if twin is None or towers == "text":
        return _from_hub(_pinned(card, name), towers, layout=card.layout, space=space, progress=progress)[0]
    from babelclip.models.clip import pair

    image, unreachable = _from_hub(_pinned(twin), "image", layout=twin.layout, space=None, progress=progress)
    if towers == "image":
        return image
    text, _ = _from_hub(
        _pinned(card, name), "text", layout=card.layout, space=space, progress=progress, unreachable=unreachable
    )
    return pair(text, image)


def _card(name: str) -> registry.ModelCard | None:
    card = registry.find(name.partition("@")[0])
    if card is not None and not card.loadable:
        raise BabelclipError(f"{card.name} cannot be loaded: {card.notes[0]} See `babelclip models {card.name}`.")
    return card


def _pinned(card: registry.ModelCard, name: str = "") -> str:
    """Returns the card's repository at the revision that `name` asks for, else at the card's."""
    return f"{card.repo}@{name.partition('@')[2] or card.revision}".rstrip("@")


def _from_hub(
    name: str, towers: str, *, layout: str = "", space: str | None, progress: bool, unreachable: str = ""
) -> tuple[Clip, str]:
    """Returns a model of one hub repository, and why the hub did not answer, "" where it did.

    Args:
        name: "organisation/name", with "@revision" or without.
        towers: see `load`.
        layout: what the card says; without one the small files tell it.
        space: see `load`.
        progress: see `load`.
        unreachable: what an earlier repository of the same load found; the hub is not waited for twice.
    """
    from babelclip.models.checkpoints.files import tokenizer_files
    from babelclip.models.checkpoints.hub.repository import open_repository
    from babelclip.models.checkpoints.openclip_tokenizer import TokenizerNeededError

    repository = open_repository(name, progress=progress, unreachable=unreachable)
    small_files = repository.small_files()
    reader = import_module(f"{__name__}.{layout}") if layout else reader_of(small_files)
    folder = repository.download(reader.wanted(repository.names, towers))
    try:
        clip = _from_folder(folder, towers, hub_name=repository.name, space=space)
    except TokenizerNeededError as error:
        other = open_repository(error.repository, progress=progress, unreachable=repository.unreachable)
        place = other.download(tokenizer_files.wanted(other.names))
        clip = _from_folder(folder, towers, hub_name=repository.name, space=space, tokenizer_folder=place)
    clip.revision = repository.commit
    return clip, repository.unreachable


def _plausible(name: str) -> str:
    """Returns `name` if it can be a hub repository.

    Raises:
        BabelclipError: it cannot; the published models of similar names are listed.
    """
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    near = registry.closest_names(name)
    raise BabelclipError(
        f"{name or 'An empty name'} is no folder and no published model. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "Give the folder of a saved model, a name that `babelclip models` lists, or a hub repository as "
        "'organisation/name'."
    )
