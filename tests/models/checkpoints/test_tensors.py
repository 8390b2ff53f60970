"""Every file form gives the same tensors under the same names, lazily, and says clearly what does not fit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.tensors import INDEX, WEIGHT_NAMES, open_tensors, weight_files

STATE = {
    "embeddings.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "layer.0.weight": torch.full((2, 3), 0.5, dtype=torch.float16),
    "layer.0.bias": torch.tensor([1.0, -1.0], dtype=torch.bfloat16),
    "position_ids": torch.arange(5)[None],
    "logit_scale": torch.tensor(2.5),
}


def same(tensors, expected=STATE):
    assert list(tensors) == list(expected) or set(tensors) == set(expected)
    for name, value in expected.items():
        assert tensors.shape(name) == tuple(value.shape)
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def shards(folder: Path, stem: str, suffix: str) -> None:
    """Two shards and their index."""
    names = list(STATE)
    weight_map = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        content = {name: STATE[name] for name in part}
        save_file(content, folder / file) if suffix == "safetensors" else torch.save(content, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}{INDEX}").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_model.safetensors"])
def test_safetensors_are_read(tmp_path, name):
    save_file(STATE, tmp_path / name)
    same(open_tensors(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_in_the_zip_form_and_in_the_one_before(tmp_path, name, zipped):
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    same(open_tensors(tmp_path))


@pytest.mark.parametrize(("stem", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards_are_read_through_their_index(tmp_path, stem, suffix):
    shards(tmp_path, stem, suffix)
    same(open_tensors(tmp_path))


def test_a_file_may_be_given_instead_of_a_folder(tmp_path):
    torch.save(STATE, tmp_path / "any name.pt")
    same(open_tensors(tmp_path / "any name.pt"))


@pytest.mark.parametrize("key", ["module", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.", "_orig_mod.module."])
def test_what_training_wrapped_around_the_weights_is_taken_off(tmp_path, key, prefix):
    inner = {prefix + name: value for name, value in STATE.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 3, "name": "run", key: inner, "optimizer": optimizer}, tmp_path / "pytorch_model.bin")
    same(open_tensors(tmp_path))


def test_wrappers_inside_each_other_are_taken_off(tmp_path):
    torch.save({"model": {"state_dict": STATE}, "step": 1}, tmp_path / "pytorch_model.bin")
    same(open_tensors(tmp_path))


def test_a_prefix_that_not_all_names_share_stays(tmp_path):
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    save_file(mixed, tmp_path / "model.safetensors")
    assert set(open_tensors(tmp_path)) == set(mixed)


def test_two_sets_of_weights_in_one_file_are_refused(tmp_path):
    torch.save({"model": STATE, "module": STATE}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BabelclipError, match=r"pytorch_model\.bin holds several sets of weights: module, model"):
        open_tensors(tmp_path)


def test_checkpoints_with_random_generator_state_are_read(tmp_path):
    extra = {
        "numpy_rng_state": np.random.get_state(),  # noqa: NPY002 - what FlagAI saves
        "random_rng_state": random.getstate(),
        "torch_rng_state": torch.get_rng_state(),
        "args": {"where": Path("/somewhere")},
    }
    path = tmp_path / "pytorch_model.bin"
    torch.save({"iteration": 9, "module": STATE, **extra}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    same(open_tensors(tmp_path))


def test_parameters_and_views_are_read_as_saved(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {"part": base[1:3, 2:], "turned": base.T, "parameter": torch.nn.Parameter(base), "empty": torch.zeros(0, 3)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    tensors = open_tensors(tmp_path)
    for name, value in state.items():
        assert torch.equal(tensors[name], value.detach())


def test_a_module_state_dict_with_metadata_is_read(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    same(open_tensors(tmp_path), module.state_dict())


def test_eight_bit_floats_are_read_as_saved(tmp_path):
    """torch writes them in a form of their own, the bytes and the dtype apart."""
    saved = torch.arange(6.0).reshape(2, 3).to(torch.float8_e4m3fn)
    torch.save({"weight": saved.T}, tmp_path / "pytorch_model.bin")
    read = open_tensors(tmp_path)["weight"]
    assert read.dtype == torch.float8_e4m3fn
    assert torch.equal(read.float(), saved.T.float())


def test_a_whole_pickled_module_is_refused_and_not_built(tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "pytorch_model.bin")
    with pytest.raises(BabelclipError, match=r"Save the model's state_dict\(\)"):
        open_tensors(tmp_path)


def test_writing_to_a_tensor_leaves_the_file_as_it_is(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    before = (tmp_path / "pytorch_model.bin").read_bytes()
    open_tensors(tmp_path)["embeddings.weight"].fill_(7.0)
    assert (tmp_path / "pytorch_model.bin").read_bytes() == before
    same(open_tensors(tmp_path))


def test_safe_and_single_files_are_preferred(tmp_path):
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    save_file(STATE, tmp_path / "model.safetensors")
    same(open_tensors(tmp_path))


def test_messages_name_file_and_tensor_as_the_file_has_them(tmp_path):
    torch.save({"module": {f"module.{n}": v for n, v in STATE.items()}}, tmp_path / "pytorch_model.bin")
    where = open_tensors(tmp_path).where("logit_scale")
    assert where == f"{tmp_path / 'pytorch_model.bin'}, tensor module.logit_scale"


def test_an_empty_folder_says_which_files_it_looked_for(tmp_path):
    with pytest.raises(BabelclipError, match=r"holds none of the weight files model\.safetensors, .*tf_model\.h5"):
        open_tensors(tmp_path)


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BabelclipError, match="holds no tensors by name"):
        open_tensors(tmp_path)


def change_index(folder: Path, change) -> None:
    path = folder / ("model.safetensors" + INDEX)
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def test_a_missing_shard_is_named_with_its_index(tmp_path):
    shards(tmp_path, "model", "safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BabelclipError, match=r"index\.json names the shard model-00002-of-00002\.safetensors, which"):
        open_tensors(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named_with_it(tmp_path):
    shards(tmp_path, "model", "safetensors")
    change_index(tmp_path, lambda table: table.update({"other.weight": "model-00001-of-00002.safetensors"}))
    with pytest.raises(BabelclipError, match=r"other\.weight in model-00001-of-00002\.safetensors, which does not"):
        open_tensors(tmp_path)


def test_a_tensor_that_the_index_forgets_is_still_there(tmp_path):
    shards(tmp_path, "model", "safetensors")
    change_index(tmp_path, lambda table: table.pop("logit_scale"))
    assert "logit_scale" in open_tensors(tmp_path)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/model.safetensors", "a\\b.safetensors", "..", "x.bin", ""]
)
def test_an_index_cannot_lead_out_of_its_folder_or_to_another_form(tmp_path, file):
    (tmp_path / "inside").mkdir()
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save(STATE, tmp_path / "inside" / "x.bin")
    shards(tmp_path / "inside", "model", "safetensors")
    change_index(tmp_path / "inside", lambda table: table.update({"logit_scale": file}))
    with pytest.raises(BabelclipError, match=r"index\.json names the shard .* a shard is a \.safetensors file beside"):
        open_tensors(tmp_path / "inside")


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000, "{"])
def test_an_index_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / ("model.safetensors" + INDEX)).write_text(text)
    with pytest.raises(BabelclipError, match=r"model\.safetensors\.index\.json"):
        open_tensors(tmp_path)


def test_one_form_of_the_weights_is_chosen_from_a_list_of_files():
    several = ["README.md", "tf_model.h5", "pytorch_model.bin", "model.safetensors", "0_x/model.safetensors"]
    assert weight_files(several) == ["model.safetensors"]
    assert weight_files(["tf_model.h5", "config.json"]) == ["tf_model.h5"]
    assert weight_files(["config.json"]) == []
    sharded = ["pytorch_model-00002-of-00002.bin", "pytorch_model.bin" + INDEX, "pytorch_model-00001-of-00002.bin"]
    assert weight_files([*sharded, "model-00001-of-00002.bin"]) == [sharded[1], sharded[2], sharded[0]]
    assert weight_files(["RN50x4.pt"], preferred=("RN50x4.pt",)) == ["RN50x4.pt"]
    assert WEIGHT_NAMES[0] == "model.safetensors"
    assert WEIGHT_NAMES[-1] == "tf_model.h5"


MEASURE = """
import sys
from pathlib import Path
from babelclip.models.checkpoints.files.tensors import open_tensors
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
import h5py
for name in sys.argv[1:]:
    before = anonymous()
    tensors = open_tensors(Path(name))
    total = sum(float(tensors[n].flatten()[-1]) for n in tensors)
    assert total == 4.0, total
    print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_opening_and_touching_tensors_takes_no_memory_of_its_own(tmp_path):
    h5py = pytest.importorskip("h5py")
    state = {f"l{i}": torch.ones(4 << 20) for i in range(4)}  # 64 MiB
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"module": state}, tmp_path / "a.bin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in state.items():
            file[f"top/m/bert/{name}/gamma:0"] = value.numpy()
    files = [str(tmp_path / name) for name in ("a.safetensors", "a.bin", "a.h5")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    assert max(float(line) for line in done.stdout.split()) < 8.0
