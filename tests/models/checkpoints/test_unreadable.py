"""A folder that no reader takes gets one message: what it holds, why that is not read, what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from babelclip.models.checkpoints.unreadable import explain_unreadable


def folder_with(tmp_path: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


JINA = {
    "model_type": "jina_clip",
    "architectures": ["JinaCLIPModel"],
    "auto_map": {
        "AutoConfig": "jinaai/jina-clip-implementation--configuration_clip.JinaCLIPConfig",
        "AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel",
    },
}
ADAPTER = {"base_model_name_or_path": "google/siglip2-base-patch16-224"}


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"config.json": JINA}, ("'jina_clip'", "modeling_clip.py", "never runs code", "babelclip models")),
        ({"adapter_config.json": ADAPTER}, ("LoRA", "google/siglip2-base-patch16-224", "merge_and_unload")),
        ({"model_index.json": {}}, ("diffusion pipeline", "Load the CLIP")),
        (
            {"config.json": {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}},
            ("without its projection", "CLIPTextModelWithProjection"),
        ),
        ({"config.json": {"model_type": "llama"}}, ("'llama'", "none that babelclip reads")),
        ({"config.json": {"hidden_size": 3}}, ("without model_type", "Copy config.json")),
        ({"config.json": [1]}, ("without model_type",)),
        ({"preprocessor_config.json": {}}, ("image processor", "no model")),
        ({"tokenizer.json": {}}, ("a tokenizer and no model",)),
        ({"model.safetensors": {}}, ("model.safetensors", "no config.json")),
        ({"model.onnx": {}}, ("ONNX form only", "exported from")),
        ({"notes.txt": {}}, ("it holds notes.txt", "the folder in which config.json")),
    ],
)
def test_the_message_says_what_is_there_and_what_to_do(
    tmp_path: Path, files: dict[str, object], parts: tuple[str, ...]
):
    message = explain_unreadable(folder_with(tmp_path, files))
    assert str(tmp_path) in message
    assert [part for part in parts if part not in message] == []


def test_an_empty_folder_holds_nothing(tmp_path: Path):
    assert "it holds nothing" in explain_unreadable(tmp_path)


def test_a_model_in_a_folder_inside_is_pointed_at(tmp_path: Path):
    folder = folder_with(tmp_path, {"snapshots/abc/config.json": {"model_type": "clip"}})
    assert str(folder / "snapshots" / "abc") in explain_unreadable(folder)


def test_many_files_are_not_all_listed(tmp_path: Path):
    for number in range(30):
        (tmp_path / f"{number:02}.jpg").touch()
    message = explain_unreadable(tmp_path)
    assert "07.jpg and 22 more" in message
    assert "08.jpg" not in message
