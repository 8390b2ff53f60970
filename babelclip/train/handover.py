"""Tensors and plain content of one process, given to all others of a run: a checkpoint is read once, wherever it lies.

Tensors travel one by one as bytes, so that memory holds the content once on each process, and a network carries it once
a machine or so. Entry point: `handed_over`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from babelclip.train.processes import Processes


class _Place(NamedTuple):
    """Stands for a tensor in content that is sent without its tensors."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def handed_over(processes: Processes, content: Any, source: int) -> Any:
    """Returns the content of process `source` on every process, tensors on the CPU.

    Args:
        processes: all of them call this.
        content: mappings, lists and tuples of tensors and of what can be pickled; read on `source` alone.
        source: rank of the process that has it.
    """
    if processes.world == 1:
        return content
    tensors: list[Tensor] = []
    places: list[_Place] = []
    frame = _framed(content, tensors, places) if processes.rank == source else None
    frame, places = processes.told((frame, places), source)
    if processes.rank != source:
        tensors = [torch.empty(place.shape, dtype=place.dtype) for place in places]
    for tensor in tensors:
        _send(tensor, processes, source)
    return _filled(frame, tensors)


def _send(tensor: Tensor, processes: Processes, source: int) -> None:
    if not tensor.numel():
        return
    # As bytes: not every backend knows every type.
    flat = tensor.reshape(-1).view(torch.uint8)
    sent = flat if processes.device.type == "cpu" else flat.to(processes.device)
    dist.broadcast(sent, src=source)
    if processes.rank != source and sent is not flat:
        flat.copy_(sent)


def _framed(content: Any, tensors: list[Tensor], places: list[_Place]) -> Any:
    """Returns the content with a place instead of each tensor; adds the tensors, and their places, to the lists."""
    if isinstance(content, Tensor):
        place = _Place(len(tensors), tuple(content.shape), content.dtype)
        tensors.append(content.detach().cpu().contiguous())
        places.append(place)
        return place
    if isinstance(content, Mapping):
        return {key: _framed(value, tensors, places) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)([_framed(value, tensors, places) for value in content])
    return content


def _filled(frame: Any, tensors: list[Tensor]) -> Any:
    if isinstance(frame, _Place):
        return tensors[frame.number]
    if isinstance(frame, Mapping):
        return {key: _filled(value, tensors) for key, value in frame.items()}
    if isinstance(frame, list | tuple):
        return type(frame)([_filled(value, tensors) for value in frame])
    return frame
