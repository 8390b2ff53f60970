"""A layout loads from a hub by its name as it does from its folder; files that the load does not need stay there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import babelclip
from tests.golden.inputs import TEXTS, pictures

GOLDEN = Path(__file__).parents[2] / "golden"
# One of each reader, and each form of weights. (OpenAI's own archives are not on the hub.)
FOLDERS = (
    "altclip_hub", "clip_old", "contrastive_tension_bert", "mclip_distilbert", "mclip_inline", "mclip_legacy_distil",
    "metaclip2", "openclip_nllb_siglip", "openclip_vit", "sentence_transformers_2021", "siglip2_naflex",
    "tensorflow_mclip",
)  # fmt: skip
OTHER_FORMS = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "picture.png")
OURS = ("expected.npz", "origin.json")


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in OURS)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def vectors(clip) -> np.ndarray:
    if clip.text is not None:
        return clip.encode_text(TEXTS[:4], normalize=False)
    return clip.encode_image(pictures()[:2], normalize=False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_layout_loads_by_name_as_from_its_folder(hub, folder):
    files = files_of(GOLDEN / folder)
    others = {name: b"never fetched" * 500 for name in OTHER_FORMS if name not in files}
    if not any(name.endswith(".safetensors") for name in files):
        others = {name: content for name, content in others.items() if not name.endswith((".bin", ".h5"))}
    name = f"some/{folder}"
    commit = hub.push(name, {**files, **others})
    expected = babelclip.load(GOLDEN / folder)
    clip = babelclip.load(name, progress=False)
    assert clip.revision == commit
    assert (clip.text is None, clip.image is None) == (expected.text is None, expected.image is None)
    np.testing.assert_array_equal(vectors(clip), vectors(expected))
    assert not set(others) & set(hub.fetched())
    assert len(hub.fetched()) == len(set(hub.fetched()))


def test_one_tower_of_two_files_does_not_fetch_the_other(hub, tmp_path, tiny_clip):
    folder = tiny_clip.save(tmp_path / "model")
    hub.push("some/model", files_of(folder))
    babelclip.load("some/model", towers="text", progress=False)
    assert sorted(hub.fetched()) == ["config.json", "text_encoder.safetensors", "tokenizer.json"]
