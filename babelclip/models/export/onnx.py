"""ONNX: one file a tower, tokens or pixels in, projected vectors out, and all that is needed to feed them.

    text_encoder.onnx      input_ids, attention_mask (N, T) int64 -> features, embeddings (N, D) float32
    image_encoder.onnx     pixels (N, 3, height, width) float32 -> features, embeddings (N, D) float32
    *.onnx.data            the weights beside a file, where they exceed what one protobuf may hold (2 GB)
    tokenizer.json         tokenizer that pads and truncates as the model wants it
    config.json            space, logit scale, cleaning, preprocessing, attribution (see `config_of`)

`features` are the raw projection, which teacher learning regresses on; `embeddings` are the same with rows of length 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from babelclip.errors import BabelclipError, did_you_mean, require
from babelclip.files import atomic_folder, write_json
from babelclip.models.clip import Clip
from babelclip.models.export.graph import IMAGE_INPUTS, OUTPUTS, TEXT_INPUTS, image_graph, text_graph
from babelclip.models.export.quantized import quantize
from babelclip.models.export.readme import write_readme
from babelclip.models.export.runtime import VERSION
from babelclip.models.export.stored import chosen_towers
from babelclip.models.image import ImageEncoder
from babelclip.models.text import TextEncoder
from babelclip.models.tokenization import TextTokenizer

FORMAT = "babelclip-onnx"
DTYPES = ("float32", "float16", "int8")
# A protobuf ends at 2 GiB; the graph itself needs a little of it.
EXTERNAL_ABOVE = 2_000_000_000
# Small tensors stay in the file, so that tools can read shapes without the data.
_INLINE_BELOW = 1024


def export_onnx(
    clip: Clip,
    folder: Path | str,
    *,
    dtype: str = "float32",
    towers: str = "both",
    external_above: int = EXTERNAL_ABOVE,
) -> Path:
    """Writes `clip` to `folder` as ONNX, replacing it whole, and returns the folder.

    Args:
        clip: the model.
        folder: where it goes.
        dtype: "float32"; "float16", where backbones compute in float16, norms, pooling and heads in float32; or "int8",
            where matrices and embeddings are 8-bit integers and activations are quantised as they come.
        towers: "both", "text" or "image".
        external_above: bytes of weights above which they lie in one file beside the graph.

    Raises:
        BabelclipError: the dtype is not offered, the model lacks the tower, or a tower has no ONNX form (NaFlex).
        MissingExtraError: the extra `export` is not installed.
    """
    check_dtype(dtype, DTYPES, "ONNX")
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        written = []
        for tower, graph in graphs(clip, dtype, towers):
            if dtype == "int8":
                quantize(graph, "dynamic")
            written.append(tower)
            save_graph(graph, temporary / f"{tower}_encoder.onnx", clip, external_above=external_above)
            del graph
        write_rest(temporary, clip, written, FORMAT, dtype, "onnx")
        write_readme(
            temporary,
            clip,
            target="ONNX",
            dtype=dtype,
            towers=written,
            loads=_example(folder.name, written[0]),
            notes=notes_of(dtype, "onnxruntime"),
        )
    return folder


def check_dtype(dtype: str, allowed: tuple[str, ...], target: str) -> None:
    """Raises BabelclipError unless `dtype` is allowed."""
    if dtype not in allowed:
        raise BabelclipError(f"dtype={dtype!r} is not offered for {target}. {did_you_mean(dtype, allowed)}")


def graphs(clip: Clip, dtype: str, towers: str) -> Iterator[tuple[str, Any]]:
    """Yields "text" and "image" with its `onnx_ir` model, for the towers asked for.

    Each is made when it is asked for: two in memory at once may not fit, so the caller lets go of one before the next.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")
    text, image = chosen_towers(clip, towers)
    traced = "float16" if dtype == "float16" else "float32"
    if text is not None:
        yield "text", text_graph(text, traced)
    if image is not None:
        yield "image", image_graph(image, traced)


