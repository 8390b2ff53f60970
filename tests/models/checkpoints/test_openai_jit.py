"""OpenAI's TorchScript archives give the tensors of their state dict, without their code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.tensors import open_tensors

# torch wants its users on another format; these archives exist all the same.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
GOLDEN = Path(__file__).parents[2] / "golden" / "openai_vit"


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 2, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.attn_mask = torch.zeros(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn1(self.conv1(x)) + self.attn_mask.sum()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(Block(), torch.nn.Identity())
        self.logit_scale = torch.nn.Parameter(torch.tensor(4.6))
        self.register_buffer("input_resolution", torch.tensor(288))
        self.register_buffer("context_length", torch.tensor(77))
        self.register_buffer("vocab_size", torch.tensor(49408))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.logit_scale


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Model().half().eval()), tmp_path / "RN.pt")
    return tmp_path / "RN.pt"


def original(path: Path) -> dict[str, torch.Tensor]:
    """What OpenAI's `build_model` keeps of the state dict."""
    state = torch.jit.load(path, map_location="cpu").state_dict()
    return {n: t for n, t in state.items() if n not in ("input_resolution", "context_length", "vocab_size")}


def same(path: Path) -> None:
    tensors, expected = open_tensors(path), original(path)
    assert set(tensors) == set(expected)
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_the_golden_archive_gives_what_torch_reads_from_it():
    same(GOLDEN / "ViT-tiny.pt")
    assert open_tensors(GOLDEN / "ViT-tiny.pt")["visual.conv1.weight"].dtype == torch.float16


def test_a_scripted_module_gives_parameters_and_buffers_and_nothing_else(archive):
    same(archive)
    names = set(open_tensors(archive))
    assert "visual.0.bn1.running_var" in names
    assert not [name for name in names if "attn_mask" in name or "resolution" in name]


def test_the_code_in_an_archive_is_never_read(archive, tmp_path):
    """The same archive with nonsense in place of its program: torch cannot load it, and nothing here notices."""
    broken = tmp_path / "broken.pt"
    expected = original(archive)
    with zipfile.ZipFile(archive) as source, torch_like_zip(broken) as target:
        for info in source.infolist():
            data = source.read(info)
            target(info.filename, b"raise SystemExit" if "/code/" in info.filename else data)
    with pytest.raises(RuntimeError):
        torch.jit.load(broken)
    tensors = open_tensors(broken)
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


class torch_like_zip:
    """Writes stored entries aligned to 64 bytes, as torch does."""

    def __init__(self, path: Path) -> None:
        self.file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def __enter__(self):
        return self.add

    def add(self, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name)
        length = -(self.file.fp.tell() + 30 + len(name) + 4) % 64
        info.extra = b"FB" + length.to_bytes(2, "little") + b"\0" * length
        self.file.writestr(info, data)

    def __exit__(self, *_):
        self.file.close()


def test_a_script_without_a_module_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with torch_like_zip(path) as add:
        add("x/data.pkl", pickle.dumps(3))
        add("x/constants.pkl", b"")
    with pytest.raises(BabelclipError, match=r"x\.pt is a TorchScript archive without a module"):
        open_tensors(path)
