"""Many texts through a text tower at the speed of the machine.

Texts are tokenised once, in a thread ahead of the model; sorted by token count; cut into batches of a token budget; and
the vectors are written straight into their places. On a processor each core takes whole batches of its own instead of
a share of every matrix: the cores then never wait for each other (docs/log.md).
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from babelclip.errors import BabelclipError
from babelclip.models.batching import token_batches
from babelclip.models.quantize import is_quantized
from babelclip.progress import progress_bar

if TYPE_CHECKING:
    from babelclip.models.text import TextEncoder

T = TypeVar("T")
# A device, or a copy of the tower that lies on one already: who calls often copies once (`replicas`).
Device = str | torch.device | nn.Module

# Texts tokenised at once. Large enough for the sort to find equal lengths, small enough for memory.
_TOKENISE_AT_ONCE = 65536
# Tokens of a padded batch. On a processor larger passes fall out of the cache (docs/log.md); a GPU wants to be filled.
_CPU_BUDGET, _INT8_BUDGET, _GPU_BUDGET = 1024, 512, 32768


def encode_texts(
    tower: TextEncoder,
    texts: Sequence[str],
    *,
    lang: str | Sequence[str] | None = None,
    token_budget: int | None = None,
    before_head: bool = False,
    devices: Sequence[Device] | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Returns the raw vectors (N, D) float32, not normalised, of N texts in their order (see `TextEncoder.encode`).

    Raises:
        BabelclipError: an item is not a string, `lang` is no language of the model or has another length, or a device
            is not there.
    """
    langs = _one_each(lang, len(texts))
    features = np.empty((len(texts), tower.width if before_head else tower.embed_dim), dtype=np.float32)
    with inference(tower), progress_bar("Texts", len(texts), shown=progress, unit="texts") as advance:
        if len(texts) == 1:  # one query: no threads, no batches
            ids = tower.tokenize(texts, langs)
            features[:] = _forward(tower, ids, before_head)
            advance(1)
            return features
        towers = replicas(tower, devices)
        budget = _budget(towers) if token_budget is None else token_budget
        for start, token_ids in _tokenised(tower, texts, langs):

            def work(lane: nn.Module, rows: np.ndarray, start: int = start, token_ids: Any = token_ids) -> None:
                features[start + rows] = _forward(lane, [token_ids[row] for row in rows], before_head)
                advance(len(rows))

            in_lanes(work, token_batches([len(ids) for ids in token_ids], budget), towers)
    return features


def _budget(towers: Sequence[nn.Module]) -> int:
    if any(device_of(tower).type == "cuda" for tower in towers):
        return _GPU_BUDGET
    return _INT8_BUDGET if is_quantized(towers[0]) else _CPU_BUDGET


def _forward(tower: Any, token_ids: Sequence[Sequence[int]], before_head: bool) -> np.ndarray:
    input_ids, attention_mask = tower.pad(token_ids)
    padded = any(len(ids) != input_ids.shape[1] for ids in token_ids)
    # Attention without a mask is faster, and sorted batches seldom need one.
    output: torch.Tensor = (tower.pooled if before_head else tower)(input_ids, attention_mask if padded else None)
    return np.asarray(output.float().cpu().numpy())


def _tokenised(
    tower: TextEncoder, texts: Sequence[str], langs: list[str] | None
) -> Iterator[tuple[int, list[list[int]]]]:
    """Yields the position of each part of the texts and its token ids; the next part is tokenised meanwhile."""

    def tokenize(start: int) -> list[list[int]]:
        end = start + _TOKENISE_AT_ONCE
        return tower.tokenize(texts[start:end], None if langs is None else langs[start:end])

    starts = range(0, len(texts), _TOKENISE_AT_ONCE)
    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting: Future[list[list[int]]] | None = ahead.submit(tokenize, 0) if starts else None
        for start in starts:
            following = start + _TOKENISE_AT_ONCE
            token_ids = waiting.result() if waiting is not None else []
            waiting = ahead.submit(tokenize, following) if following < len(texts) else None
            yield start, token_ids


