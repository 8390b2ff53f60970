"""Runs an exported folder (ONNX or OpenVINO) without torch: numpy, tokenizers, Pillow and the runtime are enough.

encoders = open_exported("model-onnx")
vectors = encoders.encode_text(["two dogs", "två hundar"])        # (2, D) float32, rows of length 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from babelclip.errors import BabelclipError, MissingExtraError, of_rust, require, shown
from babelclip.files import read_object
from babelclip.models.cleaning import cleaning_rule
from babelclip.models.preprocess import Picture, Preprocess, open_picture

# Named arrays in, `features` and `embeddings` out.
Run = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
_BATCH = 32
VERSION = 1


@dataclass(frozen=True)
class ExportedEncoders:
    """What an exported folder holds, ready to run.

    Attributes:
        config: content of its config.json.
        text: runs the text tower, or None where there is none.
        image: runs the picture tower, or None.
        tokenizer: of the `tokenizers` library, padding switched on; None without a text tower.
    """

    config: dict[str, Any]
    text: Run | None
    image: Run | None
    tokenizer: Any

    def tokens(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns `input_ids` and `attention_mask` (N, T) int64 of cleaned, prefixed, padded texts.

        Raises:
            BabelclipError: an item is not a string; its position is named.
        """
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise BabelclipError(
                    f"Text {position} is of type {type(text).__name__}; texts are strings. Give a list of strings."
                )
        settings = self.config["text"]
        clean = cleaning_rule(settings["cleaning"])
        encodings = self.tokenizer.encode_batch([settings["prefix"] + clean(text) for text in texts])
        input_ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        if settings["language_id"] is not None:
            input_ids[:, 0] = settings["language_id"]
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        return {"input_ids": input_ids, "attention_mask": mask}

    def encode_text(self, texts: str | Sequence[str], normalize: bool = True) -> np.ndarray:
        """Returns text features (N, D) float32 in input order, rows L2-normalised unless `normalize=False`.

        Raises:
            BabelclipError: the folder has no text tower, or an item is not a string.
        """
        if self.text is None:
            raise BabelclipError("This folder has no text tower. Export the model again with towers='both' or 'text'.")
        texts = [texts] if isinstance(texts, str) else list(texts)
        return self._batched(self.text, texts, self.tokens, normalize)

    def encode_image(self, pictures: Picture | Sequence[Picture], normalize: bool = True) -> np.ndarray:
        """Returns picture features (N, D) float32 in input order, rows L2-normalised unless `normalize=False`.

        Raises:
            BabelclipError: the folder has no picture tower.
            PictureError: a picture cannot be read.
        """
        if self.image is None:
            raise BabelclipError(
                "This folder has no picture tower. Export the model again with towers='both' or 'image'."
            )
        preprocess = Preprocess.from_dict(self.config["image"]["preprocess"])
        pictures = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]  # type: ignore[list-item]

        def pixels(batch: Sequence[Any]) -> dict[str, np.ndarray]:
            return {"pixels": np.stack([preprocess(open_picture(picture)) for picture in batch])}

        return self._batched(self.image, pictures, pixels, normalize)

    def _batched(
        self, run: Run, items: Sequence[Any], prepare: Callable[[Sequence[Any]], dict[str, np.ndarray]], normalize: bool
    ) -> np.ndarray:
        rows = [
            run(prepare(items[start : start + _BATCH]))[1 if normalize else 0] for start in range(0, len(items), _BATCH)
        ]
        return np.concatenate(rows) if rows else np.empty((0, self.config["embed_dim"]), dtype=np.float32)


def open_exported(folder: Path | str, *, threads: int | None = None) -> ExportedEncoders:
    """Returns the encoders in a folder that `babelclip export --to onnx` or `openvino` wrote.

    Args:
        folder: the folder.
        threads: processor threads of one call; None leaves it to the runtime.

    Raises:
        BabelclipError: the folder is of another kind or a newer version, or a file is missing or damaged.
        MissingExtraError: the runtime is not installed.
    """
    folder = Path(folder)
    config = read_object(folder / "config.json")
    open_file = _OPENERS.get(str(config.get("format")))
    if open_file is None:
        raise BabelclipError(
            f"{folder} is no exported ONNX or OpenVINO folder. Allowed formats: {', '.join(_OPENERS)}. "
            "Write one with `babelclip export MODEL --to onnx --out DIR`."
        )
    if config.get("format_version") != VERSION:
        raise BabelclipError(
            f"{folder} has format version {config.get('format_version')}; this babelclip reads version {VERSION}. "
            "Install the babelclip that wrote it, or a newer one."
        )
    try:
        towers = {
            tower: open_file(folder / config[tower]["file"], config, threads)
            for tower in ("text", "image")
            if tower in config
        }
        tokenizer = _tokenizer(folder / "tokenizer.json") if "text" in config else None
    except (BabelclipError, MissingExtraError):
        raise
    except Exception as error:  # each runtime has errors of its own, some of them bare
        raise BabelclipError(
            f"{folder} is not a whole export: a file is missing or damaged ({type(error).__name__}: {shown(error)}). "
            "Copy it again from where it was written, or export the model again."
        ) from error
    return ExportedEncoders(config, towers.get("text"), towers.get("image"), tokenizer)


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:  # the Rust side raises a bare Exception, or panics
        if not of_rust(error):
            raise
        raise BabelclipError(
            f"{path} is missing or no tokenizer.json ({shown(error)}). Copy it again from where it was written."
        ) from error


def _open_onnx(path: Path, config: dict[str, Any], threads: int | None) -> Run:
    onnxruntime = require("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    # Below errors it warns of every weight that it did not fold, which says nothing to a user.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())

    def run(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        features, embeddings = session.run(["features", "embeddings"], inputs)
        return features, embeddings

    return run


def _open_openvino(path: Path, config: dict[str, Any], threads: int | None) -> Run:
    openvino = require("openvino", "export")
    settings: dict[str, Any] = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
    if config["dtype"] == "float32":
        # OpenVINO would otherwise compute in bfloat16 where the processor can.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    # compile_model gives its thread an alternate signal stack, and takes that memory back in whichever thread frees the
    # model. Left to the main thread, a later SIGTERM or Ctrl-C would end Python by a segmentation fault (2026.4).
    with ThreadPoolExecutor(max_workers=1) as own_thread:
        compiled = own_thread.submit(openvino.Core().compile_model, path, "CPU", settings).result()

    def run(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        outputs = compiled(inputs)
        return np.array(outputs["features"]), np.array(outputs["embeddings"])

    return run


_OPENERS: dict[str, Callable[[Path, dict[str, Any], int | None], Run]] = {
    "babelclip-onnx": _open_onnx,
    "babelclip-openvino": _open_openvino,
}