def save_graph(graph: Any, path: Path, clip: Clip, *, external_above: int = EXTERNAL_ABOVE) -> None:
    """Writes one graph; its weights go to `<path>.data` where they exceed `external_above` bytes."""
    import onnx_ir as ir

    graph.producer_name = "babelclip"
    graph.metadata_props.update({"space": clip.space, "name": clip.name})
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    data = f"{path.name}.data" if size > external_above else None
    ir.save(graph, path, external_data=data, size_threshold_bytes=_INLINE_BELOW)


def write_rest(folder: Path, clip: Clip, towers: list[str], form: str, dtype: str, suffix: str) -> None:
    """Writes config.json, and tokenizer.json where there is a text tower."""
    text, image = (getattr(clip, tower) if tower in towers else None for tower in ("text", "image"))
    write_json(folder / "config.json", config_of(clip, text, image, form, dtype, suffix))
    if text is not None:
        (folder / "tokenizer.json").write_text(padding_tokenizer(text.tokenizer).to_str(), encoding="utf-8")


def config_of(
    clip: Clip, text: TextEncoder | None, image: ImageEncoder | None, form: str, dtype: str, suffix: str
) -> dict[str, Any]:
    """Returns `config.json`: the facts of babelclip's own format, and what feeds each file."""
    config: dict[str, Any] = {
        "format": form,
        "format_version": VERSION,
        "name": clip.name,
        "space": clip.space,
        "embed_dim": clip.embed_dim,
        "dtype": dtype,
        "languages": list(clip.languages),
        "logit_scale": clip.logit_scale,
        "logit_bias": clip.logit_bias,
        "revision": clip.revision,
        "attribution": list(clip.attribution),
    }
    if text is not None:
        tokenizer = text.tokenizer
        config["text"] = {
            "file": f"text_encoder.{suffix}",
            "inputs": list(TEXT_INPUTS),
            "outputs": list(OUTPUTS),
            "max_length": tokenizer.max_length,
            "pad_id": tokenizer.pad_id,
            "pad_to": tokenizer.pad_to,
            "prefix": tokenizer.prefix,
            "cleaning": tokenizer.cleaning,
            "language": tokenizer.language,
            # What stands at position 0 in place of the tokenizer's own token (NLLB); null for all other models.
            "language_id": None if tokenizer.language is None else tokenizer([""])[0][0],
        }
    if image is not None:
        config["image"] = {
            "file": f"image_encoder.{suffix}",
            "inputs": list(IMAGE_INPUTS),
            "outputs": list(OUTPUTS),
            "preprocess": image.preprocess.to_dict(),
        }
    return config


def padding_tokenizer(tokenizer: TextTokenizer) -> Tokenizer:
    """Returns the tokenizer with padding switched on, so that its ids and mask fit the graph as they are."""
    padded = Tokenizer.from_str(tokenizer.to_json())
    token = padded.id_to_token(tokenizer.pad_id) or "[PAD]"
    padded.enable_padding(pad_id=tokenizer.pad_id, pad_token=token, length=tokenizer.pad_to)
    return padded


def notes_of(dtype: str, runtime: str) -> list[str]:
    """Returns what the files compute otherwise than the model in float32."""
    notes = {
        "float16": [f"The backbones are stored in float16; {runtime} may compute in float32 where it has no kernel."],
        "int8": ["Matrices and embeddings are 8-bit integers: vectors differ a little from those of the model."],
    }
    return notes.get(dtype, [])


def _example(folder: str, tower: str) -> str:
    call = {
        "text": 'vectors = encoders.encode_text(["two dogs", "två hundar"])',
        "image": 'vectors = encoders.encode_image(["photo.jpg"])',
    }[tower]
    lines = [
        "from babelclip.models.export.runtime import open_exported  # needs no torch",
        f'encoders = open_exported("{folder}")',
        call,
    ]
    return "\n".join(lines)
