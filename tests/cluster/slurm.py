"""A SLURM of one node: the real slurmctld and slurmd, with configuration, state and logs in a folder of the test.

    with slurm(tmp_path) as cluster:
        job = cluster.submit(script, array="0-3")
        cluster.wait(job, timeout=60)

No systemd, no munge, no cgroups: authentication is `none`, because all of it is root on one machine. A cluster of
several nodes wants munge instead. Needs root and Debian's slurm-wlm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CPUS = 2
# How long a requeued task waits before it may start again: by default 120 s, which a test does not have.
REQUEUE_SECONDS = 5
CONFIGURATION = """\
ClusterName=babelclip
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire={requeue}
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=2
SlurmctldTimeout=30
SlurmdTimeout=30
SchedulerParameters=sched_interval=1,sched_min_interval=100000
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster; `folder` has its configuration, and the logs that explain a failure."""

    folder: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, without what launchers set, and with this cluster's configuration."""
        launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") and k not in launchers}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str, check: bool = True) -> str:
        """Runs one of SLURM's commands and returns what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}\n{self.logs()}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: str, cwd: Path) -> str:
        """Submits a script with sbatch and returns the number of the job; its tasks write CWD/JOB_TASK.out."""
        log = f"--output={cwd}/%A_%a.out"
        return self.call("sbatch", "--parsable", f"--chdir={cwd}", log, "--open-mode=append", *options, str(script))

    def tasks(self, job: str) -> dict[str, str]:
        """Returns the state of each task of an array that has not ended, by name, such as {"7_0": "RUNNING"}."""
        # An array's tasks that nobody may start yet are one line until --array gives each its own.
        lines = self.call(
            "squeue", "--noheader", "--array", f"--jobs={job}", "--format=%i %T", check=False
        ).splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    def requeue(self, task: str) -> None:
        """Stops a running task and puts it back into the queue, as SLURM does when a node fails."""
        self.call("scontrol", "requeue", task)

    def states(self, job: str) -> list[str]:
        """Returns the last state of each task of a job, for example ["COMPLETED", "COMPLETED"]."""
        shown = self.call("scontrol", "show", "job", job)
        return [word.partition("=")[2] for word in shown.split() if word.startswith("JobState=")]

    def wait(self, job: str, *, timeout: float = 120.0) -> list[str]:
        """Waits until a job has ended, and returns the states in which its tasks did."""
        end = time.monotonic() + timeout
        while self.tasks(job):
            assert time.monotonic() < end, f"job {job} runs on: {self.tasks(job)}\n{self.logs()}"
            time.sleep(0.2)
        return self.states(job)

    def logs(self, lines: int = 15) -> str:
        """Returns the last lines of both daemons' logs."""
        logs = [self.folder / f"{name}.log" for name in ("slurmctld", "slurmd")]
        return "\n".join(line for log in logs if log.exists() for line in log.read_text().splitlines()[-lines:])


def why_not() -> str:
    """Returns why this machine cannot run SLURM ("" where it can try)."""
    missing = [tool for tool in ("slurmctld", "slurmd", "sbatch", "scontrol", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: slurm-wlm, util-linux)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Starts a cluster in `folder` and yields it when its node is idle; nothing of it runs afterwards."""
    cluster = Slurm(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    controller, node = free_ports(2)
    text = CONFIGURATION.format(
        host=host, controller=controller, node=node, folder=folder, cpus=CPUS, requeue=REQUEUE_SECONDS
    )
    (folder / "slurm.conf").write_text(text)
    try:
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            cluster.daemons.append(start(command, cluster))
        wait_for_node(cluster)
        yield cluster
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            cluster.call("scancel", "--user=root", check=False)
        kill_all(cluster)


def start(command: Sequence[str], cluster: Slurm) -> subprocess.Popen[bytes]:
    """Starts a daemon that dies with this process, even where that is killed."""
    with (cluster.folder / "daemons.out").open("ab") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def wait_for_node(cluster: Slurm, *, seconds: float = 60.0) -> None:
    """Waits until the node takes jobs."""
    end = time.monotonic() + seconds
    while cluster.call("sinfo", "--noheader", "--format=%T", check=False) != "idle":
        assert all(daemon.poll() is None for daemon in cluster.daemons), f"a daemon ended\n{cluster.logs()}"
        assert time.monotonic() < end, f"the node is {cluster.call('sinfo', check=False)}\n{cluster.logs()}"
        time.sleep(0.2)


def kill_all(cluster: Slurm, *, seconds: float = 10.0) -> None:
    """Kills every process that was started for this cluster: daemons, step daemons and jobs, wherever they hang."""
    end = time.monotonic() + seconds
    while (running := processes(cluster)) and time.monotonic() < end:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for daemon in cluster.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(0.2)


def processes(cluster: Slurm) -> list[int]:
    """Returns the ids of the live processes whose environment names this cluster's configuration."""
    found = []
    mark = f"SLURM_CONF={cluster.folder / 'slurm.conf'}".encode()
    for entry in Path("/proc").iterdir():
        # A process may end while it is looked at, and one that has ended and is not waited for has no environment.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def free_ports(count: int) -> list[int]:
    """Returns ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in opened]
