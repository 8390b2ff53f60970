"""The arithmetic of `benchmarks/scale.py`: from unit rates to machines, hours, bytes, money, and what breaks first.

Every function is pure: rates and sizes in, a `Plan` out. Seconds, bytes and US dollars throughout; a GB is 10^9 bytes.

Entry points: `embed`, `index`, `serve`, `translate`, `contrastive`; `Plan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HOUR, MONTH_GB = 3600.0, 1e9
# As babelclip/search/lance_index.py decides.
NO_INDEX_BELOW, MANY_ROWS = 50_000, 10_000_000
# The measuring machine, whose matrix products `gflops` are of all of its cores.
MEASURED_CORES, MEASURED_MEMORY = 2, 24e9
FLOAT32, ADAMW = 4, 16  # bytes of a number; of a trained weight with its gradient and both moments

Values = Mapping[str, float]


@dataclass(frozen=True)
class Limit:
    """What is needed of something bounded: above 1 it does not work as planned, and the highest breaks first."""

    what: str
    needed: float
    there: float
    unit: str
    cure: str = ""

    @property
    def share(self) -> float:
        """How much of the bound is needed."""
        return self.needed / self.there


@dataclass(frozen=True)
class Plan:
    """One plan: figures with units in the order in which they follow from each other, and limits."""

    title: str
    machines: int
    hours: float
    cost: float
    figures: dict[str, tuple[float, str]]
    limits: list[Limit] = field(default_factory=list)

    def worst(self) -> list[Limit]:
        """Returns the limits, what breaks first in front."""
        return sorted(self.limits, key=lambda limit: -limit.share)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON content."""
        content = asdict(self)
        content["figures"] = {name: {"value": value, "unit": unit} for name, (value, unit) in self.figures.items()}
        content["limits"] = [asdict(limit) | {"share": limit.share} for limit in self.worst()]
        return content


