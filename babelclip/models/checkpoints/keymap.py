"""From a checkpoint's tensor names to babelclip's, strictly: nothing missing, nothing unexplained, nothing random."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from babelclip.errors import BabelclipError, shown

# Faults named in one error; a wrong config makes hundreds.
_SHOWN = 8


@dataclass(frozen=True)
class Rule:
    r"""How tensors of one naming pattern become ours.

    Attributes:
        pattern: a regular expression that the whole name matches, for example `visual\.ln_pre\.(weight|bias)`.
        to: the new name, with `\1` for groups; several names for "split".
        how: "same", "transpose" (of a matrix), or "split" (equal parts along the first dimension, as in
            `attn.in_proj_weight`, which holds query, key and value).
    """

    pattern: str
    to: str | tuple[str, ...]
    how: str = "same"


class Weights(dict[str, torch.Tensor]):
    """Tensors of one tower under babelclip's names, and where each came from, for messages."""

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        """Takes the file or folder that errors name, and tensors that already have our names."""
        super().__init__(tensors or {})
        self.path = path
        self.origin: dict[str, str] = {}


def convert(
    tensors: Mapping[str, torch.Tensor],
    rules: Sequence[Rule],
    *,
    known: Sequence[str] = (),
    path: Path | None = None,
) -> Weights:
    """Returns the tensors that `rules` name, renamed; tensors of `known` patterns are left out and never read.

    Args:
        tensors: a checkpoint's tensors by name; `Tensors` reads each on access.
        rules: the first that matches a name decides.
        known: patterns of names that are left out on purpose: the other tower, `position_ids`, an unused pooler.
        path: what errors name; the path of `tensors` by default.

    Raises:
        BabelclipError: a name matches neither, two tensors get one name, or a shape does not allow the rule.
    """
    weights = Weights(path if path is not None else getattr(tensors, "path", Path("checkpoint")))
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    left_out = [re.compile(pattern) for pattern in known]
    unexplained = []
    for name in tensors:
        rule, match = next(((r, m) for p, r in compiled if (m := p.fullmatch(name))), (None, None))
        if rule is not None and match is not None:
            targets = (rule.to,) if isinstance(rule.to, str) else rule.to
            _add(weights, name, [match.expand(target) for target in targets], tensors[name], rule.how)
        elif not any(pattern.fullmatch(name) for pattern in left_out):
            unexplained.append(name)
    if unexplained:
        raise BabelclipError(
            f"{weights.path} holds tensors that this layout does not know: {_listed(unexplained)}. A published "
            "checkpoint has none of these; if it is yours, save it without them."
        )
    return weights


def _add(weights: Weights, name: str, targets: list[str], tensor: torch.Tensor, how: str) -> None:
    if how == "split" and (tensor.ndim < 1 or tensor.shape[0] % len(targets)):
        raise BabelclipError(
            f"{weights.path}: {name} is {tuple(tensor.shape)}, which does not split into {len(targets)} equal parts. "
            "Copy the checkpoint again from its origin."
        )
    if how == "transpose" and tensor.ndim != 2:
        raise BabelclipError(
            f"{weights.path}: {name} is {tuple(tensor.shape)}; a matrix is expected. "
            "Copy the checkpoint again from its origin."
        )
    if how == "split":
        parts = tensor.chunk(len(targets))
    else:
        parts = (tensor.T if how == "transpose" else tensor,)
    for target, part in zip(targets, parts, strict=True):
        if target in weights:
            raise BabelclipError(
                f"{weights.path}: {weights.origin[target]} and {name} are one weight of the model. "
                "Remove one of them, or copy the checkpoint again from its origin."
            )
        weights[target] = part
        weights.origin[target] = name


def fill(module: nn.Module, weights: Weights) -> None:
    """Sets every weight of `module`, strictly: none missing or left over, no other shape, no whole numbers for floats.

    The module takes the tensors themselves, so that what is memory-mapped stays so.

    Raises:
        BabelclipError: it lists the names as the checkpoint has them, and both shapes where those differ.
    """
    expected = module.state_dict()
    faults = [
        f"missing {_own_name(name, weights.origin)} {tuple(expected[name].shape)}"
        for name in expected.keys() - weights.keys()
    ]
    faults += [
        f"unexpected {weights.origin.get(name, name)} {tuple(weights[name].shape)}"
        for name in weights.keys() - expected.keys()
    ]
    faults += [
        f"{weights.origin.get(name, name)} is {tuple(weights[name].shape)} but the config asks for "
        f"{tuple(expected[name].shape)}"
        for name in expected.keys() & weights.keys()
        if expected[name].shape != weights[name].shape
    ]
    faults += [
        f"{weights.origin.get(name, name)} holds {weights[name].dtype} but the config asks for {expected[name].dtype}"
        for name in expected.keys() & weights.keys()
        # The other way round is usual: a model saved in half precision counts its batches in it too.
        if expected[name].is_floating_point() and not weights[name].is_floating_point()
    ]
    if faults:
        raise BabelclipError(
            f"{weights.path} does not fit its config: {_listed(sorted(faults), '; ')}. Weights and config must come "
            "from one model: copy the folder again from its origin."
        )
    module.load_state_dict({name: _contiguous(tensor) for name, tensor in weights.items()}, strict=True, assign=True)


def _own_name(target: str, origin: Mapping[str, str]) -> str:
    """Returns what the checkpoint would call a tensor that it lacks: as its like in another layer, or its neighbour."""
    numbers = re.findall(r"\d+", target)
    like = re.compile(re.sub(r"\d+", r"\\d+", re.escape(target)))
    for other, name in origin.items():
        pieces = re.split(r"\d+", name)
        if like.fullmatch(other) and len(pieces) == len(numbers) + 1:
            return "".join(piece + number for piece, number in zip(pieces, [*numbers, ""], strict=True))
    parent, _, last = target.rpartition(".")
    for other, name in origin.items():
        if other.rpartition(".")[0] == parent and other.rpartition(".")[2] == name.rpartition(".")[2]:
            return f"{name.rpartition('.')[0]}.{last}"
    return target


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    # A mapped tensor that is only a view of another layout (a transpose, a split) costs every matrix product a copy.
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    named = separator.join(shown(item) for item in items[:_SHOWN])
    return f"{named}{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else named
