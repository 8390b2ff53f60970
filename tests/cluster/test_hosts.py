"""Two hosts in network namespaces: what they share, what they do not, and that nothing of them stays."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import hosts


@pytest.fixture(autouse=True)
def can_make_hosts():
    if reason := hosts.why_not():
        pytest.skip(reason)


SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 7070)) as server:
    print("ready", flush=True)
    while True:
        client = server.accept()[0]
        client.sendall(socket.gethostname().encode())
        client.close()
"""
CLIENT = """
import socket, sys
print(socket.create_connection((sys.argv[1], 7070), timeout=2).recv(99).decode())
"""


def serve(host: hosts.Host, address: str, log: Path) -> subprocess.Popen[bytes]:
    process = host.start([sys.executable, "-c", SERVER, address], log=log)
    while "ready" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    return process


def ask(host: hosts.Host, address: str) -> str:
    return host.run([sys.executable, "-c", CLIENT, address], check=False).stdout.strip()


def test_hosts_reach_each_other_by_address_and_name_and_not_by_localhost(two_hosts, tmp_path):
    first, second = two_hosts
    serve(first, "0.0.0.0", tmp_path / "log")
    assert ask(second, first.address) == "first"
    assert ask(second, "first") == "first"
    assert ask(second, "localhost") == ""
    assert second.run(["hostname"]).stdout.strip() == "second"


def test_same_port_is_free_in_both_hosts(two_hosts, tmp_path):
    for host in two_hosts:
        serve(host, "127.0.0.1", tmp_path / host.name)
    assert [ask(host, "localhost") for host in two_hosts] == ["first", "second"]


def test_cable_can_be_pulled_and_put_back(two_hosts, tmp_path):
    first, second = two_hosts
    serve(first, "0.0.0.0", tmp_path / "log")
    first.unplug()
    assert ask(second, first.address) == ""
    first.plug()
    assert ask(second, first.address) == "first"


def test_host_without_power_has_no_processes_and_the_other_goes_on(two_hosts, tmp_path):
    first, second = two_hosts
    killed = serve(first, "0.0.0.0", tmp_path / "first")
    stays = serve(second, "0.0.0.0", tmp_path / "second")
    assert first.processes()
    first.power_off()
    assert first.processes() == []
    assert killed.poll() == -9
    assert stays.poll() is None


def test_failed_command_shows_what_it_said(two_hosts):
    with pytest.raises(AssertionError, match="no such thing"):
        two_hosts[0].run([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_nothing_stays_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError, match="as planned"), hosts.two_hosts() as pair:
        process = serve(pair[0], "0.0.0.0", tmp_path / "log")
        # A grandchild that nobody waits for and that has left its session.
        pair[0].run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &"])
        assert len(pair[0].processes()) >= 2
        raise RuntimeError("as planned")
    assert process.poll() is not None
    listed = hosts.ip("netns", "list")
    for host in pair:
        assert host.space not in listed
        assert not (hosts.FOLDER / host.space).exists()
        assert host.processes() == []


def test_hosts_of_a_killed_run_are_removed_by_the_next(tmp_path):
    script = (
        "import os, signal\nfrom tests.cluster import hosts\n"
        "with hosts.two_hosts() as (first, second):\n"
        "    print(first.space, second.space, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    spaces = killed.stdout.split()
    assert killed.returncode == -9
    assert len(spaces) == 2
    assert all(space in hosts.ip("netns", "list") for space in spaces)
    hosts.remove_left_over()
    assert not any(space in hosts.ip("netns", "list") for space in spaces)
