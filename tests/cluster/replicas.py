"""Replicas of the service, each a process of its own, and the real nginx before them with the file of docs/examples."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from babelclip.search.server.secret import shared_secret
from babelclip.search.server.settings import Settings
from tests.cluster.slurm import free_ports

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nginx.conf"
HOST = "pictures.example.org"
AROUND = """
worker_processes 1;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format replicas '$request_method $uri $status to=$upstream_addr of=$upstream_status';
    access_log {folder}/access.log replicas;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    include {folder}/babelclip.conf;
}}
"""


@dataclass
class Replica:
    """One process of the service, as each of `babelclip serve --workers` is one; `settings` is its settings file."""

    settings: Path
    port: int
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, which dies with this one."""
        factory = "babelclip.search.server.app:from_environment"
        command = [sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(self.port)]
        command += ["--no-proxy-headers", "--timeout-keep-alive", "15", "--log-level", "warning"]
        more = {"OMP_NUM_THREADS": "1", "BABELCLIP_SERVE_SETTINGS": str(self.settings), **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={**os.environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float = 300.0) -> None:
        """Waits until it is ready."""
        end = time.monotonic() + seconds
        while ask(f"http://127.0.0.1:{self.port}/readyz")[0] != 200:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"it does not get ready\n{self.log.read_text()}"
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, by default as a machine that fails would."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)


def ask(
    address: str, body: bytes | None = None, *, key: str = "", method: str = "", host: str = HOST
) -> tuple[int, bytes]:
    """Returns status and content of an answer; status 0 where there is none."""
    headers = {"Host": host, "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, body, headers, method=method or None)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        return 0, str(error).encode()


def why_not() -> str:
    """Returns why this machine cannot run nginx before replicas ("" where it can)."""
    missing = [tool for tool in ("nginx", "setpriv") if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (Debian: nginx-light, util-linux)" if missing else ""


def example(ports: Sequence[int], listen: int, rate: str) -> str:
    """Returns the example file with the addresses of a test, and nothing else changed."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for number, port in enumerate(ports, start=1):
        text = text.replace(f"10.0.0.1{number}:8000", f"127.0.0.1:{port}")
    text, listened = re.subn(r"listen 80;", f"listen 127.0.0.1:{listen};", text)
    text, rated = re.subn(r"rate=50r/s", f"rate={rate}", text)
    assert listened == rated == 1
    assert "10.0.0." not in text
    return text


@contextlib.contextmanager
def nginx(folder: Path, ports: Sequence[int], rate: str = "100000r/s") -> Iterator[str]:
    """Runs nginx with the example file before the replicas at `ports`, and yields its address.

    Args:
        folder: for its files; `access.log` tells which replica answered.
        ports: of three replicas, as many as the example names.
        rate: of one client; the example's own would be in the way of a load test.
    """
    folder.mkdir(parents=True)
    (listen,) = free_ports(1)
    (folder / "babelclip.conf").write_text(example(ports, listen, rate), encoding="utf-8")
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder), encoding="utf-8")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command, "-g", "daemon off;"])
    try:
        end = time.monotonic() + 20
        while not ask(f"http://127.0.0.1:{listen}/metrics")[0]:
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < end, (folder / "error.log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listen}"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def replicas(
    folder: Path, settings: Settings, count: int = 3, environment: Mapping[str, str] | None = None
) -> Iterator[list[Replica]]:
    """Yields `count` replicas with the same settings and the same secret when they are ready, and ends them."""
    file = folder / "settings"
    file.write_text(f"{shared_secret(folder / 'secret').hex()}\n{settings.to_json()}", encoding="utf-8")
    made = [
        Replica(file, port, folder / f"replica-{number}.log", environment or {})
        for number, port in enumerate(free_ports(count))
    ]
    try:
        for replica in made:
            replica.start()
        for replica in made:
            replica.wait()
        yield made
    finally:
        for replica in made:
            with contextlib.suppress(ProcessLookupError):
                replica.stop()
