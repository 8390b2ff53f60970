"""Why a folder is no checkpoint that babelclip reads: what it holds, and what to do instead.

The last word of `load`, after every reader has refused. It looks at file names and JSON only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError
from babelclip.files import read_json

# Names shown of a folder; a dataset folder has thousands.
_SHOWN = 8
_READ = (
    "babelclip reads its own folders, M-CLIP, AltCLIP, open_clip, OpenAI CLIP, SigLIP, MetaCLIP 2, "
    "sentence-transformers CLIP and plain text encoders (see `babelclip models`)"
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
# Weights in a form that cannot be turned back into a model of transformers.
_FOREIGN = {
    ".gguf": "GGUF",
    ".onnx": "ONNX",
    ".msgpack": "Flax",
    ".ot": "Rust",
    ".tflite": "TensorFlow Lite",
    ".mlpackage": "Core ML",
    ".engine": "TensorRT",
}
_BARE = {
    "CLIPTextModel": "a CLIP text encoder without its projection, as diffusion models carry it",
    "CLIPVisionModel": "a CLIP picture encoder without its projection, as vision-language models carry it",
}


def explain_unreadable(folder: Path) -> str:
    """Returns what `folder` holds, why no reader takes it, and what to do; a message for a `BabelclipError`."""
    names = sorted(item.name for item in folder.iterdir())
    inner = _inner(folder)
    for reason in (_by_config(folder), _by_files(folder, names)):
        if reason:
            return f"{folder} {reason}{inner}"
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return (
        f"{folder} is no checkpoint that babelclip reads: it holds {shown or 'nothing'}. {_READ}."
        f"{inner or ' Give the folder in which config.json and the weights lie, or the name of a published model.'}"
    )


def _by_config(folder: Path) -> str:
    """Returns the reason that one of the folder's config files gives, or an empty string."""
    if (folder / "adapter_config.json").is_file():
        base = _content(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        return (
            f"holds an adapter (LoRA) and not a model: its weights only change those of {base}. Merge the two with "
            "peft (`merge_and_unload()`), save the result with `save_pretrained`, and load that folder."
        )
    if (folder / "model_index.json").is_file():
        return (
            "holds a diffusion pipeline. Its text encoder gives states to a picture generator, not vectors that "
            "pictures can be searched with. Load the CLIP that it was made from."
        )
    if not (folder / "config.json").is_file():
        return ""
    config = _content(folder / "config.json")
    kind = config.get("model_type")
    bare = next((_BARE[name] for name in _listed(config.get("architectures")) if name in _BARE), None)
    if bare is not None and kind in ("clip_text_model", "clip_vision_model"):
        return (
            f"holds {bare}, so it has no vectors of the embedding space. Load the whole CLIP model, or save the tower "
            "as CLIPTextModelWithProjection or CLIPVisionModelWithProjection."
        )
    code = config.get("auto_map")
    if isinstance(code, dict) and code:
        files = sorted({f"{str(value).split('--')[-1].partition('.')[0]}.py" for value in code.values()})
        return (
            f"holds a model of type {kind!r} that only its own Python code can build ({', '.join(files[:3])}). "
            f"babelclip never runs code from a model. {_READ}; choose one of these, or ask for a reader of this layout."
        )
    if kind:
        return f"holds a model of type {kind!r}, which is none that babelclip reads. {_READ}."
    return (
        "has a config.json without model_type, so its layout is not known. Copy config.json again from the model's "
        f"origin. {_READ}."
    )


def _by_files(folder: Path, names: list[str]) -> str:
    """Returns the reason that the names of the files give, or an empty string."""
    foreign = next((form for name in names for suffix, form in _FOREIGN.items() if name.endswith(suffix)), None)
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    if foreign is not None and not weights:
        return (
            f"holds weights in {foreign} form only. babelclip reads safetensors, torch and Keras files. Give the "
            "folder of the model that they were exported from."
        )
    if (folder / "config.json").is_file():
        return ""
    if weights:
        return (
            f"holds weights ({', '.join(weights[:3])}) but no config.json, and sizes and activations cannot be read "
            "from weights. Copy config.json (open_clip_config.json for open_clip) from the model's origin beside them."
        )
    if any(name in ("preprocessor_config.json", "processor_config.json") for name in names):
        return (
            "holds the settings of an image processor and no model. Copy config.json and the weights of the same model "
            "there."
        )
    if any(name in _TOKENIZERS for name in names):
        return "holds a tokenizer and no model. Copy config.json and the weights of the same model there."
    return ""


def _inner(folder: Path) -> str:
    """Returns a sentence naming a folder inside that does look like a model: a hub cache, or a part of a bundle."""
    for pattern in ("snapshots/*/config.json", "*/config.json", "snapshots/*/open_clip_config.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return f" The folder {found[0].parent} inside it looks like a model: try that."
    return ""


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except BabelclipError:
        return {}
    return content if isinstance(content, dict) else {}


def _listed(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
