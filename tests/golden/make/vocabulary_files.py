"""Tokenizers without a tokenizer.json: what transformers 4.57 gives for XLM-R's and BERT's vocabulary files."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.golden.inputs import GIVEN, TEXTS
from tests.golden.make.common import characters, out_folder

ENVIRONMENT = "old"


def main() -> None:
    """Writes one folder a vocabulary form with `expected.json`: the ids of every golden text, truncated at 24."""
    _sentencepiece(out_folder("tokenizer_sentencepiece"))
    _wordpiece(out_folder("tokenizer_wordpiece"))


def _sentencepiece(folder: Path) -> None:
    import sentencepiece

    lines = folder / "lines.txt"
    lines.write_text("\n".join(text.strip() or "x" for text in GIVEN * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(folder / "model"), vocab_size=150, character_coverage=1.0,
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    lines.unlink()
    (folder / "model.vocab").unlink()
    (folder / "model.model").rename(folder / "sentencepiece.bpe.model")
    _write(folder, "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512})


def _wordpiece(folder: Path) -> None:
    letters = [c for c in characters() if not c.isspace()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "dog", "två"]
    pieces = words + letters + [f"##{c}" for c in letters]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    _write(folder, "bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 512})


def _write(folder: Path, model_type: str, settings: dict) -> None:
    import transformers

    (folder / "config.json").write_text(json.dumps({"model_type": model_type}) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text, truncation=True, max_length=24).input_ids for text in TEXTS]
    expected = {
        "origin": f"transformers {transformers.__version__} {type(tokenizer).__name__}",
        "pad_id": tokenizer.pad_token_id,
        "ids": ids,
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
