from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from babelclip.data.captions import Captions, write_captions
from babelclip.data.mix import Mix, MixSource, open_mix
from babelclip.data.mixer import Mixer, Source
from babelclip.errors import BabelclipError
from babelclip.models.text import TextEncoder
from babelclip.train.distill import distill
from babelclip.train.log import read_log
from babelclip.train.recipe import recipe_from_dict
from babelclip.train.texts import TokenTable, beyond_room
from tests.conftest import make_text_encoder
from tests.train.parts import make_captions, make_store

TRAIN = {
    "steps": 11, "lr": 3e-3, "warmup_steps": 2, "precision": "fp32", "batch_size": 16, "log_every": 1, "save_every": 0,
}  # fmt: skip


def make_mixer(seed: int = 0, **settings: Any) -> Mixer:
    captions = make_captions()
    sources = [Source("own", captions.select(lang="en")), Source("sv", captions.select(lang="sv"), 2.0)]
    return Mixer(sources, seed=seed, **{"english_share": 0.3, **settings})


def train(
    folder: Path, mixer: Mixer, *, resume: bool = False, targets: int = 60, student: dict[str, Any] | None = None,
    missing: str = "error", **more: Any,
) -> tuple[TextEncoder, Any]:  # fmt: skip
    text = make_text_encoder()
    if student and "max_length" in student:
        text.tokenizer.max_length = student["max_length"]
    recipe = recipe_from_dict(
        {
            "train": {**TRAIN, **more},
            "data": {"window": 50},
            "student": student or {},
            "teacher": {"missing": missing},
        }
    )
    store = make_store(folder / f"store-{resume}", targets)
    return text, distill(text, mixer, store, recipe, folder / "run", resume=resume, progress=False)


def weights_of(text: TextEncoder) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in text.parameters()]


def equal(first: TextEncoder, second: TextEncoder) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(second), strict=True))


def lines(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "run" / "log.jsonl") if line["event"] == "train"]


@pytest.mark.parametrize("cut", np.random.default_rng(6).integers(1, 11, 3).tolist())
def test_a_mix_that_was_stopped_at_any_step_ends_bit_equal(tmp_path: Path, cut: int):
    whole, _ = train(tmp_path / "whole", make_mixer())
    train(tmp_path / "cut", make_mixer(), steps=cut)
    resumed, result = train(tmp_path / "cut", make_mixer(), resume=True)
    assert equal(whole, resumed)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert result.run.step == 11


def test_one_seed_repeats_and_two_differ(tmp_path: Path):
    first, _ = train(tmp_path / "a", make_mixer())
    again, _ = train(tmp_path / "b", make_mixer())
    other_mix, _ = train(tmp_path / "c", make_mixer(seed=1))
    other_run, _ = train(tmp_path / "d", make_mixer(), seed=1)
    assert equal(first, again)
    assert not equal(first, other_mix)
    assert not equal(first, other_run)


def test_windows_of_a_mix_equal_a_hand_written_loop_over_its_rows(tmp_path: Path):
    trained, _ = train(tmp_path, make_mixer(), steps=3, batch_size=50, clip_norm=0.0, warmup_steps=0)
    reference, mixer, store = make_text_encoder(), make_mixer(), make_store(tmp_path / "again")
    optimizer = torch.optim.AdamW(reference.parameters(), lr=3e-3, weight_decay=0)
    for step in range(3):
        rows = mixer.rows(step * 50, 50)
        targets = torch.from_numpy(store.gather(store.positions(rows.column("source_id").to_pylist())))
        features = reference(*reference.pad(reference.tokenize(rows.column("text").to_pylist())))
        (features - targets).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], expected, rtol=1e-3, atol=2e-5, msg=name)


def test_another_mix_is_refused_at_resume(tmp_path: Path):
    train(tmp_path, make_mixer(), steps=2)
    with pytest.raises(BabelclipError, match=r"mix\.fingerprint was"):
        train(tmp_path, make_mixer(temperature=3.0), resume=True)


def test_rows_laid_out_on_disk_train_as_those_in_memory(tmp_path: Path):
    captions = make_captions()
    write_captions(captions.select(lang="en"), tmp_path / "own.jsonl")
    write_captions(captions.select(lang="sv"), tmp_path / "sv.jsonl")
    own, sv = (str(tmp_path / name) for name in ("own.jsonl", "sv.jsonl"))
    mix = Mix(sources=(MixSource(own, "own"), MixSource(sv, "sv", 2.0)), english_share=0.3)
    mapped = open_mix(mix, folder=tmp_path / "rows")
    assert mapped.fingerprint == make_mixer().fingerprint
    first, _ = train(tmp_path / "a", make_mixer())
    second, _ = train(tmp_path / "b", mapped)
    assert equal(first, second)


