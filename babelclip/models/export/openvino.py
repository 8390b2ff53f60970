"""OpenVINO's own files: the graphs of `onnx.py`, converted; inputs, outputs and config.json are the same.

    text_encoder.xml, text_encoder.bin, image_encoder.xml, image_encoder.bin, tokenizer.json, config.json

"float16" and "int8" compress weights; the runtime computes in what the processor does best.
"""

from __future__ import annotations

from pathlib import Path

from babelclip.errors import require
from babelclip.files import atomic_folder
from babelclip.models.clip import Clip
from babelclip.models.export.onnx import check_dtype, graphs, notes_of, save_graph, write_rest
from babelclip.models.export.quantized import quantize
from babelclip.models.export.readme import write_readme

FORMAT = "babelclip-openvino"
DTYPES = ("float32", "float16", "int8")
_EXAMPLE = """from babelclip.models.export.runtime import open_exported  # needs no torch
encoders = open_exported("{folder}")"""


def export_openvino(clip: Clip, folder: Path | str, *, dtype: str = "float32", towers: str = "both") -> Path:
    """Writes `clip` to `folder` as OpenVINO IR, replacing it whole, and returns the folder.

    Args:
        clip: the model.
        folder: where it goes.
        dtype: how weights are stored: "float32", "float16", or "int8" with one scale a channel.
        towers: "both", "text" or "image".

    Raises:
        BabelclipError: the dtype is not offered, the model lacks the tower, or a tower has no ONNX form (NaFlex).
        MissingExtraError: the extra `export` is not installed.
    """
    check_dtype(dtype, DTYPES, "OpenVINO")
    openvino = require("openvino", "export")
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        written = []
        # Compression is OpenVINO's own work, so the graphs come in float32.
        for tower, graph in graphs(clip, "float32", towers):
            if dtype == "int8":
                quantize(graph, "weights")
            between = temporary / f"{tower}.onnx"
            save_graph(graph, between, clip)
            del graph
            converted = openvino.convert_model(between)
            openvino.save_model(
                converted, temporary / f"{tower}_encoder.xml", compress_to_fp16=dtype in ("float16", "int8")
            )
            del converted  # it maps the file that goes away now
            between.unlink()
            between.with_name(f"{between.name}.data").unlink(missing_ok=True)
            written.append(tower)
        write_rest(temporary, clip, written, FORMAT, dtype, "xml")
        write_readme(
            temporary,
            clip,
            target="OpenVINO",
            dtype=dtype,
            towers=written,
            loads=_EXAMPLE.format(folder=folder.name),
            notes=notes_of(dtype, "OpenVINO"),
        )
    return folder
