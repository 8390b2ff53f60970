"""Two hosts on one machine: network namespaces joined by a veth pair, each with a host name, a loopback and an address.

What runs in one host reaches the other only through the pair: `localhost` is a different one in each, and a port that
is taken in one is free in the other. Files, memory and processor are shared. Needs root and `ip` of iproute2.

    with two_hosts() as (first, second):
        server = first.start([sys.executable, "serve.py"], log=tmp_path / "server.log")
        second.run([sys.executable, "ask.py", first.address], timeout=60)

Whatever the block does, and whatever it left running, the processes and the namespaces are gone afterwards. A run that
was killed itself cannot tidy up: the next one removes what it left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "babelclip-"
INTERFACE = "eth0"
FOLDER = Path("/etc/netns")  # `ip netns exec NAME` lays the files of /etc/netns/NAME over /etc
WITH_HOST_NAME = 'hostname "$0" && exec "$@"'
numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """One host: `space` is its namespace, `name` what `hostname` says inside, `address` how the other reaches it."""

    space: str
    name: str
    address: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, command: Sequence[str]) -> list[str]:
        """Returns the command line that runs `command` in this host."""
        inside = ["unshare", "--uts", "sh", "-c", WITH_HOST_NAME, self.name, *command]
        return ["ip", "netns", "exec", self.space, *inside]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Returns this process's environment, with gloo told to use the interface between the hosts, and `more`."""
        return {**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE, "TP_SOCKET_IFNAME": INTERFACE, **(more or {})}

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end and returns it with its output; a failure shows both streams."""
        done = subprocess.run(
            self.command(command),
            env=self.environment(environment),
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
        said = f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command with both streams in the file `log`; what still runs at the end is killed."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                self.command(command),
                env=self.environment(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        """Returns the ids of every process in this host, started by us or by what we started."""
        listed = ip("netns", "pids", self.space, check=False)
        return [int(line) for line in listed.split()]

    def power_off(self) -> None:
        """Kills every process of this host at once (SIGKILL), as a machine that loses its power."""
        kill_all(self.space)
        for process in self.started:
            process.wait(10)

    def unplug(self) -> None:
        """Takes the cable out: packets to and from this host are lost, its processes go on."""
        ip("-n", self.space, "link", "set", INTERFACE, "down")

    def plug(self) -> None:
        """Puts the cable back."""
        ip("-n", self.space, "link", "set", INTERFACE, "up")


def why_not() -> str:
    """Returns why this machine cannot make hosts ("" where it can)."""
    missing = [tool for tool in ("ip", "unshare", "hostname") if shutil.which(tool) is None]
    if missing:
        return f"needs {' and '.join(missing)} (Debian: iproute2, util-linux, hostname)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    space = f"{PREFIX}{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", space], capture_output=True, text=True)
    if tried.returncode == 0:
        ip("netns", "delete", space, check=False)
        return ""
    return f"network namespaces are refused here: {tried.stderr.strip()}"


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Makes two hosts that reach each other by address and by name (`first`, `second`), and removes them at the end."""
    remove_left_over()
    number = next(numbers)
    first, second = (
        Host(f"{PREFIX}{os.getpid()}-{number}-{name}", name, f"10.77.0.{place}")
        for place, name in enumerate(("first", "second"), start=1)
    )
    try:
        for host in (first, second):
            ip("netns", "add", host.space)
            ip("-n", host.space, "link", "set", "lo", "up")
            (FOLDER / host.space).mkdir(parents=True)
            names = "".join(f"{each.address} {each.name}\n" for each in (first, second))
            (FOLDER / host.space / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        pair = ["link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE]
        ip("-n", first.space, *pair, "netns", second.space)
        for host in (first, second):
            ip("-n", host.space, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            host.plug()
        yield first, second
    finally:
        for host in (first, second):
            remove(host.space)
            for process in host.started:
                process.wait(10)


def remove_left_over() -> None:
    """Removes the hosts of test runs that no longer live."""
    for line in ip("netns", "list", check=False).splitlines():
        space = line.split()[0] if line.split() else ""
        if space.startswith(PREFIX) and not Path(f"/proc/{space[len(PREFIX) :].split('-')[0]}").exists():
            remove(space)


def remove(space: str) -> None:
    """Kills what runs in a namespace and removes it with its files; silent where there is none."""
    kill_all(space)
    ip("netns", "delete", space, check=False)
    shutil.rmtree(FOLDER / space, ignore_errors=True)
    with contextlib.suppress(OSError):
        FOLDER.rmdir()  # only where it is empty: somebody else may keep namespaces too


def kill_all(space: str, *, seconds: float = 10.0) -> None:
    """Kills every process of a namespace and waits until none is left (a process that dies may just have forked)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        running = [int(line) for line in ip("netns", "pids", space, check=False).split()]
        if not running:
            return
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def ip(*arguments: str, check: bool = True) -> str:
    """Runs `ip` and returns what it prints."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout
