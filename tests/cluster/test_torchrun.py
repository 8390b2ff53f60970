"""A real 2-node torchrun on two hosts: the results of one process, a host that is lost, a smaller world after it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import torchrun
from tests.cluster.hosts import Host, why_not
from tests.cluster.hosts import two_hosts as two_hosts_of_their_own

pytestmark = pytest.mark.cluster
Hosts = tuple[Host, Host]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torchrun.material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, never disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    torchrun.alone(recipe, out)
    return out


def both(
    hosts: Hosts, recipe: Path, out: Path, logs: Path, settings: list[str], *launch: str, own_disks: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a run on two hosts; with `own_disks` each sees a folder of its own at `out`."""
    words = torchrun.command(hosts[0], recipe, out, settings, *launch)
    for host in hosts:
        own = torchrun.private(words, out.parent / f"disk-{host.name}", out) if own_disks else words
        yield torchrun.start(host, own, logs / f"{host.name}.log")


def said(logs: Path, host: str) -> str:
    return (logs / f"{host}.log").read_text()


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two hosts, never disturbed."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("undisturbed")
    with two_hosts_of_their_own() as hosts:
        all_end_well(list(both(hosts, recipe, folder / "run", folder, [])), hosts, folder)
    return folder / "run"


def all_end_well(started: list[subprocess.Popen[bytes]], hosts: Hosts, logs: Path) -> None:
    for process, host in zip(started, hosts, strict=True):
        log = logs / f"{host.name}.log"
        assert torchrun.ended(process, log) == 0, log.read_text()


def test_two_hosts_give_the_losses_and_weights_of_one_process(undisturbed: Path, whole: Path):
    assert torchrun.losses(undisturbed) == pytest.approx(torchrun.losses(whole), rel=1e-5, abs=1e-6)
    assert torchrun.difference(whole, undisturbed) < 1e-5
    assert (undisturbed / "model" / "README.md").is_file()


def test_two_hosts_with_the_weights_in_parts_too(two_hosts: Hosts, recipe: Path, whole: Path, tmp_path: Path):
    out = tmp_path / "run"
    all_end_well(list(both(two_hosts, recipe, out, tmp_path, ["train.parallel=fsdp"])), two_hosts, tmp_path)
    assert torchrun.losses(out) == pytest.approx(torchrun.losses(whole), rel=1e-5, abs=1e-6)
    assert torchrun.difference(whole, out) < 1e-5


def test_two_hosts_train_both_towers_from_tars_as_one_process_does(two_hosts: Hosts, tmp_path: Path):
    pairs = torchrun.pairs(tmp_path)
    torchrun.alone(pairs, tmp_path / "one")
    for parallel in ("ddp", "fsdp"):
        out = tmp_path / parallel
        all_end_well(list(both(two_hosts, pairs, out, tmp_path, [f"train.parallel={parallel}"])), two_hosts, tmp_path)
        # Sums in another order, which Adam carries on.
        assert torchrun.losses(out) == pytest.approx(torchrun.losses(tmp_path / "one"), rel=1e-4, abs=1e-5)
        assert torchrun.difference(tmp_path / "one", out) < 1e-4


def test_hosts_without_a_shared_disk_keep_a_run_each_and_survive_the_one_that_joined_them(
    two_hosts: Hosts, recipe: Path, undisturbed: Path, tmp_path: Path
):
    first = two_hosts[0]
    logs = tmp_path / "cut"
    logs.mkdir()
    out = logs / "run"
    disks = [logs / f"disk-{host.name}" for host in two_hosts]
    started = list(both(two_hosts, recipe, out, logs, [], own_disks=True))
    torchrun.reached(disks[1], 22, started)
    first.power_off()
    lost = time.monotonic()
    assert torchrun.ended(started[1], logs / "second.log") != 0
    assert time.monotonic() - lost < 15 + 45
    message = said(logs, "second")
    assert "lost another process of this run" in message or "is gone" in message, message
    assert "The last usable checkpoint is" in message
    assert "--resume" in message
    # Another machine takes the place of the lost one: nothing is on its disk.
    disks[0].rename(tmp_path / "gone")
    all_end_well(list(both(two_hosts, recipe, out, logs, [], own_disks=True)), two_hosts, logs)
    for disk in disks:
        assert torchrun.difference(undisturbed, disk) == 0, "bit-equal to a run that was never cut"
    assert torchrun.losses(disks[1]) == torchrun.losses(undisturbed)


def test_an_unplugged_host_is_noticed_within_the_timeout(two_hosts: Hosts, recipe: Path, tmp_path: Path):
    out = tmp_path / "run"
    started = list(both(two_hosts, recipe, out, tmp_path, ["train.steps=100000"]))
    torchrun.reached(out, 10, started)
    two_hosts[1].unplug()
    lost = time.monotonic()
    for host in two_hosts:
        while "lost another process of this run" not in said(tmp_path, host.name):
            # The time-out of the recipe, 15 s, and room for a busy machine.
            assert time.monotonic() - lost < 15 + 45, said(tmp_path, host.name)
            time.sleep(0.05)
        assert "The last usable checkpoint is" in said(tmp_path, host.name)
    assert torchrun.ended(started[0], tmp_path / "first.log") != 0


@pytest.mark.parametrize("loss", ["power", "asked to end"])
def test_an_elastic_run_goes_on_with_one_host_less_and_the_same_batches(
    two_hosts: Hosts, recipe: Path, whole: Path, tmp_path: Path, loss: str
):
    out = tmp_path / "run"
    elastic = ("--nnodes=1:2", "--max-restarts=3")
    started = list(both(two_hosts, recipe, out, tmp_path, [], *elastic))
    torchrun.reached(out, 12, started)
    if loss == "power":
        two_hosts[1].power_off()
    else:
        for process in two_hosts[1].processes():
            if "torch.distributed.run" in cmdline(process):
                os.kill(process, signal.SIGTERM)
    assert torchrun.ended(started[0], tmp_path / "first.log") == 0, said(tmp_path, "first")
    assert "goes on with 1" in said(tmp_path, "first")
    assert torchrun.losses(out) == pytest.approx(torchrun.losses(whole), rel=1e-5, abs=1e-6)
    assert torchrun.difference(whole, out) < 1e-5


def test_torchrun_restarts_a_killed_process_and_the_result_is_bit_equal(
    two_hosts: Hosts, recipe: Path, undisturbed: Path, tmp_path: Path
):
    out = tmp_path / "run"
    started = list(both(two_hosts, recipe, out, tmp_path, [], "--max-restarts=2"))
    torchrun.reached(out, 12, started)
    workers = [p for p in two_hosts[1].processes() if f"-m\0{torchrun.MODULE}\0" in cmdline(p)]
    os.kill(next(p for p in workers if "torch.distributed.run" not in cmdline(p)), signal.SIGKILL)
    all_end_well(started, two_hosts, tmp_path)
    assert torchrun.difference(undisturbed, out) == 0
    assert torchrun.losses(undisturbed) == torchrun.losses(out)


def cmdline(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()
