"""Writers: one for each layout that other programs read. `TARGETS` lists them; `export_checked` writes and compares.

To add a target, write a module with `export_<target>(clip, folder, *, dtype, towers)`, add it here, and say in
`parity.py` how its own library reads it.
"""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelclip.errors import BabelclipError, did_you_mean
from babelclip.files import folder_beside, replace_folder

if TYPE_CHECKING:
    from babelclip.models.clip import Clip
    from babelclip.models.export.parity import Parity


@dataclass(frozen=True)
class Target:
    """A layout that can be written.

    Attributes:
        module: where its writer lies, in this package; the function is `export_<module>`.
        about: what it is for, in a few words.
        dtypes: how weights can be stored.
        towers: the choices of `towers` that it holds.
        options: keywords of its own.
    """

    module: str
    about: str
    dtypes: tuple[str, ...] = ("float32", "float16")
    towers: tuple[str, ...] = ("both", "text", "image")
    options: tuple[str, ...] = ()


TARGETS = {
    "onnx": Target("onnx", "onnxruntime and others, without torch", ("float32", "float16", "int8")),
    "openvino": Target("openvino", "OpenVINO, without torch", ("float32", "float16", "int8")),
    "sentence-transformers": Target(
        "sentence_transformers", "sentence-transformers, texts and pictures in one model", options=("normalize",)
    ),
    "mclip": Target("mclip", "multilingual-clip, text tower", towers=("both", "text")),
    "openclip": Target("openclip", "open_clip's local-dir:"),
    "altclip": Target("altclip", "transformers' AltCLIPModel and FlagAI", towers=("both",)),
    "diffusers": Target("diffusers", "the text encoder of AltDiffusion", towers=("both", "text"), options=("preset",)),
}


