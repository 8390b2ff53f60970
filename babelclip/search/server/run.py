"""Starting the service: uvicorn in this process, or in several. Entry point: `run`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from babelclip.errors import BabelclipError, require
from babelclip.search.server.listening import address_for_people, bound, when_ready
from babelclip.search.server.secret import shared_secret
from babelclip.search.server.settings import Settings, check_settings, is_loopback

# Requests under way are answered before the service ends.
_GRACE = 10
_BACKLOG = 512
# Seconds after which a process that says nothing is taken for dead, where there are several.
_SILENT = 120
# Seconds between two looks at whether one of them failed.
_LOOK = 0.2


def run(settings: Settings, ready: Callable[[str], None] | None = None) -> None:
    """Serves until SIGINT or SIGTERM; then what is under way is answered, and the process ends.

    Args:
        settings: the operator's.
        ready: called with the address, once the service answers there.

    Raises:
        BabelclipError: the settings are refused, the port is taken, or a model or collection does not open.
        MissingExtraError: the extra `search` is not installed.
    """
    check_settings(settings)
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "search")
    # Of libraries (faiss tells how it loads) only what goes wrong.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("babelclip").setLevel(logging.INFO)
    if not is_loopback(settings.host):
        how = "with keys" if settings.protected else "WITHOUT KEYS: EVERYBODY WHO REACHES IT MAY SEARCH"
        logging.getLogger("babelclip.serve").warning("listening on %s:%d %s", settings.host, settings.port, how)
    # The port is taken first: whether it is free should not be told after a minute of loading.
    with bound(settings.host, settings.port) as held:
        settings = dataclasses.replace(settings, port=held.getsockname()[1])
        if ready is not None:
            when_ready(address_for_people(settings.host, settings.port), ready)
        if settings.workers > 1:
            _run_several(settings, held)
        else:
            _run_one(settings, held)


def _secret(settings: Settings) -> bytes | None:
    return shared_secret(settings.secret_file) if settings.secret_file else None


def protocol() -> str | type:
    """Returns what reads requests (uvicorn's option `http`): httptools with a bound on heads, else h11, slower."""
    if importlib.util.find_spec("httptools") is None:
        return "h11"
    from babelclip.search.server.heads import BoundedHead

    return BoundedHead


def _options() -> dict[str, object]:
    # Forwarded headers are read by the gate, which knows the proxies to trust; the access log would hold addresses of
    # people.
    return {
        "log_level": "warning",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "date_header": True,
        "backlog": _BACKLOG,
        "timeout_graceful_shutdown": _GRACE,
        "timeout_keep_alive": 15,
        "http": protocol(),
        "h11_max_incomplete_event_size": 32768,
    }


def _run_one(settings: Settings, held: socket.socket) -> None:
    import uvicorn

    from babelclip.search.server.app import create_app
    from babelclip.search.server.figures import elsewhere
    from babelclip.search.server.service import open_service

    service = open_service(settings, _secret(settings))
    server = uvicorn.Server(uvicorn.Config(create_app(service), **_options()))  # type: ignore[arg-type]
    # uvicorn repeats the signal that ended it once all is answered; there is nothing left to interrupt.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_ignored: None)
    with elsewhere(settings, service.metrics), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[held])


def _run_several(settings: Settings, held: socket.socket) -> None:
    import uvicorn

    from babelclip.search.server.app import FAILED, SETTINGS_VARIABLE
    from babelclip.search.server.figures import elsewhere
    from babelclip.search.server.metrics import Metrics

    with tempfile.TemporaryDirectory(prefix="babelclip-serve-") as folder:
        settings = dataclasses.replace(settings, state=folder)
        # A file that only this user reads: arguments and environments of processes can be seen by others.
        path = Path(folder) / "settings"
        path.touch(0o600)
        secret = _secret(settings) or secrets.token_bytes(32)
        path.write_text(f"{secret.hex()}\n{settings.to_json()}", encoding="utf-8")
        figures = Path(folder) / "metrics"
        figures.mkdir()
        os.environ[SETTINGS_VARIABLE] = str(path)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(figures)
        failed = Path(folder) / FAILED
        threading.Thread(target=_end_when_there, args=(failed,), name="failed", daemon=True).start()
        held.close()  # each process is given the address by uvicorn
        with elsewhere(settings, Metrics()):
            uvicorn.run(
                "babelclip.search.server.app:from_environment",
                factory=True,
                host=settings.host,
                port=settings.port,
                workers=settings.workers,
                # A process that loads a large model says nothing for a while, and must not be ended for that.
                timeout_worker_healthcheck=_SILENT,
                **_options(),  # type: ignore[arg-type]
            )
        if failed.exists():
            raise BabelclipError(failed.read_text(encoding="utf-8"))


def _end_when_there(failed: Path) -> None:
    """Ends the service when one of its processes could not start: begun again, it would fail again, for ever."""
    while failed.parent.exists():
        if failed.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(_LOOK)
