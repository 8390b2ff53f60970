"""Two processes train as one does with the same batches, and survive the loss of one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from babelclip.train import checkpoint
from babelclip.train.log import read_log
from babelclip.train.processes import Processes, connect
from babelclip.train.recipe import Train
from tests.train.many_processes import CASES, CUT

ROOT = Path(__file__).parents[2]
# `seen` is a mean over the rows of a process; times differ.
FREE = {"seconds", "tokens_per_second", "seen"}
pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not torch.distributed.is_gloo_available(), reason="processes are forked and use gloo"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder of the runs of many_processes.py, and what it said."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.train.many_processes", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def figures(folder: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in FREE} for line in read_log(folder / "log.jsonl")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder.with_suffix(".pt"), weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_losses_and_weights_of_one(trained: tuple[Path, dict], case: str):
    one, two = (trained[0] / "same" / case / name for name in ("one", "two"))
    assert len(figures(one)) == len(figures(two)) >= 20
    for single, double in zip(figures(one), figures(two), strict=True):
        # Sums of 7 rows in another order; sixteen digits would need the same order.
        assert double.pop("event") == single.pop("event")
        assert double == pytest.approx(single, rel=2e-6, abs=1e-7)
    assert figures(one)[-1] != figures(one)[0]
    assert list(weights(one)) == list(weights(two))
    for name, tensor in weights(one).items():
        assert type(weights(two)[name]) is torch.Tensor
        torch.testing.assert_close(weights(two)[name], tensor, rtol=0, atol=1e-6)
    saved = [checkpoint.load(folder, 20)[0] for folder in (one, two)]
    for name, tensor in saved[0].items():
        torch.testing.assert_close(saved[1][name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CUT)
def test_a_killed_process_ends_the_other_with_a_clear_error_and_the_run_goes_on_as_if_never_cut(
    trained: tuple[Path, dict], case: str
):
    folder = trained[0] / "cut" / case
    kind, message = json.loads((folder / "cut-0.json").read_text())
    assert kind == "LostProcessError"
    assert "Process 0 of 2 lost another process" in message
    assert "--resume" in message
    assert "checkpoints/step-000000" in message
    assert trained[1]["seconds to end"][case] < 10
    assert figures(folder / "whole") == figures(folder / "cut")
    whole, cut = weights(folder / "whole"), weights(folder / "cut")
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []


def test_sigterm_to_one_process_saves_and_ends_both_at_the_same_step(trained: tuple[Path, dict]):
    folder = trained[0] / "stopped"
    ends = [json.loads(folder.with_name(f"stopped-{rank}.json").read_text()) for rank in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0][0] == "interrupted"
    assert checkpoint.saved_steps(folder) == [ends[0][1]]


def test_a_full_disk_ends_every_process_with_the_last_usable_checkpoint(trained: tuple[Path, dict]):
    folder = trained[0] / "full"
    for rank in (0, 1):
        kind, message = json.loads(folder.with_name(f"full-{rank}.json").read_text())
        assert kind == "BabelclipError"
        assert "step-00000010 could not be written" in message
        assert "usable checkpoint is" in message
        assert "step-00000005. Free some space" in message
    assert checkpoint.saved_steps(folder) == [5]
    assert checkpoint.load(folder, 5)[0]
    assert not list((folder / "checkpoints").glob(".*")), "nothing half-written is left"


def test_a_loss_that_is_not_finite_on_one_process_stops_both_before_the_step(trained: tuple[Path, dict]):
    folder = trained[0] / "nan"
    ends = [json.loads(folder.with_name(f"nan-{rank}.json").read_text()) for rank in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0][0] == "LossError"
    assert "The last usable checkpoint is" in ends[0][1]
    assert all(
        tensor.isfinite().all() for tensor in checkpoint.load(folder, checkpoint.saved_steps(folder)[-1])[0].values()
    )


def test_torchrun_needs_no_other_code(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from tests.train.regression import train
train(Path(sys.argv[1]), steps=3)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [*command, str(tmp_path / "run")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(checkpoint.load(tmp_path / "run", 3)[1]["random"]) == 2


def test_one_process_is_a_group_of_its_own(tmp_path: Path):
    processes = connect(Train(device="cpu", precision="fp32"))
    assert isinstance(processes, Processes)
    assert (processes.rank, processes.world, processes.writes) == (0, 1, True)
    assert processes.collected("a") == ["a"]
    assert processes.told([1]) == [1]
    assert processes.any(True)
    with processes.main_first(tmp_path):
        processes.wait()


def test_an_error_that_is_no_lost_process_stays_what_it_is():
    processes = connect(Train(device="cpu", precision="fp32"))
    with pytest.raises(RuntimeError, match="shapes"), processes.watched(str):
        raise RuntimeError("shapes differ")
