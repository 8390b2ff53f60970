"""Weights, gradients and optimiser states spread over the processes (FSDP), and copies on each of them (DDP).

PyTorch's fully_shard (FSDP 2) keeps names and classes of a model, so the loop, its checkpoints and its optimiser see
the same parameters as on one process, with a part of each here. After the run the model is whole again.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from babelclip.errors import BabelclipError
from babelclip.train.layers import layer_stacks
from babelclip.train.processes import Processes


class Spread(NamedTuple):
    """A model as the processes hold it: what a step calls, and what trains, by the caller's names."""

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Keeps the gradients of the block on this process; the next backward pass outside adds them up."""
        if isinstance(self.model, DistributedDataParallel):
            with self.model.no_sync():  # type: ignore[no-untyped-call]
                yield
        elif _is_sharded(self.model):
            self.model.set_requires_gradient_sync(False)  # type: ignore[operator]
            yield
            self.model.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            yield

    def fresh(self) -> None:
        """Drops gathered weights, where the parts have been changed outside of a training step."""
        if _is_sharded(self.model):
            for module in self.model.modules():
                if _is_sharded(module):
                    module.reshard()  # type: ignore[operator]


@contextlib.contextmanager
def spread(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], processes: Processes, how: str
) -> Iterator[Spread]:
    """Yields the model spread over the processes, `how` = ddp or fsdp; one process has the model itself.

    Raises:
        BabelclipError: the model cannot be sharded.
    """
    if processes.world == 1:
        yield Spread(model, parameters)
    elif how == "ddp":
        yield Spread(_copied(model, parameters, processes), parameters)
    else:
        if processes.accelerator.mixed_precision == "fp16":
            raise BabelclipError(
                'train.parallel = "fsdp" was given with precision fp16, whose gradient scaler sees a part only: '
                'set train.precision = "bf16" or "fp32".'
            )
        with _sharded(model, parameters, processes) as parts:
            yield Spread(model, parts)


def full(tensor: Tensor) -> Tensor:
    """Returns a tensor whole, wherever its parts are; every process must ask."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """Returns a whole tensor as `model` is held: its part of this process, or itself."""
    if is_part(model) and not is_part(tensor) and tensor.shape == model.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)  # type: ignore[attr-defined]
    return tensor


def is_part(tensor: Any) -> bool:
    """Returns whether a tensor is held in parts, without the cost of importing DTensor to ask."""
    return hasattr(tensor, "full_tensor")


def _copied(model: nn.Module, parameters: Mapping[str, nn.Parameter], processes: Processes) -> nn.Module:
    trained = {id(parameter) for parameter in parameters.values()}
    # Running statistics beside trained weights would drift apart; all others are constants.
    moving = any(
        id(parameter) in trained and any(True for _ in module.buffers(recurse=False))
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )
    devices = [processes.device] if processes.device.type == "cuda" else None
    # Newer versions of PyTorch have the second name and warn of the first.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    buffers: dict[str, Any] = {name: moving}
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **buffers)


def _is_sharded(module: nn.Module) -> bool:
    return hasattr(module, "set_requires_gradient_sync")


@contextlib.contextmanager
def _sharded(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], processes: Processes
) -> Iterator[dict[str, nn.Parameter]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = list(model.parameters())
    for parameter in whole:
        dist.broadcast(parameter.detach(), src=0)
    before = [_Before.of(module) for module in model.modules()]
    home = {id(p): (module, name) for module in model.modules() for name, p in module.named_parameters(recurse=False)}
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    mesh = init_device_mesh(processes.device.type, (processes.world,))
    options: dict[str, Any] = {"mesh": mesh, **({"ignored_params": scalars} if scalars else {})}
    for layer in (layer for layers in layer_stacks(model) for layer in layers):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    for scalar in scalars:
        # Too small to be shared out, so each process holds it, and its gradient is averaged here.
        scalar.register_post_accumulate_grad_hook(_average_gradient)  # type: ignore[no-untyped-call]
    parts = {name: getattr(*home[id(parameter)]) for name, parameter in parameters.items()}
    # Memory for gathered weights that is first taken in inference mode, by a validation, could not be trained with.
    for module in model.modules():
        if _is_sharded(module):
            module.unshard()  # type: ignore[operator]
            module.reshard()  # type: ignore[operator]
    _released(parameter for parameter in whole if parameter not in scalars)
    yield parts
    _make_whole(model, before)


class _Before(NamedTuple):
    """A module as it was, to be put back."""

    module: nn.Module
    kind: type
    content: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> _Before:
        """Returns the class of a module, and its attributes with copies of its tables of hooks and parameters."""
        content = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}
        return cls(module, type(module), content)


def _average_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def _released(parameters: Iterable[nn.Parameter]) -> None:
    """Frees the memory of whole weights, which live on in parts."""
    for parameter in parameters:
        storage = parameter.untyped_storage()
        if storage.resizable() and storage.nbytes() == parameter.nbytes:
            storage.resize_(0)


def _make_whole(model: nn.Module, before: Sequence[_Before]) -> None:
    """Gives the caller's parameter objects the trained weights, and the modules their classes and hooks."""
    Spread(model, {}).fresh()
    done: set[int] = set()
    for module, kind, content in before:
        for name, parameter in content["_parameters"].items():
            trained = module._parameters[name]
            if trained is not None and is_part(trained) and id(parameter) not in done:
                done.add(id(parameter))
                whole = full(trained.detach())
                if parameter.untyped_storage().nbytes() == 0:
                    parameter.untyped_storage().resize_(parameter.nbytes)
                with torch.no_grad():
                    parameter.copy_(whole)
        # Buffers move while training; all else is as it was.
        content["_buffers"] = module._buffers
        vars(module).clear()
        module.__class__ = kind
        vars(module).update(content)
