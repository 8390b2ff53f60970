"""Tiny random translation models in the published layouts: a Marian of two targets, an NLLB, an M2M100."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
import torch
import transformers

TEXTS = [
    f"a {colour} {shape} and {count} dogs."
    for colour, shape, count in zip(
        ("red", "green", "blue", "red", "green", "blue", "red", "green"),
        ("circle", "square", "star", "star", "circle", "square", "square", "star"),
        ("two", "three", "two", "three", "six", "two", "six", "two"),
        strict=True,
    )
]
POSITIONS = 80


def train_sentencepiece(path: Path) -> list[str]:
    """Writes a model of 60 pieces and returns them without its special ones."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_writer=content, vocab_size=60, hard_vocab_limit=False,
        pad_id=-1, bos_id=-1, eos_id=-1, unk_id=0, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(content.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [pieces.id_to_piece(place) for place in range(1, pieces.get_piece_size())]


def randomize(model: torch.nn.Module, seed: int, spread: float) -> None:
    """Large weights, so that every token of the source decides; padding stays zero, as in trained models."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "embed_positions" not in name and weights.dim() > 1:
                weights.copy_(torch.randn(weights.shape, generator=generator) * (0.1 if "shared" in name else spread))
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0


def make_marian(folder: Path, tags: tuple[str, ...] = ("deu", "swe"), *, seed: int = 0, binary: bool = False) -> Path:
    """A random Marian in the layout of OPUS-MT; `binary` writes pytorch_model.bin as most of them have."""
    folder.mkdir(parents=True)
    words = ["</s>", "<unk>", *(f">>{tag}<<" for tag in tags)]
    for side in ("source", "target"):
        words += train_sentencepiece(folder / f"{side}.spm")
    words = [*dict.fromkeys(words), "<pad>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"source_lang": "en", "target_lang": "mul"}', encoding="utf-8")
    config = transformers.MarianConfig(
        vocab_size=len(words), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=POSITIONS,
        pad_token_id=vocabulary["<pad>"], eos_token_id=0, decoder_start_token_id=vocabulary["<pad>"],
        forced_eos_token_id=0, bad_words_ids=[[vocabulary["<pad>"]]], scale_embedding=True,
        activation_function="swish",
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    randomize(model, seed, 1.0)
    model.save_pretrained(folder)
    if binary:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def make_many_language_model(folder: Path, tokens: tuple[str, ...], *, seed: int = 0) -> Path:
    """A random M2M100 architecture whose languages are `tokens`: `deu_Latn` for an NLLB, `__de__` for an M2M100."""
    folder.mkdir(parents=True)
    words = ["<s>", "<pad>", "</s>", "<unk>", *train_sentencepiece(folder / "unused.spm")]
    (folder / "unused.spm").unlink()
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    tokenizer = transformers.NllbTokenizer(
        vocab=vocabulary, merges=[], src_lang=tokens[0], additional_special_tokens=list(tokens)
    )
    tokenizer.save_pretrained(folder)
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=POSITIONS,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = transformers.M2M100ForConditionalGeneration(config)
    randomize(model, seed, 0.5)
    model.save_pretrained(folder)
    return folder
