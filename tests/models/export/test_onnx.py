"""ONNX files of tiny models: kinds of graphs, shapes other than the traced ones, dtypes, and use without torch.

`python -m tests.golden.onnx_exports` does the same with every golden checkpoint, which takes minutes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.models.checkpoints import load
from babelclip.models.clip import Clip
from babelclip.models.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from babelclip.models.export import export, onnx, parity, runtime
from babelclip.models.export.graph import ImageGraph
from babelclip.models.export.onnx import export_onnx
from babelclip.models.export.quantized import quantized
from babelclip.models.export.runtime import ExportedEncoders, open_exported
from babelclip.models.image import ImageEncoder
from babelclip.models.preprocess import Preprocess
from tests.conftest import make_image_encoder, make_text_encoder
from tests.golden.inputs import TEXTS, pictures
from tests.models.export.parts import quietly

GOLDEN = Path(__file__).parents[2] / "golden"
CLOSE = 1e-5


def small_clip() -> Clip:
    text = make_text_encoder(layers=1)
    return Clip(space="test/tiny", text=text, image=make_image_encoder(seed=1), logit_scale=10.0, name="tiny")


@pytest.fixture(scope="module")
def tiny() -> Clip:
    return small_clip()


@pytest.fixture(scope="module")
def exported(tiny: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(tiny, tmp_path_factory.mktemp("onnx") / "tiny")


@pytest.fixture(scope="module")
def encoders(exported: Path) -> ExportedEncoders:
    return open_exported(exported, threads=1)


def differences(clip: Clip, folder: Path) -> dict[str, float]:
    """Raw vectors as a batch, alone and in another order, against the model's."""
    encoders = open_exported(folder, threads=1)
    found = {}
    for tower, items in (("text", TEXTS), ("image", pictures())):
        encode = getattr(encoders, f"encode_{tower}")
        if getattr(encoders, tower) is None:
            continue
        wanted = getattr(clip, f"encode_{tower}")(items, normalize=False)
        order = np.random.default_rng(3).permutation(len(items))
        rows = [encode(items, normalize=False)[order]]
        rows.append(np.concatenate([encode([items[row]], normalize=False) for row in order]))
        rows.append(np.concatenate([encode([items[row] for row in part], normalize=False)
                                    for part in np.array_split(order, 4)]))  # fmt: skip
        found[tower] = max(float(np.abs(block - wanted[order]).max()) for block in rows)
    return found


def test_a_bert_with_mean_pooling_and_a_vision_transformer_equal_the_model(tiny: Clip, exported: Path):
    assert max(differences(tiny, exported).values()) < CLOSE


@pytest.mark.parametrize(
    ("name", "tower"),
    [
        ("clip", "text"),  # causal mask, pooled at the end token
        ("siglip", "text"),  # 64 tokens, padding read
        ("openclip_nllb_siglip", "text"),  # M2M100, first token names the language
    ],
)
def test_towers_of_published_families_equal_the_model(tmp_path: Path, name: str, tower: str):
    clip = load(GOLDEN / name, towers=tower, device="cpu")
    assert differences(clip, export_onnx(clip, tmp_path / name, towers=tower))[tower] < CLOSE


def test_a_convolutional_tower_in_channels_last_layout_equals_the_model(tmp_path: Path):
    torch.manual_seed(0)
    config = EfficientNetLiteConfig(stages=((1, 8, 1, 1, 3), (6, 8, 2, 2, 5)), stem_channels=8, hidden_size=16)
    image = ImageEncoder(EfficientNetLite(config), head=[], preprocess=Preprocess(resize=33, crop=33)).eval()
    clip = Clip(space="test/lite", image=image)
    assert differences(clip, export_onnx(clip, tmp_path / "lite"))["image"] < CLOSE


