"""The launcher `ray`: shards of a job on a Ray cluster, of this machine or of many.

    shards -> a pool of workers, each with the model loaded once -> fragments and ledger, written by the workers
                     ^ GPU workers let the cluster's processors decode (`ray_decoders.py`)
           <- what each fragment is, a line of JSON, to the driver, which commits

What of Ray Data is used, and why. Its actor pool: workers of one GPU or of so many processors, placed over the nodes,
restarted when they or their node die, more of them when the cluster grows, and one shard at a time for each, so that no
shard waits in the queue of a slow worker. Its streaming execution: the driver holds a window of results. Not used are
its blocks as data: Ray Data cuts and joins blocks as it finds fit, so a batch of the model would hold what the cluster
at hand made of it, and vectors would differ in their last bits. One row is therefore one shard and one task: read,
decoded and encoded in the worker, as `local` and `rank` do it, and no pixel or vector passes through Ray's scheduler.

A worker that dies is restarted and its shard done again; one whose death comes at the same shard again and again, or
that raises, ends the job with an error that names shard and cause. Finished shards stay finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from babelclip.cluster.job import Fragment, Job, Means, Shard, Worker
from babelclip.cluster.ray_cluster import joined
from babelclip.cluster.ray_decoders import RayDecoders
from babelclip.errors import BabelclipError, shown

# How often a worker may die at one shard: more often, and the shard is to blame, not the machine.
_DEATHS = 4
# How often reading or writing is tried: a network's file system may be away for a moment.
_READS, _PAUSE = 3, 1.0
# Tasks of one job. Beyond, a task has several shards, which stay the unit of work.
_TASKS = 10_000


@dataclasses.dataclass(frozen=True)
class Room:
    """What a cluster has room for.

    Attributes:
        workers: processes that hold the model.
        gpu: whether each has a GPU.
        lanes: processors of each.
    """

    workers: int
    gpu: bool
    lanes: int


def launch(job: Job[Any], shards: Sequence[Shard], means: Means) -> Iterator[Fragment]:
    """Yields the fragments of `shards` as they are finished; see `cluster.job.Launch`.

    Raises:
        BabelclipError: no cluster answers, it has no GPU for workers that want one, or a shard cannot be done.
    """
    with _cluster(means) as ray:
        nodes = _nodes(ray)
        room = room_of(nodes, means)
        kind = "a GPU" if room.gpu else _counted(room.lanes, "processor")
        means.say(f"Ray: {_counted(len(nodes), 'node')}, {_counted(room.workers, 'worker')} of {kind} each")
        with contextlib.closing(_answers(ray, job, shards, room)) as answers:
            for answer in answers:
                if answer["error"]:
                    raise BabelclipError(str(answer["error"]))
                yield Fragment(**json.loads(answer["fragment"]))


@contextlib.contextmanager
def equipped(means: Means) -> Iterator[Means]:
    """Yields `means` with the kind of device that workers get, "cuda" or "cpu"; connected as long as the block runs.

    What kind it is decides bits of the result, so it is part of a job, and the driver's own machine cannot tell it.
    Without `means.devices` it is GPUs where any node has one.

    Raises:
        BabelclipError: no cluster answers.
    """
    if means.devices:
        yield means
        return
    with _cluster(means) as ray:
        gpu = room_of(_nodes(ray), means).gpu
        yield dataclasses.replace(means, devices=("cuda" if gpu else "cpu",))


def room_of(nodes: Sequence[dict[str, float]], means: Means) -> Room:
    """Returns what workers a cluster gets whose living nodes have these resources.

    Raises:
        BabelclipError: a GPU is asked for and there is none.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    gpu = any(name.startswith("cuda") for name in means.devices) or (not means.devices and gpus > 0)
    if gpu and not gpus:
        raise BabelclipError(
            f"--devices {','.join(means.devices)}: the Ray cluster of {len(nodes)} nodes has no GPU. Start nodes with "
            "GPUs (`ray start --num-gpus`), or give --devices cpu."
        )
    workers = means.workers or (gpus if gpu else sum(cpus))
    lanes = 1 if gpu else max(1, min(cpus) // -(-workers // len(cpus)))
    return Room(workers, gpu, lanes)


def _cluster(means: Means) -> contextlib.AbstractContextManager[Any]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return joined(means.ray_address, max(cpus, means.workers), _gpus_here(means))


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)


