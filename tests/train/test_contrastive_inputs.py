"""What a contrastive run reads: towers by a line of the recipe, stores, pictures that lack, batches, the benchmark."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.data.captions import Captions, write_captions
from babelclip.errors import BabelclipError
from babelclip.models.clip import Clip
from babelclip.models.preprocess import PictureError
from babelclip.store import EmbeddingStore
from babelclip.train import checkpoint, towers
from babelclip.train.contrastive import ContrastiveResult, contrastive, train_contrastive
from babelclip.train.log import read_log
from babelclip.train.pair_batches import group_numbers
from babelclip.train.pair_sources import open_pairs, open_towers
from babelclip.train.recall import Benchmark, recalls
from babelclip.train.recipe import Recipe, Student, apply_overrides, recipe_from_dict
from babelclip.train.stages import run_stages
from babelclip.train.students import load_student
from tests.conftest import COLOURS, draw_shape, make_clip
from tests.train.test_students import make_folder

SHORT = ["train.kind=contrastive", "train.precision=fp32", "train.device=cpu", "train.lr=3e-3", "train.log_every=1"]
SHORT += ["train.warmup_steps=2", "train.batch_size=6", "train.steps=3", "train.eps=1e-4"]


@pytest.fixture
def shapes(tmp_path: Path) -> Captions:
    """Twelve drawn pictures in a folder, called by their names, with captions in two languages."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    texts, names = [], []
    for colour in COLOURS:
        for shape in ("circle", "square", "triangle"):
            draw_shape(colour, shape).save(folder / f"{colour}-{shape}.png")
            texts.append(f"{colour} {shape}")
            names.append(f"{colour}-{shape}.png")
    return Captions.from_columns(text=texts, lang=["en"] * 6 + ["sv"] * 6, image=names)


def train(tmp_path: Path, captions: Captions, *overrides: str, clip: Clip | None = None, **more) -> ContrastiveResult:
    folder = tmp_path / "pictures"
    paths = {path.name: path for path in folder.iterdir()}
    recipe = apply_overrides(Recipe(), [*SHORT, *overrides])
    out = tmp_path / more.pop("name", "run")
    return train_contrastive(clip or make_clip(), captions, recipe, out, paths=paths, progress=False, **more)


def weights(clip: Clip) -> dict[str, torch.Tensor]:
    both = {"text": clip.text, "image": clip.image}
    return {f"{n}.{key}": t.clone() for n, tower in both.items() for key, t in tower.state_dict().items()}


