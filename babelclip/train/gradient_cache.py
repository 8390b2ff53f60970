"""A loss over a batch that is larger than memory: forward passes of a part of the rows at a time.

GradCache (Gao et al., arXiv 2101.06983): a first pass gives the vectors of all rows without gradient, the loss gives
the gradient of each vector, and a second pass, part by part, carries these gradients into the weights. Memory holds
one part's states instead of the batch's; the model runs twice. The second pass puts the random states of the first
back, so that dropout draws the same masks and the gradients are those of one pass. Entry point: `loss_in_parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from babelclip.errors import BabelclipError
from babelclip.train.processes import Ranks

Outputs = tuple[Tensor, ...]


def loss_in_parts(
    model: nn.Module, batch: Mapping[str, Tensor], loss: Callable[..., Tensor], ranks: Ranks, rows: int
) -> Tensor:
    """Returns the loss of a batch to be differentiated by the loop; gradients of all parts but the last are added here.

    Args:
        model: a part of the batch -> outputs: tensors of one row for each of its rows, and scalars of the model.
        batch: tensors with one row for each of the n rows of this process.
        loss: outputs of the whole batch -> scalar, the mean over the rows of this process; it may gather with `ranks`.
        ranks: the processes.
        rows: most rows of a forward pass; 0 = all, which is one pass.
    """
    parts = cut(batch, rows, ranks.sizes)
    if len(parts) == 1:
        return loss(*model(batch))
    states, outputs = _first_pass(model, parts)
    joined = [torch.cat(column) if column[0].ndim else column[0] for column in zip(*outputs, strict=True)]
    leaves = [tensor.detach().requires_grad_() for tensor in joined]
    value = loss(*leaves)
    # The losses of all processes meet in a gathered vector, each as the loop weighs it: by its rows.
    own = ranks.sizes[ranks.rank]
    gradients = [
        None if gradient is None else gradient / own
        for gradient in torch.autograd.grad(value * own, leaves, allow_unused=True)
    ]
    start = 0
    for place, (part, state) in enumerate(zip(parts, states, strict=True)):
        length, last = _length(part), place == len(parts) - 1
        if last:
            _restore(state)
            surrogate = _surrogate(model(part), gradients, start, scalars=True)
            return value.detach() + surrogate - surrogate.detach()
        with ranks.part():
            _restore(state)
            ranks.backward(_surrogate(model(part), gradients, start, scalars=False))
        start += length
    raise AssertionError("a batch has a last part")


def cut(batch: Mapping[str, Tensor], rows: int, sizes: Sequence[int]) -> list[dict[str, Tensor]]:
    """Returns the batch in parts of at most `rows` rows, in order; as many parts on each process.

    Sharded weights are gathered at each forward pass, so the processes have to make the same number.
    """
    count = min(-(-max(sizes) // rows), min(sizes)) if rows else 1
    columns = {name: tensor.tensor_split(count) for name, tensor in batch.items()}
    return [{name: parts[place] for name, parts in columns.items()} for place in range(count)]


def check_independent_rows(model: nn.Module) -> None:
    """Checks that what the model says of a row does not depend on the other rows of its forward pass.

    Raises:
        BabelclipError: a batch norm trains.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise BabelclipError(
                f"train.micro_batch was given, but {name} normalises over the rows of a forward pass, so parts of a "
                'batch would give other gradients than the whole: set micro_batch = 0, or that tower to "locked".'
            )


def _length(part: Mapping[str, Tensor]) -> int:
    return len(next(iter(part.values())))


def _first_pass(model: nn.Module, parts: Sequence[Mapping[str, Tensor]]) -> tuple[list[Any], list[Outputs]]:
    states, outputs = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state())
            outputs.append(tuple(model(part)))
    # Weights that autocast has cast without gradient must not serve the second pass.
    torch.clear_autocast_cache()
    return states, outputs


def _surrogate(outputs: Outputs, gradients: Sequence[Tensor | None], start: int, *, scalars: bool) -> Tensor:
    """Returns the scalar whose gradient in the weights is that of the loss by way of these outputs."""
    terms = []
    for output, gradient in zip(outputs, gradients, strict=True):
        if gradient is None or not output.requires_grad:
            continue
        if output.ndim:
            terms.append((output * gradient[start : start + len(output)]).sum())
        else:
            # Scalars of the model came once into the loss: with the last part. The zero keeps them in every graph.
            terms.append(output * gradient * float(scalars))
    return torch.stack(terms).sum()


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
