from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.export import export
from babelclip.models.text import TextEncoder
from babelclip.train.distill import distill
from babelclip.train.recipe import Student, recipe_from_dict
from babelclip.train.sts import sts
from babelclip.train.students import fit_student, load_encoder, load_student
from babelclip.train.tension import tension
from babelclip.train.trainable import set_dropout
from tests.conftest import EMBED_DIM, make_text_encoder, make_tokenizer
from tests.train.parts import make_captions, make_store

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 1,
}
NLLB = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 1,
}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {
    "bert": SIZES,  # mBERT, LaBSE, multilingual E5
    "xlm-roberta": {**SIZES, "max_position_embeddings": 66},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 1},
    "modernbert": {**SIZES, "reference_compile": False, "cls_token_id": 0, "sep_token_id": 2},  # mmBERT
    "m2m_100": NLLB,
    "electra": {**SIZES, "embedding_size": 32},
}


def make_folder(folder: Path, kind: str, **more: Any) -> Path:
    """A random model as transformers saves it, with the test tokenizer."""
    tokenizer = make_tokenizer()
    if kind == "m2m_100":
        tokenizer = make_nllb_tokenizer()
    config = transformers.AutoConfig.for_model(
        kind, **{**BACKBONES[kind], "vocab_size": tokenizer.get_vocab_size() if kind == "m2m_100" else
                 tokenizer.vocabulary_size, **more}
    )  # fmt: skip
    torch.manual_seed(7)
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str() if kind == "m2m_100" else tokenizer.to_json())
    return folder


def make_nllb_tokenizer() -> Any:
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_str(make_tokenizer().to_json())
    tokenizer.add_special_tokens(["eng_Latn", "swe_Latn"])
    first = tokenizer.token_to_id("eng_Latn")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="eng_Latn $A </s>", special_tokens=[("eng_Latn", first), ("</s>", 2)]
    )
    return tokenizer


def one_step(text: TextEncoder, folder: Path, **student: Any) -> Any:
    train = {"steps": 2, "lr": 1e-3, "warmup_steps": 0, "precision": "fp32", "tokens_per_batch": 256}
    recipe = recipe_from_dict({"train": train, "student": student})
    return distill(text, make_captions(), make_store(folder / "store"), recipe, folder / "run", progress=False)


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_backbone_becomes_a_student_trains_and_is_read_again(tmp_path: Path, kind: str):
    folder = make_folder(tmp_path / "plain", kind)
    clip = load_student(Student(model=str(folder)), embed_dim=EMBED_DIM, seed=1)
    text = clip.text
    assert text is not None
    assert (text.pooling, text.embed_dim, text.head_layers) == ("mean", 16, [{"kind": "linear", "out": EMBED_DIM}])
    before = text.encode(["red dog"], normalize=False)
    one_step(text, tmp_path)
    after = text.encode(["red dog", "två hundar"], normalize=False)
    assert not np.allclose(before, after[:1])
    saved = Clip(space="test/tiny", text=text, name="student").save(tmp_path / "saved")
    again = babelclip.load(saved, device="cpu").encode_text(["red dog", "två hundar"], normalize=False)
    assert np.array_equal(after, again)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "distilbert"])
@pytest.mark.parametrize("layout", ["mclip", "sentence-transformers"])
def test_a_trained_student_exports_with_its_projection_inside(tmp_path: Path, kind: str, layout: str):
    text = load_student(Student(model=str(make_folder(tmp_path / "plain", kind))), embed_dim=EMBED_DIM).text
    assert text is not None
    one_step(text, tmp_path)
    clip = Clip(space="test/tiny", text=text, name="student")
    export(clip, tmp_path / "out", to=layout, towers="text")
    again = babelclip.load(tmp_path / "out", towers="text", device="cpu", space="test/tiny")
    texts = ["a red star", "en hund"]
    expected = clip.encode_text(texts, normalize=False)
    np.testing.assert_allclose(again.encode_text(texts, normalize=False), expected, atol=1e-6)
    assert expected.shape == (2, EMBED_DIM)


def test_the_vectors_before_training_are_those_of_transformers(tmp_path: Path):
    folder = make_folder(tmp_path / "plain", "modernbert")
    text = load_student(Student(model=str(folder), pooling="cls"), embed_dim=EMBED_DIM).text
    assert text is not None
    ids = torch.tensor(text.tokenize(["red dog"]))
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder).eval()(ids).last_hidden_state[:, 0]
        torch.testing.assert_close(text.pooled(ids), states, rtol=1e-4, atol=1e-5)


def test_nllb_reads_the_language_of_each_caption(tmp_path: Path):
    text = load_student(Student(model=str(make_folder(tmp_path / "plain", "m2m_100"))), embed_dim=EMBED_DIM).text
    assert text is not None
    english, swedish = text.tokenize(["röd", "röd"], ["en", "sv"])
    assert english[0] != swedish[0]
    assert english[1:] == swedish[1:]


@pytest.mark.parametrize(
    ("head", "kinds"),
    [
        ("linear", ["linear"]),
        ("tanh+linear", ["linear", "tanh", "linear"]),
        ("mlp", ["linear", "gelu", "linear"]),
        ("norm+linear", ["layer_norm", "linear"]),
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "cls", "eos", "max"])
def test_heads_and_poolings_are_built_and_learn(tmp_path: Path, head: Any, kinds: list[str], pooling: Any):
    text = fit_student(make_text_encoder(), Student(head=head, pooling=pooling, embed_dim=16), embed_dim=16)
    assert [layer["kind"] for layer in text.head_layers] == kinds
    assert text.pooling == pooling
    weight = next(text.head.parameters()).clone()
    one_step(text, tmp_path)
    assert not torch.equal(next(text.head.parameters()), weight)


