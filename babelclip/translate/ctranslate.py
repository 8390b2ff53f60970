"""CTranslate2: a translation model converted once, kept in the cache, and run several times faster than by torch.

The copy lies in `<cache>/ctranslate2/<model>-<compute>-<what decides>/`, where what decides is a hash of the
checkpoint, the number format and the version of CTranslate2. It is written whole or not at all; what a killed
conversion left is removed by the next one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, require, shown
from babelclip.files import atomic_folder, cache_folder
from babelclip.translate.checkpoint import Checkpoint, load_model, quiet

# Tokens of a batch inside CTranslate2, padding included; it sorts the texts by length itself.
_TOKENS = {"cpu": 1024, "cuda": 16384}


class UnsupportedError(Exception):
    """CTranslate2 or its converter cannot take this model; the message says why."""


class CTranslateModel:
    """A converted model. See `babelclip.translate.seq2seq.Generator`."""

    runtime = "ctranslate2"

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Any, *, compute: str, device: str, beam_size: int, threads: int
    ) -> None:
        """Converts the checkpoint where that was not done before, and loads it.

        Raises:
            UnsupportedError: the converter cannot take it.
            BabelclipError: the device lacks the number format, or the checkpoint is damaged.
        """
        ctranslate2 = require("ctranslate2", "translate")
        kind, index = place_of(device, ctranslate2.get_cuda_device_count())
        supported = ctranslate2.get_supported_compute_types(kind)
        if compute not in supported:
            raise BabelclipError(
                f"compute={compute!r} is not available on this {kind} with CTranslate2 {ctranslate2.__version__}; it "
                f"has {', '.join(sorted(supported))}. Choose one of these: int8 is the fastest on a CPU."
            )
        self._tokenizer = tokenizer
        self._beam_size = beam_size
        self._tokens = _TOKENS[kind]
        self._translator = ctranslate2.Translator(
            str(converted(checkpoint, tokenizer, compute)),
            device=kind,
            device_index=index,
            compute_type=compute,
            intra_threads=threads,
        )

    def generate(self, batch: Sequence[Sequence[int]], prefix: int | None, max_length: int) -> list[list[int]]:
        """Returns the best hypothesis of each of N sources. See `babelclip.translate.seq2seq.Generator`."""
        tokens = [self._tokenizer.convert_ids_to_tokens(list(ids)) for ids in batch]
        forced = None if prefix is None else [[self._tokenizer.convert_ids_to_tokens(prefix)]] * len(tokens)
        results = self._translator.translate_batch(
            tokens,
            target_prefix=forced,
            beam_size=self._beam_size,
            max_decoding_length=max_length,
            max_batch_size=self._tokens,
            batch_type="tokens",
            max_input_length=0,  # texts are split before they get here; nothing is cut in silence
        )
        skipped = 0 if prefix is None else 1
        return [self._tokenizer.convert_tokens_to_ids(result.hypotheses[0][skipped:]) for result in results]


def place_of(device: str, gpus: int) -> tuple[str, int]:
    """Returns ("cpu" or "cuda", number) of a device such as "auto" or "cuda:1".

    Raises:
        BabelclipError: this machine has no such GPU.
    """
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = "cuda" if gpus else "cpu"
    index = int(number) if number.isdecimal() else 0
    if kind == "cuda" and index >= gpus:
        raise BabelclipError(f"device={device!r}, but {gpus} GPUs are here. Choose one of them, or 'cpu'.")
    return kind, index


def converted(checkpoint: Checkpoint, tokenizer: Any, compute: str) -> Path:
    """Returns the folder of the converted model, converting it where that was not done before.

    Raises:
        UnsupportedError: the converter cannot take it.
        BabelclipError: the checkpoint is damaged, or the cache cannot be written.
    """
    ctranslate2 = require("ctranslate2", "translate")
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    decides = f"{checkpoint.identity}\n{compute}\n{ctranslate2.__version__}"
    slug = re.sub(r"[^\w.-]+", "-", checkpoint.name.rstrip("/").rpartition("/")[2].partition("@")[0])
    name = f"{slug}-{compute}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"
    folder = cache_folder() / "ctranslate2" / name
    if folder.is_dir():
        return folder
    try:
        locks = folder.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(locks / f"{name}.lock"):
            if not folder.is_dir():  # another process may have converted it while this one waited
                for left in folder.parent.glob(f".{name}.*.part"):
                    shutil.rmtree(left, ignore_errors=True)
                with atomic_folder(folder) as part:
                    _convert(checkpoint, tokenizer, compute, part)
    except OSError as error:
        raise BabelclipError(
            f"{checkpoint.name} cannot be converted into {folder} ({error}). Make room there, or set BABELCLIP_CACHE "
            "to a folder that you may write."
        ) from error
    return folder


def _convert(checkpoint: Checkpoint, tokenizer: Any, compute: str, folder: Path) -> None:
    """Writes the converted model into the empty `folder`."""
    from ctranslate2.converters import TransformersConverter  # type: ignore[import-untyped]

    class Converter(TransformersConverter):  # type: ignore[misc]
        """The library's converter on a checkpoint that was loaded strictly."""

        def load_model(self, model_class: Any, model_name_or_path: str, **settings: Any) -> Any:
            return load_model(model_class, Path(model_name_or_path), **settings)

        def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: str, **settings: Any) -> Any:
            del tokenizer_class, model_name_or_path, settings
            return tokenizer

    config = checkpoint.config
    if config.get("share_encoder_decoder_embeddings") is False or getattr(tokenizer, "separate_vocabs", False):
        raise UnsupportedError("its source and target have vocabularies of their own, which the converter mixes up")
    try:
        with quiet():
            Converter(str(checkpoint.folder)).convert(str(folder), quantization=compute, force=True)
    except BabelclipError:
        raise
    except (ValueError, RuntimeError, LookupError, AttributeError, TypeError, NotImplementedError) as error:
        raise UnsupportedError(f"the converter gave up: {type(error).__name__}: {shown(error)}") from error
