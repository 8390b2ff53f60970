"""Names of a checkpoint become names of a tower, and every fault is named as the checkpoint would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.keymap import Rule, Weights, convert, fill

RULES = [
    Rule(r"blocks\.(\d+)\.attn\.in_proj_weight", tuple(rf"layer.\1.{n}.weight" for n in "qkv"), "split"),
    Rule(r"proj", "head.weight", "transpose"),
    Rule(r"lin\.(weight|bias)", r"out.\1"),
]


def tensors():
    return {
        "blocks.0.attn.in_proj_weight": torch.arange(12.0).reshape(6, 2),
        "proj": torch.arange(6.0).reshape(2, 3),
        "lin.weight": torch.ones(2, 2),
        "lin.bias": torch.zeros(2),
        "other.weight": torch.ones(1),
    }


def module():
    made = nn.ModuleDict({
        "layer": nn.ModuleList([nn.ModuleDict({n: nn.Linear(2, 2, bias=False) for n in "qkv"})]),
        "head": nn.Linear(2, 3, bias=False),
        "out": nn.Linear(2, 2),
    })  # fmt: skip
    return made


def test_tensors_are_renamed_split_and_transposed():
    weights = convert(tensors(), RULES, known=[r"other\..*"])
    torch.testing.assert_close(weights["layer.0.k.weight"], torch.tensor([[4.0, 5.0], [6.0, 7.0]]))
    torch.testing.assert_close(weights["head.weight"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert weights.origin["layer.0.v.weight"] == "blocks.0.attn.in_proj_weight"
    made = module()
    fill(made, weights)
    assert all(torch.equal(made.state_dict()[name], weights[name]) for name in weights)
    assert all(tensor.is_contiguous() for tensor in made.state_dict().values())


def test_what_no_rule_explains_is_an_error_that_names_it():
    with pytest.raises(BabelclipError, match=r"w\.bin holds tensors that this layout does not know: other\.weight"):
        convert(tensors(), RULES, path=Path("w.bin"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("lin.weight"), r"missing lin\.weight \(2, 2\)"),
        (lambda t: t.update({"lin.bias": torch.zeros(3)}), r"lin\.bias is \(3,\) but the config asks for \(2,\)"),
        (lambda t: t.update({"proj": torch.zeros(4)}), r"proj is \(4,\); a matrix is expected"),
        (lambda t: t.update({"blocks.0.attn.in_proj_weight": torch.zeros(7, 2)}), r"does not split into 3"),
        (lambda t: t.update({"blocks.1.attn.in_proj_weight": torch.zeros(6, 2)}), r"unexpected blocks\.1\.attn"),
    ],
)
def test_faults_are_named_as_the_checkpoint_has_them(change, message):
    state = tensors()
    change(state)
    with pytest.raises(BabelclipError, match=message):
        fill(module(), convert(state, RULES, known=[r"other\..*"], path=Path("w.bin")))


def test_a_lost_layer_is_named_after_its_like():
    made = module()
    made["layer"].append(nn.ModuleDict({n: nn.Linear(2, 2, bias=False) for n in "qkv"}))
    with pytest.raises(BabelclipError, match=r"missing blocks\.1\.attn\.in_proj_weight"):
        fill(made, convert(tensors(), RULES, known=[r"other\..*"], path=Path("w.bin")))


def test_two_tensors_for_one_weight_are_refused():
    state = {**tensors(), "lin2.weight": torch.ones(2, 2)}
    rules = [*RULES, Rule(r"lin2\.weight", "out.weight")]
    with pytest.raises(BabelclipError, match=r"lin\.weight and lin2\.weight are one weight"):
        convert(state, rules, known=[r"other\..*"], path=Path("w.bin"))


def test_weights_keep_the_tensors_they_were_given():
    state = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    linear = nn.Linear(2, 2)
    fill(linear, Weights(Path("w"), state))
    assert linear.weight.data_ptr() == state["weight"].data_ptr()
