"""What tests of golden text checkpoints share: the comparison, and copies of a folder with other tensors or config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from babelclip.models.clip import Clip
from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parents[2] / "golden"
# On raw float32 vectors, as the issue asks.
TOLERANCE = 1e-5


def expected(name: str, array: str = "text") -> np.ndarray:
    """The original's vectors for TEXTS."""
    with np.load(GOLDEN / name / "expected.npz") as archive:
        return archive[array]


def assert_same_text(clip: Clip, name: str, array: str = "text") -> None:
    """As a list, in another order, and one at a time: the same vectors as the original's."""
    wanted = expected(name, array)
    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), wanted, rtol=0, atol=TOLERANCE)
    order = np.random.default_rng(3).permutation(len(TEXTS))
    mixed = clip.encode_text([TEXTS[row] for row in order], normalize=False, token_budget=64)
    np.testing.assert_allclose(mixed, wanted[order], rtol=0, atol=TOLERANCE)
    single = np.concatenate([clip.encode_text(text, normalize=False) for text in TEXTS])
    np.testing.assert_allclose(single, wanted, rtol=0, atol=TOLERANCE)


def copy_of(name: str, tmp_path: Path) -> Path:
    """A copy of a golden folder that a test may change."""
    # A head converted by an earlier load lies in the golden folder, too.
    left_out = shutil.ignore_patterns("*Linear Weights.safetensors")
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name, ignore=left_out))


def change_json(path: Path, **changes: object) -> None:
    """Sets keys of a JSON object; None removes one."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the state dict of a folder in place, in the form that it has."""
    safe, archive = folder / "model.safetensors", folder / "pytorch_model.bin"
    state = load_file(safe) if safe.is_file() else torch.load(archive, weights_only=True)
    # Copies: the file that the tensors are mapped from is about to be written.
    state = {name: tensor.clone() for name, tensor in state.items()}
    change(state)
    if safe.is_file():
        save_file(state, safe)
    else:
        torch.save(state, archive)