def _gpus_here(means: Means) -> int:
    if not any(name.startswith("cuda") for name in means.devices) and means.devices:
        return 0
    import torch

    return torch.cuda.device_count()


def _answers(ray: Any, job: Job[Any], shards: Sequence[Shard], room: Room) -> Generator[dict[str, Any], None, None]:
    """Yields what became of each shard, in the order of their ends."""
    from ray.data import ActorPoolStrategy, DataContext, from_items
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    begun = ray.remote(_Begun).options(num_cpus=0, scheduling_strategy=here).remote()
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = -1  # a shard of a large model may take hours
    workers = min(room.workers, len(shards))
    with DataContext.current(context):
        rows = from_items([dataclasses.asdict(shard) for shard in shards], override_num_blocks=min(len(shards), _TASKS))
        done = rows.map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=1
            ),
            fn_constructor_args=(job, room, begun),
            num_cpus=room.lanes,
            num_gpus=1 if room.gpu else None,
        )
        try:
            # No batch ahead: what is finished shall be committed, not wait.
            for batch in done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                yield from batch.to_pylist()
        finally:
            ray.kill(begun)


class _Begun:
    """Counts how often a shard was begun: an actor of its own, since a worker that dies cannot count."""

    def __init__(self) -> None:
        self._times: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        """Returns how often the shard was begun, with this time."""
        self._times[number] += 1
        return self._times[number]


class _Worker:
    """A process that has loaded what the job needs and does shards; errors are part of its answer."""

    def __init__(self, job: Job[Any], room: Room, begun: Any) -> None:
        self._job, self._room, self._begun = job, room, begun
        self._work: Worker | None = None

    def __call__(self, batch: Any) -> Any:
        """Returns a table of one row, `fragment` (JSON) and `error`, for a table of one shard."""
        import pyarrow as pa

        answers = [self._answer(Shard(**row)) for row in batch.to_pylist()]
        return pa.Table.from_pylist(answers, pa.schema([("fragment", pa.string()), ("error", pa.string())]))

    def _answer(self, shard: Shard) -> dict[str, str]:
        if (times := self._times(shard)) > _DEATHS:
            return _failed(
                shard,
                f"its worker died {times - 1} times. Memory may have run out, or a library ended the process: give "
                "fewer workers or smaller shards, and look at Ray's log folder",
            )
        for tried in range(1, _READS + 1):
            try:
                fragment = self._worker()(shard)
                return {"fragment": json.dumps(dataclasses.asdict(fragment)), "error": ""}
            except OSError as error:
                if tried == _READS:
                    return _failed(shard, f"{type(error).__name__}: {shown(error, 1000)}")
                time.sleep(_PAUSE)
            except BabelclipError as error:
                return _failed(shard, str(error))
            except Exception as error:
                return _failed(shard, f"{type(error).__name__}: {shown(error, 1000)}")
        raise AssertionError("each try returns or is the last")

    def _worker(self) -> Worker:
        if self._work is None:
            device = "cuda:0" if self._room.gpu else "cpu"  # Ray shows a worker its own GPU alone
            self._work = self._job.worker(device, self._room.lanes, RayDecoders() if self._room.gpu else None)
        return self._work

    def _times(self, shard: Shard) -> int:
        import ray

        try:
            return int(ray.get(self._begun.begin.remote(shard.number)))
        except ray.exceptions.RayError:
            return 1  # the counter's node is gone: then nothing is counted


def _failed(shard: Shard, cause: str) -> dict[str, str]:
    host = os.uname().nodename if hasattr(os, "uname") else "a worker"
    return {
        "fragment": "",
        "error": f"Shard {shard.number} ({shard.rows} rows) could not be done on {host}: {cause}. What is finished is "
        "kept: mend it and run the same again.",
    }
