"""Taking a port before anything is loaded, and saying when the service answers. Entry points: `bound`, `when_ready`."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable

from babelclip.errors import BabelclipError

# Ports after one that is taken which are looked at, to name a free one.
_NEXT = 20
# Seconds in which a service is expected to have its models open, and between two looks.
_PATIENCE, _LOOK = 600.0, 0.1


def bound(host: str, port: int, option: str = "--port") -> socket.socket:
    """Returns a socket that holds the address; nobody is heard until a server listens on it.

    Args:
        host: to listen on.
        port: 0 takes a free one.
        option: with which another port is given, for the error.

    Raises:
        BabelclipError: the address is taken, or not this machine's, or wants other rights.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere this would take a port from the program that has it
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Without it the body of an answer, which is written after its head, waits 40 ms for the
    # client's word that the head has come; asyncio sets it only on sockets whose protocol was named.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        why = error.strerror or str(error)
        raise BabelclipError(
            f"Nothing can listen on {host}:{port}: {why.lower()}. {_cure(host, port, option)}"
        ) from error
    made.set_inheritable(True)
    return made


def _cure(host: str, port: int, option: str) -> str:
    for other in range(port + 1, min(port + _NEXT, 65536)):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.bind((host, other))
            return f"End what runs there, or take another port: {option} {other}"
    return "Take an address of this machine (127.0.0.1 is always one) and a port above 1023."


def address_for_people(host: str, port: int) -> str:
    """Returns the address that a browser on this machine opens."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def when_ready(address: str, say: Callable[[str], None]) -> None:
    """Calls `say` with the address once the service answers there; returns at once."""
    asking = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def look() -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(OSError), asking.open(f"{address}/readyz", timeout=5):
                say(address)
                return
            time.sleep(_LOOK)

    threading.Thread(target=look, name="when-ready", daemon=True).start()
