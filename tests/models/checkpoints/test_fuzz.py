"""Checkpoints of strangers: whatever their bytes are, one clear error that names the file, and nothing runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import mclip
from babelclip.models.checkpoints.files.legacy_pickle import converted_head, read_linear_head
from babelclip.models.checkpoints.files.tensors import INDEX, open_tensors
from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parents[2] / "golden"
STATE = {"layer.0.weight": torch.ones(4, 3), "layer.0.bias": torch.zeros(4), "position_ids": torch.arange(5)}
EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

# torch warns of protocol numbers that damage makes up.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

# --- Damaged files ---------------------------------------------------------------------------------------------------


def safetensors_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_file(STATE, Path(folder) / "x")
        return (Path(folder) / "x").read_bytes()


def torch_bytes(zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"module": STATE, "epoch": 3}, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def archive(path: Path, entries: dict[str, bytes], compress: frozenset[str] = frozenset()) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            kind = zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED
            # torch aligns the data of its entries by an extra field.
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            length = -(file.fp.tell() + 30 + len(name) + 4) % 64
            info.extra = b"FB" + length.to_bytes(2, "little") + b"\0" * length
            file.writestr(info, data)
    return path


def script_bytes() -> bytes:
    with zipfile.ZipFile(GOLDEN / "openai_vit" / "ViT-tiny.pt") as source:
        entries = {info.filename: source.read(info) for info in source.infolist() if "/code/" not in info.filename}
    with tempfile.TemporaryDirectory() as folder:
        return archive(Path(folder) / "x", entries).read_bytes()


def keras_bytes() -> bytes:
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["bert/m/bert/pooler/dense/kernel:0"] = np.ones((4, 3), np.float32)
        file["bert/m/bert/pooler/dense/bias:0"] = np.ones(3, np.float32)
    return stream.getvalue()


def read_all(path: Path) -> None:
    """What a reader does with a checkpoint: every name, shape and number."""
    tensors = open_tensors(path)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == tensors.shape(name)
        tensor.to(torch.float32).sum()


FORMS = {
    "model.safetensors": (safetensors_bytes, read_all),
    "pytorch_model.bin": (lambda: torch_bytes(True), read_all),
    "before the zip form.bin": (lambda: torch_bytes(False), read_all),
    "ViT-B-32.pt": (script_bytes, read_all),
    "tf_model.h5": (keras_bytes, read_all),
    "Linear Weights.pkl": (lambda: pickle.dumps([np.ones((4, 3), "f4"), np.ones(3, "f4")], 4), read_linear_head),
}


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    return {}


def check(name: str, data: bytes) -> bool:
    """Returns whether a file of these bytes is read; else it must be refused in one line that names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            FORMS[name][1](path)
        except BabelclipError as error:
            message = str(error)
        else:
            return True
    assert name in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1500
    return False


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "insert", "copy", "cut"]), st.floats(0, 1), st.integers(0, 1 << 16)),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    content = bytearray(data)
    for kind, where, value in changes:
        at = int(where * max(len(content) - 1, 0))
        if not content:
            break
        if kind == "flip":
            content[at] ^= 1 << value % 8
        elif kind == "set":
            content[at : at + 1 + value % 8] = bytes([value % 256]) * (1 + value % 8)
        elif kind == "insert":
            content[at:at] = struct.pack("<I", value * 65_521 % (1 << 32))
        elif kind == "copy":
            start = value % len(content)
            piece = content[start : start + 24]
            content[at : at + len(piece)] = piece
        else:
            del content[at:]
    return bytes(content)


@pytest.mark.parametrize("name", list(FORMS))
@EXAMPLES
@given(changes=edits)
def test_damaged_bytes_are_read_or_refused_in_one_line_that_names_the_file(whole, name, changes):
    data = whole.setdefault(name, FORMS[name][0]())
    check(name, damaged(data, changes))


