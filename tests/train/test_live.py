from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.data.captions import Captions
from babelclip.data.embed_targets import text_vectors
from babelclip.data.mixer import Mixer, Source
from babelclip.errors import BabelclipError, SpaceMismatchError
from babelclip.models.text import TextEncoder
from babelclip.store import EmbeddingStore
from babelclip.train.distill import distill
from babelclip.train.live import LiveTargets, SourceTexts, Targets
from babelclip.train.recipe import recipe_from_dict
from tests.conftest import make_clip, make_text_encoder
from tests.train.parts import make_captions

TRAIN = {"steps": 9, "lr": 3e-3, "warmup_steps": 2, "precision": "fp32", "batch_size": 16}


def live(captions: Captions | None = None, target: str = "projected") -> LiveTargets:
    return LiveTargets(make_clip(5), SourceTexts.from_parts([captions or make_captions()]), target=target)


def stored(folder: Path, target: str = "projected") -> EmbeddingStore:
    clip, english = make_clip(5), make_captions().select(lang="en")
    assert clip.text is not None
    vectors = text_vectors(clip.text, english.texts, target=target)
    facts = {"space": "test/tiny", "model": "tiny", "dim": vectors.shape[1], "dtype": "float32", "normalized": False}
    with EmbeddingStore.create(folder, target=target, **facts) as store:
        store.append(english.ids, vectors)
    return EmbeddingStore.open(folder)


def trained(targets: Targets, folder: Path, mixed: bool) -> tuple[TextEncoder, float]:
    captions = make_captions()
    data = Mixer([Source("all", captions)], english_share=0.3) if mixed else captions
    recipe = recipe_from_dict({"train": TRAIN, "data": {"window": 50}})
    student = make_text_encoder(1, embed_dim=targets.dim)
    result = distill(student, data, targets, recipe, folder, validation=captions, progress=False)
    return student, result.run.validation["mse"]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("target", ["projected", "pooled"])
def test_a_live_teacher_gives_what_its_store_gives(tmp_path: Path, mixed: bool, target: str):
    first, mse = trained(stored(tmp_path / "store", target), tmp_path / "a", mixed)
    second, same = trained(live(target=target), tmp_path / "b", mixed)
    assert mse == pytest.approx(same, rel=1e-4)
    for name, expected in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_a_live_run_over_a_mix_resumes_bit_equal(tmp_path: Path):
    mixer = Mixer([Source("all", make_captions())], english_share=0.3)

    def run(name: str, steps: int, resume: bool = False) -> TextEncoder:
        recipe = recipe_from_dict({"train": {**TRAIN, "steps": steps}, "data": {"window": 50}})
        student = make_text_encoder(1)
        distill(student, mixer, live(), recipe, tmp_path / name, resume=resume, progress=False)
        return student

    whole = run("whole", 9)
    run("cut", 5)
    resumed = run("cut", 9, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_texts_of_translations_are_not_read_and_lacking_ones_are_named(tmp_path: Path):
    targets = live()
    assert len(targets) == 60
    assert targets.find(["en-3", "sv-3", "nobody"]).tolist() == [3, -1, -1]
    with pytest.raises(BabelclipError, match=r"1 of 2 captions have no source text .*nobody.*teacher\.sources"):
        targets.positions(["en-1", "nobody"])
    with pytest.raises(SpaceMismatchError, match="elsewhere"):
        targets.check_space("elsewhere")
    with pytest.raises(BabelclipError, match="without its text tower"):
        clip = make_clip()
        clip.text = None
        LiveTargets(clip, SourceTexts.from_parts([make_captions()]))


def test_texts_laid_out_in_a_file_are_those_in_memory(tmp_path: Path):
    parts = [make_captions().select(lang="en"), make_captions().select(lang="sv")]
    SourceTexts.from_parts(parts, tmp_path / "texts")
    mapped, kept = SourceTexts.open(tmp_path / "texts"), SourceTexts.from_parts(parts)
    assert SourceTexts.is_at(tmp_path / "texts")
    assert mapped.take(np.array([5, 1])) == kept.take(np.array([5, 1]))
    assert mapped.find(["en-59"]).tolist() == [59]