def test_a_new_head_follows_from_the_seed(tmp_path: Path):
    settings, state = Student(head="mlp"), torch.random.get_rng_state()
    first, again, other = (fit_student(make_text_encoder(), settings, embed_dim=8, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.head[0].weight, again.head[0].weight)
    assert not torch.equal(first.head[0].weight, other.head[0].weight)
    torch.random.set_rng_state(state)
    expected = torch.rand(3)
    torch.random.set_rng_state(state)
    tower = make_text_encoder()
    torch.random.set_rng_state(state)
    fit_student(tower, settings, embed_dim=8)
    assert torch.equal(torch.rand(3), expected)


def test_a_trained_head_is_kept_where_nothing_else_is_asked_for():
    text = make_text_encoder()
    assert fit_student(text, Student(), embed_dim=EMBED_DIM) is text
    pooled = fit_student(text, Student(pooling="cls"), embed_dim=EMBED_DIM)
    assert torch.equal(pooled.head[0].weight, text.head[0].weight)
    assert pooled.pooling == "cls"


def test_what_does_not_fit_names_both_sizes():
    text = make_text_encoder()
    with pytest.raises(BabelclipError, match=r"\(60, 24\) but the student projects to 16: set embed_dim = 24"):
        fit_student(text, Student(), embed_dim=24, targets=60)
    assert fit_student(text, Student(embed_dim=24), embed_dim=24).embed_dim == 24
    with pytest.raises(BabelclipError, match=r"max_length = 40, but the backbone has room for 32 tokens"):
        fit_student(text, Student(max_length=40), embed_dim=EMBED_DIM)
    assert fit_student(text, Student(max_length=9), embed_dim=EMBED_DIM).tokenizer.max_length == 9


def test_an_embed_dim_that_the_targets_do_not_have_is_refused_at_the_start(tmp_path: Path):
    folder = make_folder(tmp_path / "plain", "bert")
    with pytest.raises(BabelclipError, match=r"\(5, 24\) but the student projects to 16"):
        load_student(Student(model=str(folder), embed_dim=16), embed_dim=24, targets=5)


def test_folders_that_hold_no_student_say_why(tmp_path: Path):
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "config.json").write_text('{"model_type": "alien"}')
    with pytest.raises(BabelclipError, match="alien, which the installed transformers"):
        load_student(Student(model=str(tmp_path / "alien")), embed_dim=4)
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    with pytest.raises(BabelclipError, match="encoder and decoder in one"):
        load_student(Student(model=str(tmp_path / "t5")), embed_dim=4)
    folder = make_folder(tmp_path / "plain", "modernbert")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(BabelclipError, match="cannot be read as a modernbert"):
        load_student(Student(model=str(folder)), embed_dim=4)
    with pytest.raises(BabelclipError, match="no folder and no published model"):
        load_student(Student(model="nowhere"), embed_dim=4)


@pytest.mark.parametrize("kind", ["tension", "sts"])
def test_a_plain_folder_that_only_transformers_reads_is_trained_on_sentences(tmp_path: Path, kind: str):
    folder = make_folder(tmp_path / "plain", "modernbert")
    (tmp_path / "texts.en").write_text("\n".join(make_captions().texts), encoding="utf-8")
    rows = [f"g\tf\ty\t{n}\t{n % 6}\t{text}\ta red dog\n" for n, text in enumerate(make_captions().texts[:20])]
    (tmp_path / "sts.csv").write_text("".join(rows), encoding="utf-8")
    train = {"kind": kind, "steps": 2, "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 1e-3}
    student = {"model": str(folder), "pooling": "cls"} if kind == "sts" else {"model": str(folder)}
    recipe = recipe_from_dict(
        {
            "train": train,
            "student": student,
            "data": {"captions": [str(tmp_path / "texts.en")]},
            "sts": {"pairs": [str(tmp_path / "sts.csv")]},
        }
    )
    if kind == "sts":
        clip = sts(recipe, tmp_path / "run", progress=False).clip
    else:
        clip = tension(recipe, tmp_path / "run", progress=False).model
    assert clip.text is not None
    assert clip.text.pooling == ("cls" if kind == "sts" else "mean")
    untaught = load_encoder(folder).encode_text(["a red dog"])
    again = babelclip.load(clip.save(tmp_path / "saved"), device="cpu", dtype="float32").encode_text(["a red dog"])
    assert np.abs(again - untaught).max() > 1e-4
    np.testing.assert_allclose(again, clip.encode_text(["a red dog"]), atol=1e-6)


def test_dropout_is_set_also_where_layers_keep_it_as_a_number(tmp_path: Path):
    text = load_student(Student(model=str(make_folder(tmp_path / "plain", "m2m_100"))), embed_dim=EMBED_DIM).text
    assert text is not None
    set_dropout(text, 0.25)
    kept = [module.dropout for module in text.modules() if isinstance(vars(module).get("dropout"), float)]
    assert len(kept) > 2
    assert set(kept) == {0.25}
    assert text.training
