"""The protocol of a translation engine, and `open_engine`, which makes one by its name.

| name | translates by | needs |
|---|---|---|
| opus | OPUS-MT and other Marian models, one for each language or family | the extra `translate` |
| nllb | NLLB-200 or M2M100, one model for all languages | the extra `translate` |
| apertium | hand-written rules | the program, from Debian's packages |
| dictionary | looking up exact source texts in a table of human translations | nothing |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from babelclip.errors import BabelclipError, did_you_mean

if TYPE_CHECKING:
    from babelclip.data.captions import Captions

ENGINES = ("opus", "nllb", "apertium", "dictionary")
COMPUTE = ("int8", "int8_float16", "int8_bfloat16", "float16", "bfloat16", "float32")
DEVICES = ("cpu", "cuda", "auto")


class Engine(Protocol):
    """Translates texts. It holds models or processes: close it when done. Not for use by two threads at once.

    Attributes:
        name: one of `ENGINES`.
        batch_size: how many texts it likes to get at once: enough that starting a program, or sorting by length, pays.
    """

    name: str
    batch_size: int

    def languages(self) -> tuple[str, ...]:
        """Returns the BCP-47 codes that it can translate English into, sorted."""
        ...

    def model(self, target: str) -> str:
        """Returns what translates into `target`, for manifests and reports: "organisation/name@commit", a folder.

        Raises:
            BabelclipError: it cannot translate into `target`, or the model is not available.
        """
        ...

    def translate(self, batch: Sequence[str], source: str, target: str) -> list[str]:
        """Returns the N translations of N texts, in order; "" where it has none. Equal batches give equal results.

        Args:
            batch: N texts of any length; an empty one stays empty.
            source: BCP-47.
            target: BCP-47.

        Raises:
            BabelclipError: it cannot translate from `source` into `target`, or the model is not available.
        """
        ...

    def close(self) -> None:
        """Ends processes and frees models. Closing twice does no harm."""
        ...


def open_engine(
    name: str,
    *,
    models: Mapping[str, str] | None = None,
    compute: str = "int8",
    device: str = "cpu",
    beam_size: int = 4,
    threads: int = 0,
    dictionary: Captions | None = None,
) -> Engine:
    """Returns the engine of a name. Models are fetched, converted and loaded at the first use of a language.

    Args:
        name: one of `ENGINES`.
        models: language -> model, a folder or a repository of the hub, with ":tag" behind it for one of OPUS-MT's
            target tags; "*" stands for every other language.
        compute: number format of neural models: one of `COMPUTE`, as far as the device has it.
        device: one of `DEVICES`; "cuda" may carry a number ("cuda:1"), "auto" takes a GPU where there is one.
        beam_size: hypotheses that neural models keep at each step; 1 is greedy, fastest and a little worse.
        threads: of neural models on a CPU; 0 leaves the choice to the library (OMP_NUM_THREADS).
        dictionary: for the engine dictionary: translations with `source_id`, and the English texts that these name.

    Raises:
        BabelclipError: a name or value is not known, the dictionary is missing, or the program Apertium is.
        MissingExtraError: the extra `translate` is not installed.
    """
    if name not in ENGINES:
        raise BabelclipError(f"engine={name!r} is not known. {did_you_mean(name, ENGINES)}")
    if name == "dictionary":
        from babelclip.translate.dictionary import DictionaryEngine

        if dictionary is None:
            raise BabelclipError(
                "The engine dictionary was opened without one. Give dictionary=Captions that hold English texts and "
                "their translations, tied by source_id."
            )
        return DictionaryEngine(dictionary)
    if name == "apertium":
        from babelclip.translate.apertium import ApertiumEngine

        return ApertiumEngine()
    _check_settings(compute, device, beam_size, threads)
    from babelclip.translate.seq2seq import Settings

    settings = Settings(compute, device, beam_size, threads)
    if name == "opus":
        from babelclip.translate.opus import OpusEngine

        return OpusEngine(models or {}, settings)
    from babelclip.translate.nllb import NllbEngine

    return NllbEngine(models or {}, settings)


def _check_settings(compute: str, device: str, beam_size: int, threads: int) -> None:
    if compute not in COMPUTE:
        raise BabelclipError(f"compute={compute!r} is not known. {did_you_mean(compute, COMPUTE)}")
    if device.partition(":")[0] not in DEVICES:
        raise BabelclipError(f"device={device!r} is not known. {did_you_mean(device, DEVICES)}")
    for value, least, what in ((beam_size, 1, "beam_size"), (threads, 0, "threads")):
        if value < least:
            raise BabelclipError(f"{what}={value} is too small. Allowed are whole numbers from {least}: give one.")
