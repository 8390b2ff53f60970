"""A run whose tars and folder lie in object storage, on a machine that is lost in the middle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load
from typer.testing import CliRunner

from babelclip.cli.main import app
from babelclip.storage import read_bytes
from tests.conftest import make_clip
from tests.storage.conftest import objects, put_folder
from tests.train.pair_processes import tars_in

SETTINGS = ["train.kind=contrastive", "train.precision=fp32", "train.device=cpu", "train.batch_size=6", "train.seed=3"]
SETTINGS += ["towers.image=head", "data.stream=true", "data.lang=en", "data.lanes=2", "data.window=8"]


def train(folder: Path, tars: str, out: str, steps: int) -> None:
    (folder / "recipe.toml").write_text("[train]\nlr = 3e-3\n")
    changes = [*SETTINGS, f"train.steps={steps}", f"data.captions={tars}", f"student.model={folder / 'model'}"]
    words = ["train", str(folder / "recipe.toml"), "--out", out, "--resume"]
    done = CliRunner().invoke(app, words + [word for change in changes for word in ("--set", change)])
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert str(folder / "cache") not in done.output


def test_a_run_in_object_storage_goes_on_from_another_machine_as_if_never_cut(tmp_path: Path, s3: Callable[[str], str]):
    make_clip().save(tmp_path / "model")
    put_folder(tars_in(tmp_path / "tars"), s3("tars"))
    train(tmp_path, str(tmp_path / "tars"), str(tmp_path / "whole"), 5)
    train(tmp_path, s3("tars"), s3("run"), 2)
    # The next machine has an empty disk.
    shutil.rmtree(tmp_path / "cache")
    train(tmp_path, s3("tars"), s3("run"), 5)
    last = json.loads(read_bytes(s3("run/checkpoints/last.json")))
    assert last["step"] == 5
    whole = load((tmp_path / "whole" / "checkpoints" / last["folder"] / "weights.safetensors").read_bytes())
    cut = load(read_bytes(s3(f"run/checkpoints/{last['folder']}/weights.safetensors")))
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    assert {"model/config.json", "log.jsonl", "recipe.toml"} <= set(objects(s3("run")))
