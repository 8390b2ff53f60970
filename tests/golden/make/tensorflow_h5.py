"""TensorFlow weight files, written by TensorFlow, in an environment of its own without torch.

Packages: tensorflow-cpu 2.21.0, tf-keras 2.21.0, transformers 4.57.6, multilingual-clip 1.0.10 (`--no-deps`), pillow.

    python -m tests.golden.make.tensorflow_h5 [--out DIR]

Four folders: M-CLIP's own TensorFlow class on an XLM-R body, and the bare or headed classes of the other bodies.
"""

from __future__ import annotations

import os

os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", USE_TORCH="0")

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow as tf
import transformers

from tests.golden.inputs import TEXTS
from tests.golden.make.common import out_folder, save_expected, save_xlmr_tokenizer

ENVIRONMENT = "tensorflow"

SIZES = {
    "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64,
    "max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
DISTIL = {
    "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64, "max_position_embeddings": 40, "pad_token_id": 1,
}  # fmt: skip
VERSIONS = {name: version(name) for name in ("tensorflow-cpu", "tf-keras", "transformers", "multilingual-clip")}


def randomise(model: tf.keras.Model, seed: int) -> None:
    """Sets every weight to normal noise, biases and norms included, so that a mix-up of any two shows."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(0.0, 0.2, weight.shape) + (1.0 if "gamma" in weight.name else 0.0))


def inputs(folder: Path, longest: int) -> dict[str, np.ndarray]:
    """Returns ids and mask (N, T) of the golden texts, cut at `longest` tokens and padded, by `folder`'s tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=longest, return_tensors="np")
    return {key: batch[key].astype(np.int64) for key in ("input_ids", "attention_mask")}


def body(name: str, config: transformers.PretrainedConfig, kind: type, seed: int) -> None:
    """Writes a folder with `kind`'s weights and the masked means (N, H) of its last hidden states."""
    folder = out_folder(name)
    config.vocab_size = save_xlmr_tokenizer(folder)
    model = kind(config)
    model(model.dummy_inputs)
    randomise(model, seed)
    model.save_pretrained(folder)
    batch = inputs(folder, longest=40)
    inner = getattr(model, model.base_model_prefix)
    hidden = inner({key: tf.constant(value) for key, value in batch.items()}).last_hidden_state.numpy()
    mask = batch["attention_mask"][..., None]
    text = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
    save_expected(folder, f"transformers {kind.__name__}", VERSIONS, "text: masked mean", **batch, text=text)


def mclip() -> None:
    """Writes a folder with the weights of M-CLIP's TensorFlow class and its text vectors (N, D)."""
    from multilingual_clip.Config_MCLIP import MCLIPConfig
    from multilingual_clip.tf_multilingual_clip import MultiLingualCLIP

    folder = out_folder("tensorflow_mclip")
    vocabulary = save_xlmr_tokenizer(folder)
    config = transformers.XLMRobertaConfig(**SIZES, vocab_size=vocabulary, type_vocab_size=1, layer_norm_eps=1e-5)
    with tempfile.TemporaryDirectory() as base:
        model = transformers.TFXLMRobertaModel(config)
        model(model.dummy_inputs)
        model.save_pretrained(base)
        # The class asks for the base as torch weights; here they lie in TensorFlow's form, and are replaced anyway.
        given = transformers.TFAutoModel.from_pretrained
        transformers.TFAutoModel.from_pretrained = lambda name, from_pt: given(name)
        whole = MultiLingualCLIP(MCLIPConfig(modelBase=base, transformerDimSize=32, imageDimSize=16))
    whole(whole.dummy_inputs)
    randomise(whole, 1)
    # Published folders name the base on the hub; the body's sizes stand beside it, as in the inline layout.
    sizes = {key: value for key, value in config.to_diff_dict().items() if key not in ("model_type", "architectures")}
    whole.config.update({**sizes, "modelBase": "xlm-roberta-large"})
    whole.save_pretrained(folder)
    batch = inputs(folder, longest=38)  # of 40 positions XLM-R leaves out the first two
    vectors = whole({key: tf.constant(value) for key, value in batch.items()}).numpy()
    origin = "multilingual_clip.tf_multilingual_clip.MultiLingualCLIP"
    save_expected(folder, origin, VERSIONS, "text: raw vectors", **batch, text=vectors)


if __name__ == "__main__":
    mclip()
    body("tensorflow_bert", transformers.BertConfig(**SIZES), transformers.TFBertModel, 2)
    body("tensorflow_bert_pretraining", transformers.BertConfig(**SIZES), transformers.TFBertForPreTraining, 3)
    body("tensorflow_distilbert", transformers.DistilBertConfig(**DISTIL), transformers.TFDistilBertModel, 4)