@pytest.mark.parametrize("name", list(FORMS))
def test_whole_files_are_read_and_every_cut_one_is_refused(name):
    data = FORMS[name][0]()
    assert check(name, data)
    cuts = {0, 1, 4, 8, len(data) // 4, len(data) // 2, 3 * len(data) // 4, len(data) - 1}
    assert not [cut for cut in cuts if check(name, data[:cut])]


@pytest.mark.parametrize("name", list(FORMS))
@EXAMPLES
@given(data=st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused(name, data):
    assert not check(name, data)


# --- Whole files of the wrong content --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a golden M-CLIP folder."""
    return Path(shutil.copytree(GOLDEN / "mclip_inline", tmp_path / "mclip"))


def change_weights(folder: Path, change) -> None:
    path = folder / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    torch.save(change(state), path)


def test_reordered_tensors_change_nothing(folder):
    before = mclip.load(folder, "text").encode_text(TEXTS, normalize=False)
    change_weights(folder, lambda state: dict(reversed(state.items())))
    np.testing.assert_array_equal(mclip.load(folder, "text").encode_text(TEXTS, normalize=False), before)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("LinearTransformation.weight", "head.0.weight"),
        ("transformer.embeddings.LayerNorm.bias", "embeddings.LayerNorm.bias"),
    ],
)
def test_renamed_missing_extra_and_misshapen_tensors_are_named_with_their_file(folder, name, place):
    original = (folder / "pytorch_model.bin").read_bytes()
    changes = {
        "renamed": lambda state: {key + ("x" if key == name else ""): value for key, value in state.items()},
        "missing": lambda state: {key: value for key, value in state.items() if key != name},
        "extra": lambda state: {**state, name + ".more": torch.zeros(2)},
        "misshapen": lambda state: {**state, name: torch.zeros(*state[name].shape, 2)},
        "whole numbers": lambda state: {**state, name: state[name].to(torch.int64)},
        "flat": lambda state: {**state, name: torch.zeros(())},
        "no tensor": lambda state: {**state, name: "a text"},
    }
    for kind, change in changes.items():
        (folder / "pytorch_model.bin").write_bytes(original)
        change_weights(folder, change)
        with pytest.raises(BabelclipError) as caught:
            mclip.load(folder, "text")
        assert "pytorch_model.bin" in str(caught.value), kind
        # A tensor that is not there has no name in the file; its place in the model is named.
        assert name in str(caught.value) or (kind in ("missing", "no tensor") and place in str(caught.value)), kind


# --- Files that want to run something --------------------------------------------------------------------------------