def partitions_of(rows: float, rates: Values) -> int:
    """Returns how many partitions an index of so many rows gets; 0 where there is none."""
    if rows < NO_INDEX_BELOW:
        return 0
    return max(1, round(math.sqrt(rows)) if rows <= MANY_ROWS else int(rows // rates["partition_rows"]))


def index_bytes(rows: float, rates: Values) -> float:
    """Returns the bytes of an IVF_RQ index of one bit a number: codes, and the centroids of its partitions."""
    partitions = partitions_of(rows, rates)
    if not partitions:
        return 0.0
    return rows * (rates["dim"] / 8 + rates["index_overhead"]) + partitions * rates["dim"] * FLOAT32


def embed(pictures: float, machines: int, rates: Values, *, gpu: bool = True) -> Plan:
    """Returns the plan of encoding pictures into a collection.

    Args:
        pictures: how many.
        machines: with GPUs, or like the measuring machine.
        rates: by name (`scale_rates.py`).
        gpu: machines with GPUs; else each is the measuring machine, whose measured rate includes decoding.
    """
    decode = rates["cores_a_machine"] * rates["decode_core"]
    encode = rates["gpus_a_machine"] * rates["gpu_pictures"]
    network = rates["network"] / rates["picture_bytes"]
    speed = min(decode, encode, network) if gpu else rates["cpu_pictures"]
    share = rates["busy"] * (rates["ray_share"] if machines > 1 else 1.0)
    seconds = pictures / (machines * speed * share)
    price = rates["gpus_a_machine"] * rates["gpu_price"] if gpu else rates["cpu_price"]
    rows = pictures * (rates["dim"] * FLOAT32 + rates["row_bytes"])
    shards = math.ceil(pictures / rates["shard_rows"])
    figures = {
        "pictures to read": (pictures * rates["picture_bytes"], "bytes"),
        "one machine encodes": (speed * share, "pictures/s"),
        "all machines encode": (machines * speed * share, "pictures/s"),
        "vectors": (pictures * rates["dim"] * FLOAT32, "bytes"),
        "rows with thumbnails": (rows, "bytes"),
        "index": (index_bytes(pictures, rates), "bytes"),
        "stored a month": ((rows + index_bytes(pictures, rates)) / MONTH_GB * rates["storage_price"], "USD"),
        "shards": (shards, ""),
        "failures expected": (rates["failures"] * machines * seconds / HOUR, ""),
        "lost with one": (rates["shard_rows"] / speed, "s"),
    }
    limits = [Limit("decoding", encode, decode, "pictures/s", "more cores, or smaller pictures")] if gpu else []
    if gpu:
        limits.append(Limit("network of a machine", encode, network, "pictures/s", "pictures resized when downloaded"))
    # A folder with more names than this is slow to list, on disks and object stores alike.
    limits.append(Limit("entries of the ledger", shards, 1e6, "files", "larger shards (shard_rows of index_on)"))
    hours = seconds / HOUR
    return Plan(f"embed {count(pictures)} pictures", machines, hours, hours * machines * price, figures, limits)


def index(rows: float, machines: int, rates: Values, *, gpu: bool = True, bar_hours: float = 24.0) -> Plan:
    """Returns the plan of building the index of a collection: centroids on the driver, the rest on all machines.

    Args:
        rows: of the collection.
        machines: the driver among them.
        rates: by name.
        gpu: machines as those with GPUs, of which only the cores are used; else each is the measuring machine.
        bar_hours: what the driver may take.
    """
    partitions, dim = partitions_of(rows, rates), rates["dim"]
    cores, memory = (rates["cores_a_machine"], rates["memory_a_machine"]) if gpu else (MEASURED_CORES, MEASURED_MEMORY)
    samples = min(rows, partitions * rates["sample_rate"])
    core = rates["gflops"] * 1e9 / MEASURED_CORES
    train = 2 * samples * partitions * dim * rates["iterations"] / (core * cores)
    assign = 2 * rows * partitions * dim / (core * cores * machines)
    write = rows * rates["index_core_seconds"] / (cores * machines)
    hours = (train + assign + write) / HOUR
    figures = {
        "partitions": (partitions, ""),
        "index": (index_bytes(rows, rates), "bytes"),
        "centroids": (partitions * dim * FLOAT32, "bytes"),
        "sampled for training": (samples * dim * FLOAT32, "bytes"),
        "training on the driver": (train / HOUR, "hours"),
        "finding each row's partition": (assign / HOUR, "hours"),
        "writing": (write / HOUR, "hours"),
    }
    cure = "a lower sample_rate, larger partitions, or centroids made on a GPU (ivf_centroids)"
    limits = [
        Limit("memory of the driver", samples * dim * FLOAT32, memory, "bytes", cure),
        Limit("hours of the driver", train / HOUR, bar_hours, "hours", cure),
    ]
    cost = (train / HOUR + (assign + write) / HOUR * machines) * rates["cpu_price"] * cores / 16
    return Plan(f"index {count(rows)} rows", machines, hours, cost, figures, limits)


def serve(rows: float, rates: Values, *, cores: float = 16.0, memory: float = 64e9) -> Plan:
    """Returns the plan of serving a collection to `qps` queries a second from replicas of 16 cores, for a month.

    Args:
        rows: of the collection.
        rates: by name.
        cores: of a replica.
        memory: bytes of a replica.
    """
    encode = (1 - rates["known_queries"]) * rates["query_seconds"]
    query = encode + 1 / rates["search_core"]
    partitions = partitions_of(rows, rates)
    probed = min(partitions, rates["probes"]) if rows > MANY_ROWS else 0
    cold = probed * index_bytes(rows, rates) / max(partitions, 1)
    replicas = max(2, math.ceil(rates["qps"] * query / (cores * rates["busy"])))
    figures = {
        "core-seconds of a query": (query, "s"),
        "of which encoding": (encode, "s"),
        "index": (index_bytes(rows, rates), "bytes"),
        "read for a query that finds nothing in memory": (cold, "bytes"),
        "queries a second of a replica": (cores * rates["busy"] / query, ""),
    }
    limits = [
        Limit("memory for the index", index_bytes(rows, rates), memory, "bytes", "NVMe, where it is paged from"),
        Limit("disk of a replica", rates["qps"] / replicas * cold, rates["nvme"], "bytes/s", "more replicas"),
    ]
    month = 30 * 24.0
    return Plan(
        f"serve {count(rows)} rows to {rates['qps']:g} queries/s",
        replicas,
        month,
        month * replicas * rates["cpu_price"] * cores / 16,
        figures,
        limits,
    )


def translate(captions: float, languages: int, machines: int, rates: Values, *, gpu: bool) -> Plan:
    """Returns the plan of translating captions of one language into `languages`, itself among them.

    Args:
        captions: of the source.
        languages: of the result; the source's is copied.
        machines: with GPUs (whose rate is published), or of `cores_a_machine` cores (whose rate is measured).
        rates: by name.
        gpu: which of the two.
    """
    texts = captions * (languages - 1)
    speed = (
        rates["gpus_a_machine"] * rates["gpu_translations"]
        if gpu
        else rates["cores_a_machine"] * rates["translations_core"]
    )
    seconds = texts / (machines * speed * rates["busy"])
    price = rates["gpus_a_machine"] * rates["gpu_price"] if gpu else rates["cores_a_machine"] / 16 * rates["cpu_price"]
    epoch = captions * languages
    figures = {
        "texts to make": (texts, ""),
        "one machine makes": (speed * rates["busy"], "texts/s"),
        "texts in all": (epoch, ""),
        "their bytes": (epoch * rates["text_bytes"], "bytes"),
        "targets, one a source caption": (captions * rates["target_bytes"], "bytes"),
        "targets as data set rows, one a text": (epoch * rates["dim"] * FLOAT32, "bytes"),
        "student after M-CLIP 2022": (rates["student_gpu_hours"] * rates["gpu_price"], "USD"),
    }
    limits = [Limit("hours", seconds / HOUR, 7 * 24.0, "hours", "machines: languages and blocks are independent")]
    hours = seconds / HOUR
    what = "GPUs" if gpu else "processors"
    return Plan(
        f"translate {count(captions)} captions x {languages} languages on {what}",
        machines,
        hours,
        hours * machines * price,
        figures,
        limits,
    )


def contrastive(batch: float, gpus: int, rates: Values, *, locked: bool) -> Plan:
    """Returns the plan of contrastive training with a large batch.

    Args:
        batch: pairs of a step, over all GPUs.
        gpus: how many.
        rates: by name.
        locked: pictures' vectors come from a store, and only the text tower trains.
    """
    flops = rates["gpu_pictures"] * rates["image_gflop"] * 1e9
    forward = (rates["text_gflop"] + (0.0 if locked else rates["image_gflop"])) * 1e9
    towers = rates["image_gflop"] + rates["text_gflop"]
    kept = rates["activation_bytes"] * (forward / 1e9 / towers)
    trained = rates["weights"] * (0.5 if locked else 1.0) + rates["word_vectors"]
    local = math.ceil(batch / gpus)
    room = rates["gpu_memory"] - trained * ADAMW - 3 * local * batch * FLOAT32
    parts = max(1, math.ceil(local * kept / max(room, kept)))
    # Gradient cache: where a batch is cut into parts, every part goes forward twice.
    passes = 3 if parts == 1 else 4
    compute = local * forward * passes / flops
    gather = 2 * 2 * batch * rates["dim"] * FLOAT32 / rates["interconnect"]
    reduce = 2 * trained * FLOAT32 / rates["interconnect"]
    step = compute + gather + reduce
    steps = math.ceil(rates["samples_seen"] / batch)
    machines = math.ceil(gpus / rates["gpus_a_machine"])
    work = steps * step / rates["busy"] / HOUR
    failures = rates["failures"] * machines * work
    hours = work + failures * rates["checkpoint_hours"] / 2
    read = 0.0 if locked else batch / step * rates["picture_bytes"]
    figures = {
        "steps": (steps, ""),
        "pairs of a GPU": (local, ""),
        "parts of them (gradient cache)": (parts, ""),
        "computing, a step": (compute, "s"),
        "gathering vectors, a step": (gather, "s"),
        "averaging gradients, a step": (reduce, "s"),
        "pairs a second": (batch / step, "pairs/s"),
        "similarities on a GPU: its rows with all": (local * batch * FLOAT32, "bytes"),
        "similarities of all with all (nowhere kept)": (batch * batch * FLOAT32, "bytes"),
        "pictures read": (read, "bytes/s"),
        "failures expected": (failures, ""),
    }
    limits = [
        Limit("memory of a GPU, without parts", local * kept, room, "bytes", "gradient cache, or more GPUs"),
        Limit("links between GPUs", gather + reduce, compute, "s", "more pairs a GPU"),
        Limit("network of a machine", read / machines, rates["network"], "bytes/s", "smaller pictures"),
    ]
    if not locked:
        cores = batch / step / rates["decode_core"]
        limits.append(Limit("decoding", cores, machines * rates["cores_a_machine"], "cores", "smaller pictures"))
    title = f"train with batch {batch:,.0f}" + (", pictures' vectors from a store" if locked else ", both towers")
    return Plan(title, machines, hours, hours * gpus * rates["gpu_price"], figures, limits)


def count(number: float) -> str:
    """Returns a number as people say it: 10^6, 5 x 10^9, 7 million."""
    power = int(math.log10(number)) if number >= 1 else 0
    if number == 10**power and power >= 5:
        return f"10^{power}"
    if number % 10**power == 0 and power >= 9:
        return f"{number / 10**power:g} x 10^{power}"
    return f"{number / 1e6:g} million" if number >= 1e6 else f"{number:,.0f}"
