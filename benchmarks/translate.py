"""Sentences a second by translation engine, on real captions.

    python benchmarks/translate.py [CAPTIONS] [--neural 96] [--rules 2000] [--rounds 3] [--out results/translate.json]

CAPTIONS is a text file of one English caption a line, also .gz. Apertium runs with every installed direction from
English, once with the whole sample as one batch and once in batches of 64, which shows what its start costs. The neural
engines run a Marian of the size of OPUS-MT (6 + 6 layers, width 512, 58,101 words) with random weights, whose end mark
is switched off: every hypothesis has the same 16 tokens, so that speed does not hang on what random weights say. Tokens
come from a sentencepiece model of the captions themselves. The contenders take turns; a figure is the median of the
rounds.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

WORDS, TOKENS = 58_101, 16
SMALL_BATCH = 64


def read_captions(path: Path) -> list[str]:
    """Returns the distinct lines of a file."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        return list(dict.fromkeys(line.strip() for line in file if line.strip()))


def make_marian(folder: Path, captions: list[str]) -> None:
    """Writes a random Marian of the size of OPUS-MT, which never ends a sentence."""
    import sentencepiece
    import torch
    import transformers

    words = ["</s>", "<unk>"]
    for side in ("source", "target"):
        content = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions), model_writer=content, vocab_size=8000, hard_vocab_limit=False,
            pad_id=-1, bos_id=-1, eos_id=-1, unk_id=0, minloglevel=2,
        )  # fmt: skip
        (folder / f"{side}.spm").write_bytes(content.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    words += [pieces.id_to_piece(place) for place in range(1, pieces.get_piece_size())]
    words += [f"filler{place}" for place in range(WORDS - 1 - len(words))] + ["<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"source_lang": "en", "target_lang": "sv"}', encoding="utf-8")
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=WORDS, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
        pad_token_id=WORDS - 1, eos_token_id=0, decoder_start_token_id=WORDS - 1, forced_eos_token_id=0,
        bad_words_ids=[[WORDS - 1]], scale_embedding=True, activation_function="swish",
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.final_logits_bias[0, 0] = -1e4
    model.save_pretrained(folder)


def neural_contenders(folder: Path, captions: list[str]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Returns name -> (sentences, what is timed) of CTranslate2 and transformers on the same tokens."""
    import transformers

    from babelclip.translate.checkpoint import open_checkpoint
    from babelclip.translate.ctranslate import CTranslateModel
    from babelclip.translate.seq2seq import TransformersModel

    checkpoint = open_checkpoint(folder, ("marian",))
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    batch = tokenizer(captions)["input_ids"]
    settings = {"device": "cpu", "threads": os.cpu_count() or 1}
    found: dict[str, tuple[int, Callable[[], object]]] = {}
    for compute, beam_size in (("int8", 1), ("int8", 4), ("float32", 1)):
        model = CTranslateModel(checkpoint, tokenizer, compute=compute, beam_size=beam_size, **settings)
        found[f"ctranslate2 {compute}, beam {beam_size}"] = (
            len(batch),
            lambda m=model: m.generate(batch, None, TOKENS),
        )
    by_torch = TransformersModel(checkpoint, compute="float32", beam_size=1, **settings)
    found["transformers float32, beam 1"] = (len(batch), lambda: by_torch.generate(batch, None, TOKENS))
    for _, run in found.values():
        lengths = {len(ids) for ids in run()}  # warm, and the promise of equal lengths is kept
        if lengths != {TOKENS}:
            raise SystemExit(f"hypotheses of {sorted(lengths)} tokens instead of {TOKENS}")
    return found


def rule_contenders(captions: list[str]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Returns name -> (sentences, what is timed) of Apertium; none where the program is not installed."""
    from babelclip.errors import BabelclipError
    from babelclip.translate.engine import open_engine

    try:
        engine = open_engine("apertium")
    except BabelclipError as error:
        sys.stderr.write(f"without Apertium: {error}\n")
        return {}

    def run(texts: list[str], lang: str, size: int) -> None:
        for start in range(0, len(texts), size):
            engine.translate(texts[start : start + size], "en", lang)

    found: dict[str, tuple[int, Callable[[], object]]] = {}
    for lang in engine.languages():
        name = f"{engine.model(lang)} ({lang})"
        found[name] = (len(captions), lambda lang=lang: run(captions, lang, len(captions)))
    lang = engine.languages()[0] if "es" not in engine.languages() else "es"
    few = captions[: len(captions) // 4]
    small = f"{engine.model(lang)} ({lang}), batches of {SMALL_BATCH}"
    found[small] = (len(few), lambda: run(few, lang, SMALL_BATCH))
    return found


def measure(contenders: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> list[dict[str, object]]:
    """Returns one row a contender; all run once in each round."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (count, run) in contenders.items():
            start = time.perf_counter()
            run()
            speeds[name].append(count / (time.perf_counter() - start))
    return [
        {
            "engine": name,
            "sentences": contenders[name][0],
            "sentences_per_second": round(statistics.median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
        }
        for name, values in speeds.items()
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captions", type=Path, nargs="?", default=Path("../shared/data/multi30k/train.en.gz"))
    parser.add_argument("--neural", type=int, default=96, help="sentences for the neural engines")
    parser.add_argument("--rules", type=int, default=2000, help="sentences for Apertium")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not given.captions.is_file():
        raise SystemExit(f"{given.captions} is not there: name a text file of one English caption a line")
    captions = read_captions(given.captions)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        os.environ["BABELCLIP_CACHE"] = f"{name}/cache"
        (Path(name) / "marian").mkdir()
        make_marian(Path(name) / "marian", captions)
        contenders = rule_contenders(captions[: given.rules])
        contenders |= neural_contenders(Path(name) / "marian", captions[: given.neural])
        rows = measure(contenders, given.rounds)
    sys.stderr.write("| engine | sentences | sentences/s | lowest | highest |\n|---|---:|---:|---:|---:|\n")
    for row in rows:
        speeds = " | ".join(f"{row[key]:,.1f}" for key in ("sentences_per_second", "lowest", "highest"))
        sys.stderr.write(f"| {row['engine']} | {row['sentences']:,} | {speeds} |\n")
    speed = {str(row["engine"]): float(row["sentences_per_second"]) for row in rows}
    slowest = speed["transformers float32, beam 1"]
    result = {
        "benchmark": "translate",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before",
        "versions": {name: _version(name) for name in ("torch", "transformers", "ctranslate2", "sentencepiece")},
        "captions": given.captions.name,
        "model": f"random Marian, 6 + 6 layers, width 512, {WORDS:,} words; {TOKENS} tokens out, all cores",
        "rounds": given.rounds,
        "times_transformers": {
            name: round(value / slowest, 2) for name, value in speed.items() if name.startswith("ctranslate2")
        },
        "rows": rows,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