def replicas(tower: nn.Module, devices: Sequence[Device] | None) -> list[Any]:
    """Returns the tower once for each device; the same object where it lies there already.

    Raises:
        BabelclipError: there is no device, or one of them is not on this machine.
    """
    if devices is None:
        return [tower]
    if isinstance(devices, (str, torch.device, nn.Module)) or not devices:
        raise BabelclipError(f'devices={devices!r} names no devices. Give a list such as ["cuda:0", "cuda:1"].')
    made: list[nn.Module] = []
    for name in devices:
        if isinstance(name, nn.Module):
            made.append(name)
            continue
        device, here = checked_device(name), device_of(tower)
        same = device.type == here.type and device.index in (None, here.index)
        # Several lanes of one processor share its weights; a GPU gets a copy of its own.
        made.append(tower if same else copy.deepcopy(tower).to(device))
    return made


def checked_device(name: str | torch.device) -> torch.device:
    """Returns the device of that name.

    Raises:
        BabelclipError: it is not on this machine; names those that are.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BabelclipError(
            f"Device {name!r} cannot be used ({error}). This machine has: {', '.join(_present())}."
        ) from error
    return device


def in_lanes(work: Callable[[Any, T], None], items: Iterable[T], towers: Sequence[nn.Module]) -> None:
    """Calls `work(tower, item)` for every item, on all towers at once.

    One tower on a processor becomes as many lanes as torch has threads, each with one thread. A lane takes the next
    item when it is done with its last, so slow and fast devices both stay busy. The first error stops all and is
    raised here; so does Ctrl-C.
    """
    items = list(items)
    threads = torch.get_num_threads()
    on_cpu = [device_of(tower).type == "cpu" for tower in towers]
    if len(towers) == 1 and on_cpu[0] and len(items) >= 2 * threads:
        towers, on_cpu = list(towers) * threads, [True] * threads
    if len(towers) == 1 or len(items) <= 1:
        for item in items:
            work(towers[0], item)
        return
    each = max(1, threads // max(1, sum(on_cpu)))
    waiting, lock, failed = iter(items), threading.Lock(), threading.Event()
    errors: list[BaseException] = []

    def lane(tower: nn.Module) -> None:
        torch.set_num_threads(each)  # of this thread; the caller's is set again below
        with torch.inference_mode():
            while not failed.is_set():
                with lock:
                    item = next(waiting, _NOTHING)
                if item is _NOTHING:
                    return
                try:
                    work(tower, item)  # type: ignore[arg-type]
                except BaseException as error:  # handed over to the caller's thread
                    errors.append(error)
                    failed.set()

    lanes = [threading.Thread(target=lane, args=(tower,), daemon=True) for tower in towers]
    try:
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()
    finally:
        failed.set()
        for thread in lanes:
            thread.join()
        torch.set_num_threads(threads)
    if errors:
        raise errors[0]


_NOTHING = object()


@contextlib.contextmanager
def one_thread_each(tower: nn.Module, devices: Sequence[Device] | None = None) -> Iterator[list[nn.Module]]:
    """Yields what to pass as `devices`, so that bits depend on the input alone and not on the number of threads.

    Threads that share a matrix product sum in another order: of 500 captions through the starter model 5 got other
    float16 vectors by 2 threads, and every picture did in float32. Within the block each lane has one thread; without
    `devices` a processor has as many lanes as torch had threads.
    """
    threads = torch.get_num_threads()
    towers = replicas(tower, devices)
    if devices is None and device_of(tower).type == "cpu":
        towers = towers * threads
    torch.set_num_threads(1)
    try:
        yield towers
    finally:
        torch.set_num_threads(threads)


def device_of(module: nn.Module) -> torch.device:
    """Returns where a module's weights lie."""
    return next(module.parameters()).device


def _present() -> list[str]:
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


@contextlib.contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Runs the block in eval mode without gradients; parts that were in training mode are put back afterwards."""
    # Setting the mode of every part twice costs a query over 1 ms, looking at it a sixth of that.
    trained = [part for part in module.modules() if part.training]
    if trained:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part in trained:
            part.training = True


@contextlib.contextmanager
def no_gradients(module: nn.Module) -> Iterator[None]:
    """Runs the block in eval mode without gradients.

    Not `inference_mode`: its tensors could enter neither the training of a diffusion model's adapter nor a trace.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def _one_each(lang: str | Sequence[str] | None, texts: int) -> list[str] | None:
    if lang is None:
        return None
    langs = [lang] * texts if isinstance(lang, str) else list(lang)
    if len(langs) != texts:
        raise BabelclipError(f"{len(langs)} languages were given for {texts} texts. Give one for each, or one for all.")
    return langs