def test_batch_and_length_are_named_and_free(exported: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    text, image = (onnxruntime.InferenceSession(exported / f"{tower}_encoder.onnx") for tower in ("text", "image"))
    assert [(i.name, i.shape) for i in text.get_inputs()] == [
        ("input_ids", ["batch", "tokens"]),
        ("attention_mask", ["batch", "tokens"]),
    ]
    assert [(o.name, o.shape) for o in text.get_outputs()] == [
        ("features", ["batch", 16]),
        ("embeddings", ["batch", 16]),
    ]
    assert [(i.name, i.shape) for i in image.get_inputs()] == [("pixels", ["batch", 3, 32, 32])]
    for batch, tokens in ((1, 1), (1, 16), (17, 2), (3, 3)):
        ones = np.ones((batch, tokens), dtype=np.int64)
        features, embeddings = text.run(None, {"input_ids": ones, "attention_mask": ones})
        assert features.shape == (batch, 16)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_the_tokenizer_file_alone_gives_ids_and_mask_as_the_graph_takes_them(tiny: Clip, exported: Path):
    from tokenizers import Tokenizer

    encodings = Tokenizer.from_file(str(exported / "tokenizer.json")).encode_batch(TEXTS)
    assert tiny.text is not None
    ids, mask = tiny.text.pad(tiny.text.tokenize(TEXTS))
    assert [encoding.ids for encoding in encodings] == ids.tolist()
    assert [encoding.attention_mask for encoding in encodings] == mask.tolist()


def test_the_config_says_what_is_needed_to_use_the_files(tiny: Clip, exported: Path):
    config = json.loads((exported / "config.json").read_text())
    assert (config["space"], config["logit_scale"], config["embed_dim"]) == ("test/tiny", 10.0, 16)
    assert config["text"]["max_length"] == 16
    assert Preprocess.from_dict(config["image"]["preprocess"]) == Preprocess(resize=32, crop=32)


def test_files_hold_no_path_of_the_machine(exported: Path):
    for path in exported.glob("*.onnx"):
        assert b"site-packages" not in path.read_bytes()
        assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()


def test_weights_beyond_the_limit_lie_in_one_file_beside_the_graph(tiny: Clip, tmp_path: Path):
    folder = export_onnx(tiny, tmp_path / "big", towers="image", external_above=10_000)
    assert sorted(path.name for path in folder.glob("image*")) == ["image_encoder.onnx", "image_encoder.onnx.data"]
    assert (folder / "image_encoder.onnx.data").stat().st_size > 4 * 20_000
    moved = folder.rename(tmp_path / "elsewhere")
    assert differences(tiny, moved)["image"] < CLOSE


@pytest.mark.parametrize(("dtype", "share", "cosine"), [("float16", 0.8, 0.9999), ("int8", 0.75, 0.99)])
def test_smaller_dtypes_are_smaller_and_keep_the_direction(
    tiny: Clip, exported: Path, tmp_path: Path, dtype: str, share: float, cosine: float
):
    folder = export_onnx(tiny, tmp_path / dtype, dtype=dtype, towers="text")
    sizes = [(place / "text_encoder.onnx").stat().st_size for place in (folder, exported)]
    assert sizes[0] < share * sizes[1]
    (compared,) = parity.check(tiny, folder, to="onnx", dtype=dtype)
    assert compared.passed
    assert cosine < compared.min_cosine
    assert compared.max_difference > 1e-6  # it really is another dtype


def test_eight_bits_stay_within_half_a_step_of_each_row_and_column():
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    matrix[3] *= 100
    matrix[5] = 0
    for axis in (0, 1):
        integers, scales = quantized(matrix, axis)
        assert integers.dtype == np.int8
        steps = np.expand_dims(scales, 1 - axis)
        assert (np.abs(integers * steps - matrix) <= steps / 2 * 1.001).all()


def test_a_half_precision_tower_is_copied_and_not_changed():
    image = make_image_encoder().to(torch.bfloat16)
    assert {p.dtype for p in ImageGraph(image, torch.float32).parameters()} == {torch.float32}
    assert {p.dtype for p in image.parameters()} == {torch.bfloat16}
    whole = make_image_encoder()
    assert ImageGraph(whole, torch.float32).backbone is whole.backbone


def test_exported_files_run_where_torch_cannot_be_imported(tiny: Clip, exported: Path):
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from babelclip.models.export.runtime import open_exported
encoders = open_exported({str(exported)!r})
print(encoders.encode_text({TEXTS[:4]!r}).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), tiny.encode_text(TEXTS[:4]), atol=CLOSE)


