"""The pickled heads of 2021 are read as data, converted once, and refused when they are anything else."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.legacy_pickle import converted_head, head_arrays, read_linear_head

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("mclip_legacy_*/*.pkl"))


@pytest.fixture
def arrays(rng) -> list[np.ndarray]:
    return [rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)]


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_head_of_every_protocol_is_read_as_a_torch_weight(tmp_path, arrays, protocol, order):
    path = write(tmp_path / "Linear Weights.pkl", [np.array(arrays[0], order=order), arrays[1]], protocol)
    weight, bias = read_linear_head(path)
    assert weight.flags.c_contiguous
    np.testing.assert_array_equal(weight, arrays[0].T)
    np.testing.assert_array_equal(bias, arrays[1])


@pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4"])
def test_other_floats_become_float32(tmp_path, arrays, kind):
    weight, bias = read_linear_head(write(tmp_path / "w.pkl", tuple(array.astype(kind) for array in arrays)))
    assert weight.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(weight, arrays[0].T, atol=1e-2)


def test_names_of_old_and_new_numpy_are_known(tmp_path, arrays):
    data = pickle.dumps(arrays, protocol=2)
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    assert old in data or new in data
    for path, module in ((tmp_path / "old.pkl", old), (tmp_path / "new.pkl", new)):
        path.write_bytes(data.replace(new, old).replace(old, module))
        np.testing.assert_array_equal(read_linear_head(path)[1], arrays[1])


def test_the_golden_heads_are_read():
    assert GOLDEN
    for path in GOLDEN:
        weight, bias = read_linear_head(path)
        with path.open("rb") as file:
            kernel, expected = pickle.load(file)  # our own golden file
        np.testing.assert_array_equal(weight, kernel.T)
        np.testing.assert_array_equal(bias, expected)


def test_conversion_happens_once_and_gives_the_same_numbers(tmp_path, arrays):
    path = write(tmp_path / "M-BERT Distil 40 Linear Weights.pkl", arrays)
    target = converted_head(tmp_path)
    assert target == path.with_suffix(".safetensors")
    assert sorted(load_file(target)) == ["bias", "weight"]
    stamp = target.stat().st_mtime_ns
    assert converted_head(path) == target
    assert target.stat().st_mtime_ns == stamp
    for ours, theirs in zip(head_arrays(path), read_linear_head(path), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name, target.name]


def test_a_newer_pickle_is_converted_again(tmp_path, arrays):
    path = write(tmp_path / "w.pkl", arrays)
    target = converted_head(path)
    write(path, [arrays[0] * 2, arrays[1]])
    os.utime(path, ns=(target.stat().st_mtime_ns + 1, target.stat().st_mtime_ns + 1))
    np.testing.assert_array_equal(head_arrays(path)[0], arrays[0].T * 2)


def test_a_damaged_conversion_is_made_again(tmp_path, arrays):
    path = write(tmp_path / "w.pkl", arrays)
    converted_head(path).write_bytes(b"damaged")
    np.testing.assert_array_equal(head_arrays(path)[1], arrays[1])


def test_a_head_given_as_safetensors_must_have_the_shapes_of_one(tmp_path, arrays):
    for bias in (arrays[1][:2], np.float32(1.0)):
        save_file({"weight": arrays[0].T.copy(), "bias": np.asarray(bias)}, tmp_path / "w.safetensors")
        with pytest.raises(BabelclipError, match=r"w\.safetensors holds arrays \(6, 4\) and"):
            head_arrays(tmp_path / "w.safetensors")


@pytest.mark.parametrize("fault", [PermissionError, SafetensorError])
def test_a_folder_that_cannot_be_written_gives_the_arrays_from_memory(tmp_path, arrays, monkeypatch, fault):
    path = write(tmp_path / "w.pkl", arrays)

    def refuse(*_: object) -> None:
        raise fault("read-only")

    monkeypatch.setattr("babelclip.models.checkpoints.files.legacy_pickle.save_file", refuse)
    assert converted_head(path) == path
    np.testing.assert_array_equal(head_arrays(path)[0], arrays[0].T)
    assert [item.name for item in tmp_path.iterdir()] == ["w.pkl"]


def test_no_head_and_several_heads_are_named(tmp_path, arrays):
    with pytest.raises(BabelclipError, match=r"holds 0 \.pkl files"):
        converted_head(tmp_path)
    for name in ("a.pkl", "b.pkl"):
        write(tmp_path / name, arrays)
    with pytest.raises(BabelclipError, match=r"2 \.pkl files \(a\.pkl, b\.pkl\)"):
        converted_head(tmp_path)
    with pytest.raises(BabelclipError, match=r"c\.pkl cannot be read"):
        read_linear_head(tmp_path / "c.pkl")


@pytest.mark.parametrize(
    "content",
    [
        [], [1, 2], {"a": 1}, 5, None, "text", [np.zeros((3, 2), np.float32)], [np.zeros(3), np.zeros(3)],
        [np.zeros((3, 2)), np.zeros(3)], [np.zeros((3, 2, 1)), np.zeros(2)],
        [np.zeros((3, 2)), np.zeros(2), np.zeros(2)],
        [np.zeros((3, 2), np.int64), np.zeros(2, np.int64)], [np.array([[None]]), np.zeros(1)],
        [np.zeros((3, 2), "c8"), np.zeros(2)], [np.zeros((2,), "f4,f4"), np.zeros(2)],
    ],
)  # fmt: skip
def test_other_contents_are_no_head(tmp_path, content):
    with pytest.raises(BabelclipError, match=r"w\.pkl .*(head|pickle)"):
        read_linear_head(write(tmp_path / "w.pkl", content))


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(BabelclipError, match="17179869184 bytes"):
        read_linear_head(path)


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path):
    data = pickle.dumps([np.zeros((6, 4), np.float32), np.zeros(4, np.float32)], protocol=3)
    changed = data.replace(b"K\x06K\x04", b"K\x06K\x05")
    assert changed != data
    (tmp_path / "w.pkl").write_bytes(changed)
    with pytest.raises(BabelclipError, match=r"array \(6, 5\) of 4 bytes a number in 96 bytes"):
        read_linear_head(tmp_path / "w.pkl")


def test_bytes_encoded_again_and_again_do_not_fill_the_memory(tmp_path):
    """Protocol 2 writes bytes as text to encode: one text of 1 MB, encoded a thousand times, would be 1 GB."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02"
    call = b"h\x01h\x00h\x02\x86R"
    stream = io.BytesIO(b"\x80\x02" + text + encode + b"(" + call * 1000 + b"l.")
    (tmp_path / "w.pkl").write_bytes(stream.getvalue())
    with pytest.raises(BabelclipError, match=r"more than 16777216 bytes"):
        read_linear_head(tmp_path / "w.pkl")