def test_epochs_count_the_rows_of_the_mix(tmp_path: Path):
    _, result = train(tmp_path, make_mixer(), epochs=1.0)
    # 120 rows in windows of 50, which are batches of 16, 16, 16 and 2.
    assert result.run.steps == -(-120 * 4 // 50)


def test_texts_beyond_the_longest_are_cut_or_skipped_and_counted(tmp_path: Path):
    lengths = [len(ids) for ids in make_text_encoder().tokenize(make_captions().texts)]
    most = 5
    long = sum(length > most for length in lengths)
    assert 0 < long < 120
    for name, kept in (("truncate", 0), ("skip", long)):
        recipe = recipe_from_dict({"train": TRAIN, "student": {"max_length": most, "long": name}})
        text = make_text_encoder()
        text.tokenizer.max_length = most
        result = distill(
            text, make_captions(), make_store(tmp_path / f"s-{name}"), recipe, tmp_path / name, progress=False
        )
        assert (result.counts.long, result.counts.skipped, result.counts.rows) == (long, kept, 120)
    assert f"{long} of them skipped as too long" in str(result.counts)


def test_a_mix_skips_and_counts_too(tmp_path: Path):
    _, result = train(tmp_path, make_mixer(), student={"max_length": 5, "long": "skip"})
    assert result.counts.skipped == result.counts.long > 0
    _, result = train(tmp_path / "b", make_mixer(), student={"max_length": 5})
    assert result.counts.skipped == 0 < result.counts.long
    with pytest.raises(BabelclipError, match=r"Nothing is left of rows 0 to 50 .*student\.max_length"):
        train(tmp_path / "c", make_mixer(), student={"max_length": 2, "long": "skip"})


def test_which_texts_are_too_long_is_told_exactly():
    text = make_text_encoder()
    texts = [" ".join(["red"] * n) for n in range(1, 20)]
    text.tokenizer.max_length = 8
    table = TokenTable.from_texts(text, texts)
    # Two of the eight are special.
    assert beyond_room(text.tokenizer, texts, table.lengths).tolist() == [n > 6 for n in range(1, 20)]
    assert text.tokenizer.max_length == 8


def test_captions_without_a_target_stop_a_run_or_are_left_out_and_counted(tmp_path: Path):
    with pytest.raises(BabelclipError, match="ids are not among the 40 rows"):
        train(tmp_path / "a", make_mixer(), targets=40)
    _, result = train(tmp_path / "b", make_mixer(), targets=40, missing="drop")
    assert result.counts.missing > 0
    recipe = recipe_from_dict({"train": TRAIN, "teacher": {"missing": "drop"}})
    in_memory = distill(
        make_text_encoder(), make_captions(), make_store(tmp_path / "s", 40), recipe, tmp_path / "c", progress=False
    )
    assert in_memory.counts.missing == 40
    assert in_memory.run.step == 11


def test_weights_by_caption_are_refused_with_a_mix(tmp_path: Path):
    recipe = recipe_from_dict({"train": TRAIN, "data": {"weights": {"sv": 2.0}}})
    with pytest.raises(BabelclipError, match="Sampling weights were given with a mix"):
        distill(make_text_encoder(), make_mixer(), make_store(tmp_path / "s"), recipe, tmp_path / "run")


def test_a_fault_of_the_reading_thread_ends_the_run_with_its_message(tmp_path: Path):
    strange = Captions.from_columns(text=["a dog"], lang="sv", id=["x"], source_id=["nobody"])
    with pytest.raises(BabelclipError, match="nobody"):
        train(tmp_path, Mixer([Source("strange", strange)], english_share=0.0))


def test_windows_of_one_batch_are_read_once_also_where_batches_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(folder: Path) -> tuple[TextEncoder, Any]:
        text = make_text_encoder()
        content = {"train": TRAIN | {"accumulation": 2}, "data": {"window": 10}}
        mixer, store = make_mixer(), make_store(folder / "store")
        return text, distill(text, mixer, store, recipe_from_dict(content), folder / "run", progress=False)

    whole, _ = run(tmp_path / "whole")
    monkeypatch.setattr("babelclip.train.step.steps_ahead", lambda device: 2)
    ahead, result = run(tmp_path / "ahead")
    assert equal(whole, ahead)
    # Those of 11 steps, and of the two steps that are read ahead.
    assert result.counts.rows <= 2 * 10 * (11 + 2)