def test_nothing_to_encode_gives_no_rows(encoders: ExportedEncoders):
    assert encoders.encode_text([]).shape == (0, 16)
    assert encoders.encode_image([]).shape == (0, 16)
    assert encoders.encode_text("two dogs").shape == (1, 16)


def test_naflex_pictures_are_refused_and_their_texts_are_not(tmp_path: Path):
    clip = load(GOLDEN / "siglip2_naflex", towers="image", device="cpu")
    with pytest.raises(BabelclipError, match=r"NaFlex.*towers='text'"):
        export_onnx(clip, tmp_path / "naflex")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_dtype_is_refused(tiny: Clip, tmp_path: Path):
    with pytest.raises(BabelclipError, match=r"'int4' is not offered for ONNX.*int8"):
        export_onnx(tiny, tmp_path / "x", dtype="int4")


def test_a_folder_of_another_kind_and_an_absent_tower_are_named(tiny: Clip, exported: Path, tmp_path: Path):
    tiny.save(tmp_path / "native")
    with pytest.raises(BabelclipError, match="no exported ONNX or OpenVINO folder"):
        open_exported(tmp_path / "native")
    only_text = replace(open_exported(exported), image=None)
    with pytest.raises(BabelclipError, match="no picture tower"):
        only_text.encode_image(pictures()[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "text_encoder.onnx").unlink(), "not a whole export.*text_encoder"),
        (lambda folder: (folder / "image_encoder.onnx").write_bytes(b"\x08"), "not a whole export"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json is missing or no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing or no tokenizer"),
        (lambda folder: rewrite(folder, lambda config: config["text"].pop("file")), "not a whole export.*'file'"),
        (lambda folder: rewrite(folder, lambda config: config.update(format=[])), "no exported ONNX or OpenVINO"),
        (lambda folder: rewrite(folder, lambda config: config.update(format_version=2)), "format version 2.*newer one"),
    ],
)
def test_a_damaged_or_newer_export_is_one_error_with_its_folder(exported: Path, tmp_path: Path, change, message: str):
    folder = Path(shutil.copytree(exported, tmp_path / "damaged"))
    change(folder)
    with pytest.raises(BabelclipError, match=f"damaged.*{message}"):
        open_exported(folder)


def rewrite(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_an_item_that_is_no_text_is_named_by_its_position(encoders: ExportedEncoders):
    with pytest.raises(BabelclipError, match="Text 1 is of type int"):
        encoders.encode_text(["a", 3])


def test_the_graph_of_one_tower_is_gone_when_that_of_the_other_is_made(tiny: Clip, tmp_path: Path, monkeypatch):
    class Graph:
        pass

    def text_graph(tower, dtype):
        made = Graph()
        first.append(weakref.ref(made))
        return made

    def image_graph(tower, dtype):
        assert first[0]() is None
        return Graph()

    first: list[weakref.ref] = []
    for name, value in (
        ("text_graph", text_graph),
        ("image_graph", image_graph),
        ("save_graph", lambda *_, **__: None),
    ):
        monkeypatch.setattr(onnx, name, value)
    export_onnx(tiny, tmp_path / "out")
    assert len(first) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_loading_has_rounded_are_not_exported_as_exact_ones(tmp_path: Path, dtype: torch.dtype):
    clip = small_clip()
    clip.text.to(dtype)
    with pytest.raises(BabelclipError, match=r"tiny was loaded in b?float16.*dtype=\"float32\""):
        export(clip, tmp_path / "out", to="sentence-transformers")
    quietly(export, clip, tmp_path / "image", to="sentence-transformers", towers="image")


def test_an_absent_runtime_names_the_extra(exported: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"babelclip\[export\]"):
        runtime.open_exported(exported)