class Call:
    """Pickles into a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __call__(self):
        """Lets the result of a call be called."""

    def __reduce__(self):
        return self.call


def attacks(canary: Path) -> dict[str, object]:
    """Objects that create the file `canary` in any unpickler that runs them."""
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "system": Call(os.system, f"touch {canary}"),
        "exec": Call(exec, code),
        "eval": Call(eval, code),
        "open": Call(open, str(canary), "w"),
        "subprocess": Call(subprocess.call, ["touch", str(canary)]),
        "getattr": Call(Call(getattr, Path(canary), "touch")),
        "nested": [{"a": ({"b": Call(exec, code)},)}],
        "map": Call(list, Call(map, exec, [code])),
        "torch.load": Call(torch.load, str(canary)),
        "as a key": {Call(exec, code): 1},
        "ordered": OrderedDict(a=Call(exec, code)),
    }


KINDS = list(attacks(Path("x")))


def unharmed(canary: Path) -> bool:
    return not canary.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_objects_that_run_code_do_not_run_beside_the_weights_nor_in_their_place(tmp_path, kind):
    canary = tmp_path / "canary"
    path = tmp_path / "pytorch_model.bin"
    attack = attacks(canary)[kind]
    for content in ({"module": STATE, "x": attack}, {**STATE, "x": attack}, {"x": attack, "state_dict": STATE}):
        torch.save(content, path)
        assert set(open_tensors(path)) == set(STATE)
    for content in (attack, [attack], {"state_dict": attack}, {"module": {"weight": attack}}):
        torch.save(content, path)
        with pytest.raises(BabelclipError, match=r"pytorch_model\.bin"):
            open_tensors(path)
    assert unharmed(canary)


@pytest.mark.parametrize("kind", KINDS)
def test_older_torch_files_and_heads_that_run_code_are_refused(tmp_path, kind):
    canary = tmp_path / "canary"
    attack = attacks(canary)[kind]
    torch.save({**STATE, "x": attack}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(BabelclipError, match=r"old\.bin"):
        open_tensors(tmp_path / "old.bin")
    for protocol in (0, 2, 4, 5):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps([np.ones((2, 2), "f4"), np.ones(2, "f4"), attack], protocol))
        for read in (read_linear_head, converted_head):
            with pytest.raises(BabelclipError, match=r"w\.pkl (asks for|does not hold)"):
                read(tmp_path / "w.pkl")
    assert unharmed(canary)
    assert not (tmp_path / "w.safetensors").exists()


def test_a_refused_head_names_what_it_asked_for(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Call(os.system, "true"), 4))
    with pytest.raises(BabelclipError, match=r"w\.pkl asks for (posix|nt)\.system"):
        read_linear_head(tmp_path / "w.pkl")


def tensor_pickle(key: str, size: tuple, stride: tuple, offset: int = 0, count: int = 4) -> bytes:
    """A pickle `{"w": tensor}` as torch writes it."""

    class Storage:
        pass

    class Rebuild:
        def __init__(self, *args):
            self.args = args

        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, self.args

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(item, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": Rebuild(Storage(), offset, size, stride, False, OrderedDict())})
    return stream.getvalue()


def test_a_hand_made_archive_is_read(tmp_path):
    path = archive(tmp_path / "a.bin", {"a/data.pkl": tensor_pickle("0", (2, 2), (2, 1)), "a/data/0": bytes(16)})
    assert open_tensors(path)["w"].shape == (2, 2)


def test_archives_with_paths_that_leave_them_touch_no_other_file(tmp_path):
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    for key in ("../../../canary", "/etc/passwd", "..\\canary"):
        pickled = tensor_pickle(key, (2, 2), (2, 1))
        path = archive(place / "a.bin", {"a/data.pkl": pickled})
        with pytest.raises(BabelclipError, match=r"a\.bin is damaged: the storage .* is missing"):
            open_tensors(path)
        archive(path, {"a/data.pkl": pickled, f"a/data/{key}": bytes(16), "../../canary": b"x"})
        assert open_tensors(path)["w"].tolist() == [[0, 0], [0, 0]]
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["a.bin", "deep", "er"]


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((1 << 40,), (0,), 0), ((1 << 20, 1 << 20), (0, 0), 0), ((4,), (1,), 1), ((2, 2), (1 << 50, 1), 0),
        ((-1,), (1,), 0), ((2,), (-1,), 3), ((2,), (1, 1), 0), ((1 << 200,), (1,), 0), ((1,) * 100, (1,) * 100, 0),
        (("a",), (1,), 0), ((2.0,), (1,), 0), ((4,), (1,), -1), (None, None, None),
    ],
)  # fmt: skip
def test_tensors_larger_than_their_bytes_are_refused(tmp_path, size, stride, offset):
    pickled = tensor_pickle("0", size, stride, offset)
    path = archive(tmp_path / "a.bin", {"a/data.pkl": pickled, "a/data/0": bytes(16)})
    with pytest.raises(BabelclipError, match=r"a\.bin is (damaged|not a whole pickle)"):
        open_tensors(path)


def test_compressed_archives_are_refused_before_they_unfold(tmp_path):
    good = tensor_pickle("0", (2, 2), (2, 1))
    bomb = archive(tmp_path / "a.bin", {"a/data.pkl": good + bytes(1 << 26)}, compress=frozenset({"a/data.pkl"}))
    assert bomb.stat().st_size < 1 << 18
    with pytest.raises(BabelclipError, match=r"a\.bin has a data\.pkl of 671\d+ bytes"):
        open_tensors(bomb)
    entries = {"a/data.pkl": good, "a/data/0": bytes(1 << 20)}
    with pytest.raises(BabelclipError, match=r"data/0 is compressed"):
        open_tensors(archive(tmp_path / "b.bin", entries, compress=frozenset({"a/data/0"})))


def test_big_endian_archives_and_archives_of_other_programs_are_refused(tmp_path):
    entries = {"a/data.pkl": tensor_pickle("0", (2, 2), (2, 1)), "a/data/0": bytes(16), "a/byteorder": b"big"}
    with pytest.raises(BabelclipError, match="little-endian"):
        open_tensors(archive(tmp_path / "a.bin", entries))
    with pytest.raises(BabelclipError, match=r"with 0 files \*/data\.pkl"):
        open_tensors(archive(tmp_path / "b.bin", {"word/document.xml": b"<xml/>"}))


PICKLE_BOMBS = {
    "a memo slot far away": b"\x80\x02K\x01r\xf0\xff\xff\x7f.",
    "a memo slot far away, as text": b"\x80\x02K\x01p2147483000\n.",
    "a length without bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "a number without digits": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b".",
    "a frame without content": b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b".",
    "lists of the same lists": b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00lq\x00" * 200 + b".",
    "nested without end": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "a call of a number": b"\x80\x02K\x01)R.",
    "an extension": b"\x80\x02\x82\x01.",
    "state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x03\x00\x00\x00abcK\x01sb.",
    "state for a class": b"\x80\x02ccollections\nOrderedDict\nN}X\x03\x00\x00\x00abcK\x01s\x86b.",
    "copies of copies": b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("kind", list(PICKLE_BOMBS))
def test_pickles_that_ask_for_memory_or_change_functions_are_refused(tmp_path, kind):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "w.pkl").write_bytes(PICKLE_BOMBS[kind])
    with pytest.raises(BabelclipError, match=r"w\.pkl"):
        read_linear_head(tmp_path / "w.pkl")
    with pytest.raises(BabelclipError, match=r"a\.bin"):
        open_tensors(archive(tmp_path / "a.bin", {"a/data.pkl": PICKLE_BOMBS[kind]}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # in KiB
    assert not hasattr(torch._utils._rebuild_tensor_v2, "abc")
    assert not hasattr(OrderedDict, "abc")


# --- Other forms -----------------------------------------------------------------------------------------------------


def safetensors_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def described(dtype: str, shape: list, offsets: list) -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({}, 1 << 62), ({}, (1 << 64) - 1), (b"{", 1), (b"[" * 100_000, None), (b"\xff\xfe", None), ([], None),
        (described("F32", [1 << 40], [0, 16]), None), (described("F32", [2, 2], [0, 1 << 40]), None),
        (described("F32", [2, 2], [8, 0]), None), (described("F32", [-2, -2], [0, 16]), None),
        (described("PYTHON", [2, 2], [0, 16]), None), (described("F32", [1 << 62, 4], [0, 16]), None),
        ({**described("F32", [2, 2], [0, 16]), "x": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, None),
    ],
)  # fmt: skip
def test_safetensors_headers_that_do_not_describe_the_file_are_refused(tmp_path, header, length):
    path = safetensors_file(tmp_path / "model.safetensors", header, bytes(16), length)
    with pytest.raises(BabelclipError, match=r"model\.safetensors is not a whole safetensors file"):
        open_tensors(path)


def test_an_index_cannot_make_a_pickle_out_of_a_safe_checkpoint(tmp_path):
    canary = tmp_path / "canary"
    torch.save(attacks(canary)["exec"], tmp_path / "x.bin")
    table = {"weight_map": {"w": "x.bin"}}
    (tmp_path / ("model.safetensors" + INDEX)).write_text(json.dumps(table))
    with pytest.raises(BabelclipError, match=r"names the shard 'x\.bin'"):
        open_tensors(tmp_path)
    assert unharmed(canary)


def test_a_keras_file_cannot_lead_out_of_itself(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3, np.float32)
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file["bert/m/bert/norm/gamma:0"] = h5py.ExternalLink("other.h5", "secret")
    with pytest.raises(BabelclipError, match=r"tf_model\.h5 cannot be read: 'bert/m/bert/norm/gamma:0' is a link"):
        open_tensors(tmp_path)
