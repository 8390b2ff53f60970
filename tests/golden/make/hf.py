"""What the generators of transformers layouts share: louder random weights, tiny tokenizers in published forms."""

from __future__ import annotations

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.golden.make.common import characters

WORDS = ["a", "photo", "of", "dog", "dogs", "two", "två", "hundar", "две", "the"]


def versions() -> dict[str, str]:
    """Versions of the libraries that the expected outputs depend on."""
    import PIL
    import tokenizers
    import transformers

    return {
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "torch": torch.__version__,
        "pillow": PIL.__version__,
    }


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB, transparency over white as transformers 5 has it; 4.57 would show what lies beneath."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def checksums(pixels: torch.Tensor) -> np.ndarray:
    """CRC-32 (N,) uint32 of each picture's float32 pixels: equal exactly when every bit is."""
    return np.asarray([zlib.crc32(np.ascontiguousarray(one).tobytes()) for one in pixels.numpy()], dtype=np.uint32)


def enlarge(model: torch.nn.Module, std: float = 0.15) -> None:
    """Draws every weight, biases and norms too: with the tiny published ones an error in a bias would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                parameter.fill_(3.1 if name == "logit_scale" else -7.25)
            elif "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, std)
            else:
                parameter.normal_(0.0, std)


def clip_bpe(folder: Path):
    """Writes vocab.json and merges.txt of a tiny byte-level BPE in the manner of CLIP, and returns its tokenizer."""
    from transformers import CLIPTokenizerFast
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    alphabet = list(bytes_to_unicode().values())
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet]
    merges = []
    for word in ("photo", "dog", "two", "playing", "snow", "hundar"):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
            pieces[:2] = ["".join(pair)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    tokenizer = CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def gemma_tokenizer():
    """A `tokenizers.Tokenizer` in the manner of Gemma as SigLIP 2 publishes it: BPE on "▁" and bytes, `A <eos>`, 64."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁"]
    # Some characters only, so that others are spelt in bytes; capitals too, so that lower-casing shows.
    known = [c for c in characters() if ord(c) < 0x0250 or c in "двесобакиสุนัข"]
    vocabulary += sorted({*known, *"ABCDTP"} - {"▁"})
    merges = []
    for word in ("photo", "dog", "two", "Two", "hundar"):
        built = "▁"
        for letter in word:
            if (built, letter) not in merges:
                merges.append((built, letter))
                vocabulary.append(built + letter)
            built += letter
    tokenizer = Tokenizer(
        models.BPE(
            {t: i for i, t in enumerate(vocabulary)}, merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    tokenizer.enable_truncation(64)
    return tokenizer


def save_gemma_tokenizer(folder: Path) -> int:
    """Writes tokenizer.json and tokenizer_config.json as SigLIP 2's folders have them; returns the vocabulary size."""
    tokenizer = gemma_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {
        "add_bos_token": False, "add_eos_token": True, "bos_token": "<bos>", "eos_token": "<eos>",
        "model_input_names": ["input_ids"], "model_max_length": 64, "pad_token": "<pad>", "padding_side": "right",
        "processor_class": "SiglipProcessor", "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(content, indent=2))
    return tokenizer.get_vocab_size()


def save_siglip_tokenizer(folder: Path):
    """Trains a tiny spiece.model as T5's is, writes tokenizer.json beside it, and returns the `SiglipTokenizer`."""
    import io

    import sentencepiece
    from transformers import SiglipTokenizer

    from tests.golden.inputs import GIVEN

    # The published file carries all of NFKC, 240 KB; these rules are of the same mechanism.
    rules = [(c, chr(ord(c) - 0xFEE0)) for c in "ＡＢＣ"] + [("ﬁ", "fi"), ("\t", " "), ("\n", " "), ("▁", " ")]
    rules += list(zip("ｱｲｳ", "アイウ", strict=True))
    table = "".join(f"{' '.join(f'{ord(c):X}' for c in a)}\t{' '.join(f'{ord(c):X}' for c in b)}\n" for a, b in rules)
    trained = io.BytesIO()
    # Thai, Tamil and Arabic are left out, so that unknown characters occur.
    seen = [text for text in GIVEN if text.strip() and not any("\u0600" <= c <= "\u0eff" for c in text)]
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rule_file:
        rule_file.write(table)
        rule_file.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(seen * 3 + [text.lower() for text in seen] * 3), model_writer=trained,
            model_type="unigram", vocab_size=220, hard_vocab_limit=False, character_coverage=1.0, num_threads=1,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, normalization_rule_tsv=rule_file.name,
        )  # fmt: skip
    (folder / "spiece.model").write_bytes(trained.getvalue())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"])
    tokenizer.save_pretrained(folder)
    (folder / "special_tokens_map.json").unlink()
    siglip_fast(tokenizer).save(str(folder / "tokenizer.json"))
    return tokenizer


def siglip_fast(slow):
    """The same tokenizer as a `tokenizers.Tokenizer` that canonicalises by itself, as published beside spiece.model."""
    import string

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto.FromString(Path(slow.vocab_file).read_bytes())
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2, byte_fallback=False))
    punctuation = "".join(f"\\{c}" for c in string.punctuation)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(f"[{punctuation}]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in ("</s>", "<unk>")])
    return tokenizer
