"""Tars read shard by shard: the pairs are those of other readers, and a run resumes in the middle of an epoch."""

from __future__ import annotations

import io
import logging
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.data.sources import read_all
from babelclip.errors import BabelclipError
from babelclip.models.preprocess import PictureError, Preprocess, open_picture
from babelclip.train.contrastive import ContrastiveResult, contrastive
from babelclip.train.log import read_log
from babelclip.train.processes import connect
from babelclip.train.recipe import Recipe, Train, apply_overrides
from babelclip.train.tar_batches import TarBatches
from babelclip.train.tar_shards import TarShards
from tests.conftest import COLOURS, draw_shape, make_clip, make_text_encoder

SHORT = ["train.kind=contrastive", "train.precision=fp32", "train.device=cpu", "train.lr=3e-3", "train.log_every=1"]
SHORT += ["train.warmup_steps=2", "train.batch_size=6", "train.epochs=2", "train.eps=1e-4", "train.save_every=1"]
SHORT += ["towers.image=head", "data.stream=true", "data.lang=en", "data.lanes=2", "data.window=8"]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def png(colour: str, shape: str, size: int) -> bytes:
    buffer = io.BytesIO()
    draw_shape(colour, shape, size).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Fifteen pictures in three tars of 9, 1 and 5; two of the first are called by two captions and by none."""
    folder = tmp_path / "tars"
    folder.mkdir()
    number = 0
    for shard, count in enumerate((9, 1, 5)):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for _ in range(count):
                colour, shape = list(COLOURS)[number % 4], ("circle", "square", "triangle")[number % 3]
                add(archive, f"{number:04}.png", png(colour, shape, 30 + number))
                text = f"{colour} {shape} {number}" if number != 3 else "two\nlines"
                if number != 5:
                    add(archive, f"{number:04}.txt", text.encode())
                if number:
                    add(archive, f"{number:04}.json", b'{"lang": "en"}')
                number += 1
    return folder


def opened(tars: Path, folder: Path, **more: bool) -> TarShards:
    return TarShards.open(
        [str(tars)], folder, connect(Train(device="cpu", precision="fp32")), progress=False, lang="en", **more
    )


def batches_of(shards: TarShards, pool: ThreadPoolExecutor, *overrides: str) -> TarBatches:
    recipe = apply_overrides(Recipe(), [*SHORT, *overrides])
    return TarBatches(shards, make_text_encoder(), Preprocess(resize=32, crop=32), pool, recipe)


def train(tars: Path, out: Path, *overrides: str, resume: bool = False) -> ContrastiveResult:
    model = out.parent / "model"
    if not model.exists():
        make_clip().save(model)
    settings = [*SHORT, f"student.model={model}", f"data.captions={tars}", *overrides]
    trained = contrastive(apply_overrides(Recipe(), settings), out, resume=resume, progress=False)
    torch.save(trained.clip.text.state_dict(), out.with_suffix(".pt"))
    return trained.result


def test_captions_and_their_pictures_are_those_that_other_readers_find(tars: Path, tmp_path: Path):
    shards = opened(tars, tmp_path / "found")
    captions = read_all(tars, lang="en")
    assert shards.sizes.tolist() == [9, 1, 5]
    assert shards.languages == captions.language_counts() == {"en": 15}
    with ThreadPoolExecutor(2) as pool:
        batches = batches_of(shards, pool)
        rows = np.array([14, 0, 3, 9, 4])
        batch = batches.load(rows)
        batches.close()
    tower = make_text_encoder()
    ids, mask = tower.pad(tower.tokenize([captions.texts[row] for row in rows]))
    assert torch.equal(batch["input_ids"], ids)
    assert torch.equal(batch["attention_mask"], mask)
    names = captions.table["image"].to_pylist()
    pixels = [Preprocess(resize=32, crop=32)(open_picture(tars / names[row])) for row in rows]
    assert torch.equal(batch["pixels"], torch.from_numpy(np.stack(pixels)))
    groups = batch["groups"]
    assert groups[2, 1] == groups[4, 1], "two captions of one picture are positives of each other"
    assert len(groups[:, 0].unique()) == 5
    assert len(groups[:, 1].unique()) == 4


def test_what_is_in_a_tar_is_found_out_once_and_again_when_it_changes(tars: Path, tmp_path: Path):
    opened(tars, tmp_path / "found")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "found").iterdir()}
    assert len(kept) == 3
    again = opened(tars, tmp_path / "found")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "found").iterdir()} == kept
    with tarfile.open(tars / "00001.tar", "w") as archive:
        add(archive, "a.png", png("red", "circle", 40))
        add(archive, "a.txt", b"one\ntwo\nthree")
    changed = opened(tars, tmp_path / "found")
    assert changed.sizes.tolist() == [9, 3, 5]
    assert changed.fingerprint != again.fingerprint


def test_a_damaged_tar_and_an_unreadable_picture_are_counted_or_with_strict_an_error(
    tars: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tars / "00001.tar").write_bytes(b"this is no tar" * 100)
    with tarfile.open(tars / "00003.tar", "w") as archive:
        add(archive, "b.jpg", b"this is no picture")
        add(archive, "b.txt", b"nothing")
    with caplog.at_level(logging.WARNING):
        shards = opened(tars, tmp_path / "found")
    assert shards.sizes.tolist() == [9, 0, 5, 1]
    assert shards.skipped["no caption of a tar can be used"] == 1
    assert "tars/00001.tar is left out" in caplog.text
    with pytest.raises(BabelclipError, match=r"00000\.tar, sample 6: picture without text"):
        opened(tars, tmp_path / "strict", strict=True)
    with ThreadPoolExecutor(2) as pool:
        batch = batches_of(shards, pool).load(np.array([14, 2]))
        assert torch.equal(batch["pixels"][0], batch["pixels"][1]), "the other pair stands in"
        assert torch.equal(batch["groups"][0], batch["groups"][1])
        with pytest.raises(PictureError):
            batches_of(shards, pool, "data.strict=true").load(np.array([14, 2]))


def test_a_streamed_run_sees_every_pair_and_resumes_in_the_middle_of_an_epoch_bit_for_bit(tars: Path, tmp_path: Path):
    whole = train(tars, tmp_path / "whole")
    assert (whole.run.step, whole.run.examples, whole.captions) == (6, 30, 15)
    train(tars, tmp_path / "cut", "train.epochs=0", "train.steps=2")
    with pytest.raises(BabelclipError, match=r"train\.epochs was"):
        train(tars, tmp_path / "cut", "data.lanes=3", resume=True)
    with pytest.raises(BabelclipError, match=r"captions\.lanes was 2 and is 3"):
        train(tars, tmp_path / "cut", "train.epochs=0", "train.steps=6", "data.lanes=3", resume=True)
    train(tars, tmp_path / "cut", "train.epochs=0", "train.steps=6", resume=True)
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "cut"))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    losses = [[line["loss"] for line in read_log(tmp_path / name / "log.jsonl")] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("towers.image=locked", 'towers.image = "locked" with image_features = ""'),
        ("data.weights.en=2", "data.weights was given"),
        ("student.long=skip", 'student.long = "skip" was given'),
    ],
)
def test_settings_that_need_all_rows_at_once_are_refused(tars: Path, tmp_path: Path, setting: str, words: str):
    with pytest.raises(BabelclipError) as raised:
        train(tars, tmp_path / "run", setting)
    assert words.replace('"', "'") in str(raised.value).replace('"', "'")


def test_a_folder_without_tars_says_what_is_read(tmp_path: Path):
    (tmp_path / "0.jpg").write_bytes(b"")
    with pytest.raises(BabelclipError, match=r"holds no \.tar.*stream = false"):
        train(tmp_path, tmp_path / "run")
    with pytest.raises(BabelclipError, match="does not exist"):
        train(tmp_path / "gone", tmp_path / "run")