@dataclass(frozen=True)
class Exported:
    """What `export_checked` did.

    Attributes:
        folder: where the files lie; nothing is there where `kept` is false.
        target: name in `TARGETS`.
        dtype: how weights are stored.
        bytes: size of the folder.
        seconds: of writing, and of comparing.
        parity: the comparison of each tower; empty where the target's library is absent and nothing else reads it.
        notes: what the other program does otherwise, as the writer warned.
        kept: false where the comparison failed and `force` was not given.
    """

    folder: Path
    target: str
    dtype: str
    bytes: int
    seconds: tuple[float, float]
    parity: tuple[Parity, ...]
    notes: tuple[str, ...]
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for JSON."""
        content = {**asdict(self), "folder": str(self.folder), "parity": [part.to_dict() for part in self.parity]}
        content["seconds"] = dict(zip(("write", "check"), (round(s, 2) for s in self.seconds), strict=True))
        return content


def target_of(name: str) -> Target:
    """Returns the target of that name.

    Raises:
        BabelclipError: there is none.
    """
    if name not in TARGETS:
        raise BabelclipError(f"There is no export to {name!r}. {did_you_mean(name, TARGETS)}")
    return TARGETS[name]


def export(
    clip: Clip, folder: Path | str, *, to: str, dtype: str = "float32", towers: str = "both", **options: Any
) -> Path:
    """Writes `clip` to `folder` for another program, replacing it whole, and returns the folder.

    Args:
        clip: the model.
        folder: where it goes.
        to: a name in `TARGETS`.
        dtype: how weights are stored, one of the target's `dtypes`.
        towers: "both", "text" or "image", one of the target's `towers`.
        options: the target's own: `normalize` (sentence-transformers), `preset` (diffusers).

    Raises:
        BabelclipError: the target has no such dtype, tower or option, or no place for a part of the model.
        MissingExtraError: the target needs packages that are not installed.
    """
    target = target_of(to)
    for value, allowed, what in (
        (dtype, target.dtypes, "dtype"),
        (towers, target.towers, "towers"),
        *((name, target.options, "option") for name in options),
    ):
        if value not in allowed:
            known = did_you_mean(value, allowed) if allowed else "It has none."
            raise BabelclipError(f"Export to {to} has no {what} {value!r}. {known}")
    from babelclip.models.quantize import is_quantized

    if clip.text is not None and towers != "image" and is_quantized(clip.text):
        raise BabelclipError(
            f"{clip.name or 'This model'} was loaded in int8, and {to} starts from float weights. Load the model that "
            'it was made from with dtype="float32"; where the target has int8 of its own, ask for --dtype int8.'
        )
    _refuse_rounded(clip, towers, dtype)
    write = getattr(import_module(f"{__name__}.{target.module}"), f"export_{target.module}")
    if to not in ("altclip", "diffusers"):
        return Path(write(clip, folder, dtype=dtype, towers=towers, **options))
    clip = _stored_as(clip, dtype)
    if to == "altclip":
        return Path(write(clip, folder))
    if clip.text is None or not options.get("preset"):
        raise BabelclipError(
            "Export to diffusers takes a text tower and the rule that it is to compute: "
            "preset='altdiffusion-m9' (--preset altdiffusion-m9) or 'altdiffusion-m18'."
        )
    return Path(write(clip.text, folder, preset=options["preset"]))


def export_checked(
    clip: Clip,
    folder: Path | str,
    *,
    to: str,
    dtype: str = "float32",
    towers: str = "both",
    force: bool = False,
    **options: Any,
) -> Exported:
    """Writes as `export` does, compares the files with the model, and keeps them only if they agree.

    The files lie in a folder beside `folder` until the comparison is over, so a failed export leaves an older folder
    as it was. Bounds and texts: `parity.py`.

    Args:
        clip: the model.
        folder: where it goes.
        to: a name in `TARGETS`.
        dtype: how weights are stored.
        towers: "both", "text" or "image".
        force: keep the files in any case.
        options: the target's own.

    Raises:
        BabelclipError: as `export`.
        MissingExtraError: as `export`.
    """
    from babelclip.models.export import parity

    folder = Path(folder)
    with folder_beside(folder, "unchecked") as aside:
        started = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # Under its own name: files may show it in an example.
            written = export(clip, aside / folder.name, to=to, dtype=dtype, towers=towers, **options)
        between = time.monotonic()
        compared = parity.check(clip, written, to=to, dtype=dtype, towers=towers, **options)
        kept = force or all(part.passed for part in compared)
        size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
        if kept:
            replace_folder(written, folder)
            if to == "openclip":
                # Its config names the place that it was written to.
                import_module(f"{__name__}.openclip").placed(folder, written)
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught if _is_note(warning)))
    seconds = (between - started, time.monotonic() - between)
    return Exported(folder, to, dtype, size, seconds, tuple(compared), notes, kept)


def _refuse_rounded(clip: Clip, towers: str, dtype: str) -> None:
    """Raises BabelclipError for weights that loading has rounded: the files would be a worse model, in silence."""
    import torch

    for name, tower in (("text", clip.text), ("image", clip.image)):
        if tower is None or towers not in ("both", name):
            continue
        held = next(tower.parameters()).dtype
        if held != torch.float32 and held != getattr(torch, dtype):
            raise BabelclipError(
                f"{clip.name or 'This model'} was loaded in {str(held).removeprefix('torch.')}, and files are made "
                'from the exact weights. Load it with dtype="float32"; the dtype of the export says how it is stored.'
            )


def _is_note(warning: warnings.WarningMessage) -> bool:
    from babelclip.models.export.stored import ExportWarning

    return issubclass(warning.category, ExportWarning)


def _stored_as(clip: Clip, dtype: str) -> Clip:
    """Returns the model with weights of that dtype, for writers that store what they are given."""
    import torch

    wanted = getattr(torch, dtype)

    def cast(tower: Any) -> Any:
        if tower is None or next(tower.parameters()).dtype == wanted:
            return tower
        return copy.deepcopy(tower).to(wanted)

    return replace(clip, text=cast(clip.text), image=cast(clip.image))