def difference(a: Clip, b: Clip) -> float:
    one, two = weights(a), weights(b)
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_sigmoid_starts_as_siglip_and_both_scalars_go_back_into_the_clip(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    result = train(tmp_path, shapes, "loss.name=sigmoid", clip=clip)
    first, last = (read_log(tmp_path / "run" / "log.jsonl")[place] for place in (0, -1))
    assert (first["logit_scale"], first["logit_bias"]) == (pytest.approx(10), pytest.approx(-10))
    assert clip.logit_scale == result.logit_scale != 10
    assert clip.logit_bias == pytest.approx(last["logit_bias"], abs=0.01)
    assert clip.logit_bias != -10
    saved, _, _ = checkpoint.load(tmp_path / "run", 3)
    assert saved["bias"].item() == pytest.approx(clip.logit_bias)
    again = make_clip()
    again.logit_scale, again.logit_bias = 21.0, -3.0
    train(tmp_path, shapes, "loss.name=sigmoid", "towers.logit_scale=locked", clip=again, name="again")
    assert (again.logit_scale, again.logit_bias) == (21.0, -3.0)
    assert "log_scale" not in checkpoint.load(tmp_path / "again", 3)[0]
    train(tmp_path, shapes, clip=again, name="clip")
    assert again.logit_bias is None, "a bias belongs to the scale that it was trained with"


def test_a_live_locked_tower_gives_the_run_of_its_vectors_computed_once(tmp_path: Path, shapes: Captions):
    once, live = make_clip(), make_clip()
    train(tmp_path, shapes, clip=once, name="once")
    train(tmp_path, shapes, "towers.image_features=live", clip=live, name="live")
    assert difference(once, live) < 1e-5
    assert len(EmbeddingStore.open(tmp_path / "once" / "image_features")) == 12
    assert not (tmp_path / "live" / "image_features").exists()
    assert {name.split(".")[0] for name in checkpoint.load(tmp_path / "live", 3)[0]} == {"text", "log_scale"}
    assert not live.image.training


def test_a_locked_text_tower_is_read_once_and_the_picture_tower_moves(tmp_path: Path, shapes: Captions):
    clip, live = make_clip(), make_clip()
    before = weights(clip)
    train(tmp_path, shapes, "towers.text=locked", "towers.image=last 1 blocks", clip=clip)
    moved = {name for name, tensor in weights(clip).items() if not torch.equal(tensor, before[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == {"image"}
    assert all(".layers.1." in name or "post_layernorm" in name or ".head." in name for name in moved)
    assert set(checkpoint.load(tmp_path / "run", 3)[0]) >= moved
    both = ["towers.text=locked", "towers.text_features=live", "towers.image=last 1 blocks"]
    train(tmp_path, shapes, *both, clip=live, name="live")
    assert difference(clip, live) < 1e-5
    store = EmbeddingStore.open(tmp_path / "run" / "text_features")
    stored = make_clip()
    stored.text = None
    image = ["towers.text=locked", "towers.image=last 1 blocks"]
    train(tmp_path, shapes, *image, clip=stored, text_features=store, name="stored")
    stored.text = clip.text
    assert difference(clip, stored) < 1e-6


def test_parts_of_a_batch_train_as_the_whole_does_and_resume_bit_for_bit(tmp_path: Path, shapes: Captions):
    free = ["towers.image=free", "train.eps=1e-4"]
    whole, parts, dropped, cut, resumed = (make_clip() for _ in range(5))
    train(tmp_path, shapes, *free, clip=whole, name="whole")
    train(tmp_path, shapes, *free, "train.micro_batch=2", clip=parts, name="parts")
    assert difference(whole, parts) < 1e-6
    with_dropout = [*free, "train.micro_batch=4", "student.dropout=0.2"]
    train(tmp_path, shapes, *with_dropout, clip=dropped, name="dropped")
    train(tmp_path, shapes, *with_dropout, "train.steps=2", clip=cut, name="cut")
    train(tmp_path, shapes, *with_dropout, clip=resumed, name="cut", resume=True)
    assert difference(dropped, resumed) == 0
    assert difference(dropped, parts) > 1e-4


def test_texts_of_a_length_pass_together_on_a_processor(shapes: Captions, monkeypatch: pytest.MonkeyPatch):
    clip = make_clip()
    pair = towers.Pair(clip.text, None, 10.0, None)
    ids, mask = clip.text.pad(clip.text.tokenize([*shapes.texts, "a", "two red dog cat star the the the"]))
    together = pair({"input_ids": ids, "attention_mask": mask})[1]
    monkeypatch.setattr(towers, "_TEXTS_OF_A_PASS", 4)
    torch.testing.assert_close(pair({"input_ids": ids, "attention_mask": mask})[1], together)


def test_captions_without_a_picture_are_counted_and_left_out(tmp_path: Path, shapes: Captions, caplog):
    names = shapes.table["image"].to_pylist()
    gaps = Captions.from_columns(text=shapes.texts, lang=["en"] * 12, image=[None, "gone.png", *names[2:]])
    (tmp_path / "pictures" / names[2]).write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        result = train(tmp_path, gaps, name="once")
    assert result.skipped == {"no picture": 1, "picture is not there": 1, "picture is unreadable": 1}
    assert (result.captions, result.pictures) == (9, 9)
    assert "2 of 12 captions are left out: 1 no picture, 1 picture is not there" in caplog.text
    result = train(tmp_path, gaps, "towers.image=free", "train.steps=6", name="free")
    assert result.skipped == {"no picture": 1, "picture is not there": 1, "picture is unreadable": 1}
    assert result.captions == 10
    with pytest.raises(BabelclipError, match=r"2 of 12 captions cannot be used.*strict = false"):
        train(tmp_path, gaps, "data.strict=true")
    there = Captions.from_columns(text=shapes.texts[2:], lang=["en"] * 10, image=names[2:])
    with pytest.raises(PictureError, match=names[2]):
        train(tmp_path, there, "data.strict=true", "towers.image=free")
    shutil.rmtree(tmp_path / "pictures")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(BabelclipError, match="Check the folder"):
        train(tmp_path, shapes)


def test_long_texts_are_cut_or_left_out_and_counted(tmp_path: Path, shapes: Captions):
    texts = [*shapes.texts[:11], "dog " * 40]
    long = Captions.from_columns(text=texts, lang=shapes.langs, image=shapes.table["image"].to_pylist())
    assert train(tmp_path, long, name="cut").truncated == 1
    result = train(tmp_path, long, "student.long=skip", name="skip")
    assert (result.skipped, result.captions, result.truncated) == ({"text is too long": 1}, 11, 0)


def test_equal_labels_texts_and_pictures_are_positives():
    captions = Captions.from_columns(
        text=["a dog", "A  dog", "cat", "hund"], lang=["en"] * 4, image=list("abca"), label=[None, None, "x", "x"]
    )
    texts, images, labels = group_numbers(captions).T
    assert texts[0] == texts[1] != texts[2]
    assert images[0] == images[3] != images[1]
    assert labels[2] == labels[3]
    assert len(set(labels.tolist())) == 3, "no label is none in common"


def test_few_texts_and_one_language_are_told(tmp_path: Path, shapes: Captions, caplog):
    names = shapes.table["image"].to_pylist()
    colours = Captions.from_columns(text=["red", "blue"] * 6, lang=["en"] * 12, image=names)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, colours, "train.batch_size=12")
    assert "A batch of 12 captions holds 2 distinct texts" in caplog.text
    assert "All captions are in en, but the text tower knows 1 further languages" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(tmp_path, shapes, name="two languages")
    assert caplog.text == ""


def test_weights_of_languages_choose_what_is_seen(tmp_path: Path, shapes: Captions):
    result = train(tmp_path, shapes, "data.weights={ sv = 0 }", "train.steps=2")
    assert result.run.examples == 12
    with pytest.raises(BabelclipError, match="names de, but the captions are in en, sv"):
        train(tmp_path, shapes, "data.weights={ de = 2 }", name="other")


def test_recall_while_training_is_that_of_the_clip_at_the_end(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    paths = {path.name: path for path in (tmp_path / "pictures").iterdir()}
    settings = ["towers.image=free", "train.validate_every=1", "train.best_is=highest", "train.early_stop=50"]
    result = train(tmp_path, shapes, *settings, clip=clip, benchmark=Benchmark(shapes, paths))
    names = shapes.table["image"].to_pylist()
    groups = np.arange(12).astype(str)
    pictures = clip.encode_image([paths[name] for name in names])
    expected = recalls(clip.encode_text(shapes.texts), pictures, shapes.langs, groups, groups)
    assert result.run.validation == pytest.approx(expected)
    assert list(expected)[:6] == ["R@1", "R@5", "R@10", "i2t R@1", "i2t R@5", "i2t R@10"]
    assert expected["R@10"] == pytest.approx((expected["R@10/en"] + expected["R@10/sv"]) / 2)
    with pytest.raises(BabelclipError, match="set best_is"):
        train(tmp_path, shapes, benchmark=Benchmark(shapes, paths), name="lowest")


def test_recall_stops_a_run_that_no_longer_gains(tmp_path: Path, shapes: Captions):
    paths = {path.name: path for path in (tmp_path / "pictures").iterdir()}
    settings = ["train.lr=0", "train.validate_every=1", "train.best_is=highest", "train.early_stop=2"]
    result = train(tmp_path, shapes, *settings, benchmark=Benchmark(shapes, paths))
    assert (result.run.status, result.run.step) == ("finished", 2)


def test_a_file_of_stages_locks_first_and_frees_heads_afterwards(tmp_path: Path, shapes: Captions):
    make_clip().save(tmp_path / "base")
    write_captions(shapes, tmp_path / "pictures" / "captions.jsonl")
    recipe = recipe_from_dict(
        {
            "train": {"kind": "contrastive", "device": "cpu", "precision": "fp32", "lr": 1e-3, "steps": 2},
            "student": {"model": str(tmp_path / "base")},
            "data": {"captions": [str(tmp_path / "pictures" / "captions.jsonl")]},
            "stages": [
                {"name": "text", "train": {"batch_size": 6}},
                {"name": "heads", "towers": {"image": "head", "text": "head"}, "train": {"batch_size": 4}},
            ],
        }
    )
    made: list[Clip] = []

    def one(staged: Recipe, folder: Path, resume: bool):
        trained = contrastive(staged, folder, resume=resume, progress=False)
        trained.clip.save(folder / "model")
        made.append(trained.clip)
        return trained.result.run.status

    result = run_stages(recipe, tmp_path / "out", one)
    assert result.ran == ("text", "heads")
    first, second = made
    before, after = weights(first), weights(second)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".head." in name for name in changed)
    base = weights(make_clip())
    assert not [n for n in base if n.startswith("image.") and not torch.equal(base[n], before[n])]
    assert first.space == "test/tiny"
    assert second.space == "test/tiny+stage-2-heads", "moved pictures do not compare with those of before"
    assert run_stages(recipe, tmp_path / "out", one, resume=True).ran == ()


def test_a_text_tower_joins_the_picture_tower_of_another_model(tmp_path: Path, shapes: Captions):
    make_clip().save(tmp_path / "pictures-model")
    make_clip(seed=5).save(tmp_path / "text-model")
    write_captions(shapes, tmp_path / "pictures" / "captions.jsonl")
    both = [f"student.model={tmp_path / 'text-model'}", f"towers.image_model={tmp_path / 'pictures-model'}"]
    source = f'data.captions=["{tmp_path / "pictures" / "captions.jsonl"}"]'
    recipe = apply_overrides(Recipe(), [*SHORT, *both, "student.head=linear", source])
    trained = contrastive(recipe, tmp_path / "run", progress=False)
    assert trained.clip.space == "test/tiny"
    assert torch.equal(weights(trained.clip)["image.head.0.weight"], weights(make_clip())["image.head.0.weight"])
    with pytest.raises(BabelclipError, match=r"student\.model, which contrastive training needs"):
        contrastive(apply_overrides(Recipe(), [*SHORT, source]), tmp_path / "none", progress=False)


def test_a_mix_of_teacher_learning_is_refused(tmp_path: Path, shapes: Captions):
    recipe = recipe_from_dict({"train": {"kind": "contrastive"}, "mix": {"sources": [{"captions": "x"}]}})
    with pytest.raises(BabelclipError, match=r"\[mix\], which contrastive training does not read"):
        train_contrastive(make_clip(), shapes, recipe, tmp_path / "run")


def test_two_pictures_of_one_name_are_refused(tmp_path: Path, shapes: Captions):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_captions(shapes, tmp_path / name / "captions.jsonl")
    sources = [str(tmp_path / name / "captions.jsonl") for name in ("a", "b")]
    with pytest.raises(BabelclipError, match=r"names two pictures 'red-circle\.png'"):
        open_pairs(sources, "data.captions")
    with pytest.raises(BabelclipError, match=r"data\.captions, which this training needs"):
        open_pairs([], "data.captions")


def test_an_embed_dim_that_the_space_does_not_have_is_refused_and_no_head_is_lost(tmp_path: Path):
    make_clip().save(tmp_path / "model")
    recipe = apply_overrides(Recipe(), [*SHORT, f"student.model={tmp_path / 'model'}", "student.embed_dim=5"])
    with pytest.raises(BabelclipError, match=r"set embed_dim = 16 in \[student\]"):
        open_towers(recipe)


def test_a_locked_tower_that_reads_languages_is_told_those_of_the_captions(tmp_path: Path, shapes: Captions):
    clip = make_clip()
    assert clip.text is not None
    folder = make_folder(tmp_path / "nllb", "m2m_100")
    clip.text = load_student(Student(model=str(folder)), embed_dim=clip.embed_dim).text
    assert clip.text is not None
    options = ("towers.text=locked", "towers.image=head", "train.steps=1", "train.best_is=highest")
    benchmark = Benchmark(shapes, {path.name: path for path in (tmp_path / "pictures").iterdir()})
    train(tmp_path, shapes, *options, clip=clip, benchmark=benchmark)
    store = EmbeddingStore.open(tmp_path / "run" / "text_features")
    found = store.gather(store.positions(list(shapes.ids)))
    expected = clip.text.encode(shapes.texts, normalize=False, lang=list(shapes.langs))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - clip.text.encode(shapes.texts, normalize=False)).max() > 1e-4
