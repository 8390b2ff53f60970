"""Which rank a process is, as those who start it say it; and what is wrong where they say it badly."""

import pytest

from babelclip.cluster.job import Shard
from babelclip.cluster.rank import Place, place_of, share_of
from babelclip.errors import BabelclipError


def array(task, count, first=0, step=1):
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        (array(3, 8), (3, 8)),
        (array(5, 4, first=4), (1, 4)),
        (array(20, 4, step=10), (2, 4)),
        (array(6, 1, first=6), (0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, (1, 3)),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}, (0, 5)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "9"}, (1, 2)),
        ({**array(7, 8), "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (7, 8)),
    ],
)
def test_the_environment_of_each_starter_is_understood(environment, place):
    assert place_of(environment) == Place(*place)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "does not say which rank this is"),
        ({"RANK": "2"}, "RANK is set, and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set, and RANK is not"),
        ({"RANK": "two", "WORLD_SIZE": "4"}, "RANK='two' is no number.*RANK=0 WORLD_SIZE=4"),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "RANK='-1' is no number"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "rank 4 of 4.*stay below"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "rank 0 of 0"),
        (array(7, 3, first=0), "rank 7 of 3.*array without gaps"),
        ({"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETIONS is not.*Kubernetes does not set it"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_set(environment, message):
    with pytest.raises(BabelclipError, match=message):
        place_of(environment)


@pytest.mark.parametrize(("count", "world"), [(10, 3), (3, 8), (0, 4), (16, 4)])
def test_ranks_share_all_shards_without_repeats_as_evenly_as_can_be(count, world):
    shards = [Shard(number, "", 1) for number in range(count)]
    shares = [share_of(shards, Place(rank, world)) for rank in range(world)]
    assert [shard for share in shares for shard in share] == shards
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
