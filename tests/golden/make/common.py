"""What the generators share: tiny tokenizers in published forms, and the file of expected outputs.

Run in the environment of an original implementation, never in babelclip's (`make test-oracles` does both).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parents[1]


def characters() -> list[str]:
    """Every character of the golden texts, after NFKC and as it stands."""
    import unicodedata

    texts = "".join(TEXTS)
    found = set(texts) | set(unicodedata.normalize("NFKC", texts)) | set("abcdefghijklmnopqrstuvwxyz")
    return sorted(found - set(" \t\n"))


def xlmr_tokenizer():
    """A `tokenizers.Tokenizer` built as XLM-R's is (Unigram, Metaspace, `<s> A </s>`), with some 150 pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = ["a", "photo", "of", "dog", "dogs", "two", "två", "hundar", "две", "the"]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -2.0) for word in words] + [(c, -6.0) for c in characters()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Replace("\t", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def save_xlmr_tokenizer(folder: Path, max_length: int | None = None) -> int:
    """Writes tokenizer.json and tokenizer_config.json as the hub has them, and returns the size of the vocabulary."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = xlmr_tokenizer()
    extra = {} if max_length is None else {"model_max_length": max_length}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", **extra,
    ).save_pretrained(folder)  # fmt: skip
    return tokenizer.get_vocab_size()


def save_expected(folder: Path, origin: str, versions: dict[str, str], notes: str = "", **arrays: np.ndarray) -> None:
    """Writes `expected.npz` (float32: text, image, logit_scale, ...) and `origin.json` (who computed it, and how)."""
    np.savez_compressed(folder / "expected.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    content = {"origin": origin, "versions": versions, "notes": notes}
    (folder / "origin.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def out_folder(name: str) -> Path:
    """Returns the folder to write: `--out DIR/name` where the caller asks for it, else the committed one."""
    root = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else GOLDEN
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
