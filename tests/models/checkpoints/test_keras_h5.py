"""TensorFlow files give what the torch files of the same classes hold; the goldens were written by TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints import mclip, transformer
from babelclip.models.checkpoints.files.keras_h5 import torch_names
from babelclip.models.checkpoints.files.tensors import open_tensors
from tests.golden.inputs import TEXTS

h5py = pytest.importorskip("h5py")

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = [
    ("tensorflow_mclip", mclip),
    ("tensorflow_bert", transformer),
    ("tensorflow_bert_pretraining", transformer),
    ("tensorflow_distilbert", transformer),
]


@pytest.mark.parametrize(("name", "reader"), CASES)
def test_vectors_equal_those_of_tensorflow(name, reader):
    expected = np.load(GOLDEN / name / "expected.npz")["text"]
    clip = reader.load(GOLDEN / name, "text")
    np.testing.assert_allclose(clip.encode_text(TEXTS, normalize=False), expected, atol=1e-5)
    single = np.concatenate([clip.encode_text([text], normalize=False) for text in TEXTS])
    np.testing.assert_allclose(single, expected, atol=1e-5)
    np.testing.assert_allclose(clip.encode_text(TEXTS[::-1], normalize=False), expected[::-1], atol=1e-5)


def test_names_are_those_of_the_torch_classes():
    from transformers import BertConfig, BertForPreTraining, BertModel, DistilBertConfig, DistilBertModel

    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    bert = BertConfig(**sizes, vocab_size=9)
    distil = DistilBertConfig(n_layers=2, dim=8, n_heads=2, hidden_dim=8, vocab_size=9)
    # Tied to the word embeddings and to cls.predictions.bias; TensorFlow keeps no second copy.
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    for name, model in (
        ("tensorflow_bert", BertModel(bert)),
        ("tensorflow_bert_pretraining", BertForPreTraining(bert)),
        ("tensorflow_distilbert", DistilBertModel(distil)),
    ):
        assert set(open_tensors(GOLDEN / name)) == set(model.state_dict()) - tied


def test_shapes_are_known_without_reading_and_kernels_are_turned():
    tensors = open_tensors(GOLDEN / "tensorflow_mclip")
    with h5py.File(GOLDEN / "tensorflow_mclip" / "tf_model.h5") as file:
        kernel = file["sentence_model_with_linear_transformation/LinearTransformation/kernel:0"][()]
    assert tensors.shape("LinearTransformation.weight") == (16, 32)
    np.testing.assert_array_equal(tensors["LinearTransformation.weight"].numpy(), kernel.T)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == tensors.shape(name)
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize(
    ("keras", "torch_name"),
    [
        ("tf_bert_model/bert/encoder/layer_._11/output/dense/kernel:0", "encoder.layer.11.output.dense.weight"),
        ("tfxlm_roberta_model_1/roberta/embeddings/LayerNorm/gamma:0", "embeddings.LayerNorm.weight"),
        ("tf_bert_model/bert/embeddings/token_type_embeddings/embeddings:0", "embeddings.token_type_embeddings.weight"),
        ("tf_roberta_model/roberta/embeddings/word_embeddings/weight:0", "embeddings.word_embeddings.weight"),
        ("tf_distil_bert_model/distilbert/transformer/layer_._0/ffn/lin1/bias:0", "transformer.layer.0.ffn.lin1.bias"),
    ],
)
def test_bare_bodies_lose_their_own_name(keras, torch_name):
    assert torch_names([keras]) == [torch_name]


def test_mclip_names_hold_whatever_keras_calls_the_parts():
    """Old TensorFlow wrote the scopes of the outer models in front; new ones write none."""
    outer = "multi_ling_clip/sentence_model_with_linear_transformation/"
    inner = "tf_xlm_roberta_model/roberta/pooler/dense/bias:0"
    for prefix in ("", outer):
        names = torch_names([prefix + inner, prefix + "LinearTransformation/kernel:0"])
        assert names == ["transformer.pooler.dense.bias", "LinearTransformation.weight"]
    with pytest.raises(BabelclipError, match="x/y/weight belongs neither to the transformer nor to the head"):
        torch_names(["x/y/kernel:0", "LinearTransformation/bias:0"])


def keras_file(path: Path, fill) -> Path:
    """A file with one layer `top` and the weight `m/bert/norm/gamma:0`, which `fill(group)` makes."""
    with h5py.File(path, "w") as file:
        fill(file.create_group("top/m/bert/norm"))
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(BabelclipError, match=match) as caught:
        open_tensors(path)
    assert path.name in str(caught.value)


def test_a_plain_file_is_read(tmp_path):
    path = keras_file(tmp_path / "a.h5", lambda group: group.create_dataset("gamma:0", data=np.ones(3, np.float32)))
    assert open_tensors(path)["norm.weight"].tolist() == [1.0, 1.0, 1.0]


def test_soft_and_external_links_are_refused(tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones(3, np.float32)

    def external(group):
        group["gamma:0"] = h5py.ExternalLink("other.h5", "/x")

    def soft(group):
        group["x"] = np.ones(3, np.float32)
        group["gamma:0"] = h5py.SoftLink("/top/m/bert/norm/x")

    refused(keras_file(tmp_path / "a.h5", external), "is a link to another place")
    refused(keras_file(tmp_path / "b.h5", soft), "is a link to another place")


def test_arrays_outside_of_the_file_or_in_pieces_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12))

    def outside(group):
        group.create_dataset("gamma:0", (3,), "f4", external=[(str(secret), 0, 12)])

    def compressed(group):
        group.create_dataset("gamma:0", data=np.zeros(1 << 20, np.float32), compression="gzip")

    def virtual(group):
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3,))
        group.create_virtual_dataset("gamma:0", layout)

    for number, fill in enumerate((outside, compressed, virtual)):
        refused(keras_file(tmp_path / f"{number}.h5", fill), "is compressed, in pieces or outside of the file")


def test_numbers_that_are_no_weights_are_refused(tmp_path):
    def text(group):
        group.create_dataset("gamma:0", data=np.array([b"a", b"b"]))

    def big_endian(group):
        group.create_dataset("gamma:0", data=np.ones(3, ">f4"))

    def reference(group):
        group.create_dataset("gamma:0", (1,), h5py.ref_dtype)

    for number, fill in enumerate((text, big_endian, reference)):
        refused(keras_file(tmp_path / f"{number}.h5", fill), "has numbers of type")


def test_arrays_outside_of_layers_and_two_of_one_name_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(3, np.float32)
    refused(tmp_path / "a.h5", "'x' lies in no layer")

    def both(group):
        group["gamma:0"] = group["weight:0"] = np.ones(3, np.float32)

    refused(keras_file(tmp_path / "b.h5", both), "are both norm.weight in torch")


def test_a_weight_listed_under_two_layers_is_one_weight(tmp_path):
    with h5py.File(keras_file(tmp_path / "a.h5", lambda group: None), "a") as file:
        for layer in ("top", "head"):
            file[f"{layer}/m/bert/norm/gamma:0"] = np.ones(3, np.float32)
    assert list(open_tensors(tmp_path / "a.h5")) == ["norm.weight"]


def test_groups_that_lead_into_each_other_are_refused(tmp_path):
    def endless(group):
        group["again"] = group.file["top"]

    refused(keras_file(tmp_path / "a.h5", endless), "deeper than 32 levels")


def test_without_h5py_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"babelclip\[legacy\]"):
        open_tensors(GOLDEN / "tensorflow_bert")
