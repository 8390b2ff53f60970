"""The launcher `rank`: the same command on every machine, each of which does its share and knows of no other.

Who starts the processes (torchrun, SLURM, Kubernetes, a shell loop) says by the environment which one this is:

| variables, the first that are there | started by |
|---|---|
| `RANK`, `WORLD_SIZE` | torchrun, or by hand |
| `SLURM_ARRAY_TASK_ID`, `SLURM_ARRAY_TASK_COUNT` | `sbatch --array=0-7` |
| `SLURM_PROCID`, `SLURM_NTASKS` | `srun --ntasks 8` |
| `JOB_COMPLETION_INDEX`, `JOB_COMPLETIONS` | a Kubernetes indexed job; the second must be set in its template |

Each rank does its part of the list of shards, which is cut into equal parts, but for what is done. Who then finds all
of them done takes the lock and commits; the others say so and end. A rank that died is run again, alone or with all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from babelclip.cluster import local
from babelclip.cluster.job import Job, Means, Shard, drive
from babelclip.errors import BabelclipError
from babelclip.files import LockedError
from babelclip.progress import progress_bar

T = TypeVar("T")

# Which variables say rank and number of ranks, in the order in which they are looked for.
_VARIABLES = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
)
# Of `--array=4-7` or `--array=0-30:10`.
_FIRST, _STEP = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"


class Place(NamedTuple):
    """Which of how many ranks this is, from 0."""

    rank: int
    world: int


def place_of(environment: Mapping[str, str]) -> Place:
    """Returns which rank of how many an environment names.

    Raises:
        BabelclipError: it names none, only half of one, or numbers that cannot be.
    """
    for rank, world in _VARIABLES:
        if not environment.get(rank) and not environment.get(world):
            continue
        pair = (rank, world)
        place = Place(_number(environment, rank, pair), _number(environment, world, pair))
        if rank == "SLURM_ARRAY_TASK_ID" and environment.get(_FIRST):
            step = _number(environment, _STEP, pair) if environment.get(_STEP) else 1
            place = place._replace(rank=(place.rank - _number(environment, _FIRST, pair)) // max(1, step))
        if not 0 <= place.rank < place.world:
            array = rank.startswith("SLURM_ARRAY")
            cure = "give an array without gaps, --array=0-7" if array else f"set {rank} from 0 to {world} - 1"
            raise BabelclipError(
                f"{rank}={environment[rank]} of {world}={environment[world]} is rank {place.rank} of {place.world}. "
                f"Ranks count from 0 and stay below the number of ranks: {cure}."
            )
        return place
    told = " or ".join(f"{rank} and {world}" for rank, world in _VARIABLES)
    raise BabelclipError(
        f"--launcher rank was given, but the environment does not say which rank this is. It must have {told}. "
        "Start it by torchrun, sbatch --array, srun or an indexed job, or set RANK=0 WORLD_SIZE=1 yourself."
    )


def share_of(shards: Sequence[Shard], place: Place) -> list[Shard]:
    """Returns the shards of a rank: neighbours, so that one rank reads one part of the source, or has one language."""
    count = len(shards)
    return list(shards[place.rank * count // place.world : (place.rank + 1) * count // place.world])


def run(job: Job[T], means: Means) -> T | None:
    """Does this rank's share, and commits where it finds all shards done; returns None where another rank will.

    Raises:
        BabelclipError: as `place_of`, and what the job raises.
    """
    place = place_of(os.environ)
    who = f"rank {place.rank} of {place.world}"
    shards = job.shards()
    share = share_of(shards, place)
    lacking = job.lacking(share)
    with progress_bar(job.what, sum(s.rows for s in share), shown=means.progress, unit=job.unit) as advance:
        advance(sum(s.rows for s in share) - sum(s.rows for s in lacking), 0)
        rows = {shard.number: shard.rows for shard in lacking}
        for fragment in local.launch(job, lacking, means) if lacking else ():
            advance(rows.get(fragment.number, 0))
    left = len(job.lacking(shards))
    if left:
        means.say(
            f"{who}: its {len(share):,} of {len(shards):,} shards are done, {left:,} of other ranks are not; the last "
            "rank to end commits them all."
        )
        return None
    try:
        # A fragment that turns out to be damaged is made again here, whosever it was.
        return drive(job, local.launch, means)
    except LockedError as error:
        means.say(f"{who}: all {len(shards):,} shards are done, and process {error.holder} commits them.")
        return None


def _number(environment: Mapping[str, str], name: str, pair: tuple[str, str]) -> int:
    given = environment.get(name, "")
    if given.isdecimal():
        return int(given)
    rank, world = pair
    what = (
        f"{name}={given!r} is no number" if given else f"{rank if name == world else world} is set, and {name} is not"
    )
    hint = " Kubernetes does not set it: name it in the template of the job, as its completions." * (
        name == "JOB_COMPLETIONS" and not given
    )
    raise BabelclipError(
        f"{what}. Both must be whole numbers, for example {rank}=0 {world}=4, or neither be set: mend the environment."
        f"{hint}"
    )
