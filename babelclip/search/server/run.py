"""Starting the service: uvicorn in this process, or in several. Entry point: `run`."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import secrets
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from babelclip.errors import require
from babelclip.search.server.settings import Settings, check_settings, is_loopback

# Requests under way are answered before the service ends.
_GRACE = 10
_BACKLOG = 512


def run(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM; then what is under way is answered, and the process ends.

    Raises:
        BabelclipError: the settings are refused, or a model or collection does not open.
        MissingExtraError: the extra `search` is not installed.
    """
    check_settings(settings)
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "search")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    if not is_loopback(settings.host):
        how = "with keys" if settings.token_file else "WITHOUT KEYS: EVERYBODY WHO REACHES IT MAY SEARCH"
        logging.getLogger("babelclip.serve").warning("listening on %s:%d %s", settings.host, settings.port, how)
    if settings.workers > 1:
        _run_several(settings)
    else:
        _run_one(settings)


def _options(settings: Settings) -> dict[str, object]:
    # Forwarded headers are read by the gate, which knows whom to trust; the access log would hold addresses of people.
    return {
        "host": settings.host,
        "port": settings.port,
        "log_level": "warning",
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "date_header": True,
        "backlog": _BACKLOG,
        "timeout_graceful_shutdown": _GRACE,
        "timeout_keep_alive": 15,
        "h11_max_incomplete_event_size": 32768,
    }


def _run_one(settings: Settings) -> None:
    import uvicorn

    from babelclip.search.server.app import create_app
    from babelclip.search.server.service import open_service

    service = open_service(settings)
    uvicorn.run(create_app(service), **_options(settings))  # type: ignore[arg-type]


def _run_several(settings: Settings) -> None:
    import uvicorn

    from babelclip.search.server.app import SETTINGS_VARIABLE

    with tempfile.TemporaryDirectory(prefix="babelclip-serve-") as folder:
        # A service that cannot start must say so once, rather than have its processes begin again for ever.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as trial:
            trial.submit(_try, settings).result()
        settings = dataclasses.replace(settings, state=folder)
        # A file that only this user reads: arguments and environments of processes can be seen by others.
        path = Path(folder) / "settings"
        path.touch(0o600)
        path.write_text(f"{secrets.token_hex(32)}\n{settings.to_json()}", encoding="utf-8")
        figures = Path(folder) / "metrics"
        figures.mkdir()
        os.environ[SETTINGS_VARIABLE] = str(path)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(figures)
        uvicorn.run(
            "babelclip.search.server.app:from_environment",
            factory=True,
            workers=settings.workers,
            **_options(settings),  # type: ignore[arg-type]
        )


def _try(settings: Settings) -> None:
    """Opens everything once, in a process that ends with it."""
    import asyncio

    from babelclip.search.server.service import open_service

    asyncio.run(open_service(settings).close())
