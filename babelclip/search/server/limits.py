"""What every request meets before a route sees it: known host, own origin, rate, size, number at once, deadline.

Written as plain ASGI, because it must count the bytes of a body as they come. Entry point: `Gate`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from babelclip.search.server.problems import log, response_of
from babelclip.search.server.rates import Rates, network_of
from babelclip.search.server.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

# Addresses that load balancers and scrapers ask all the time, the first two by whatever name.
_PROBED = {"/healthz", "/readyz"}
_UNCOUNTED = {*_PROBED, "/metrics"}
# Events of jobs go on for as long as there are some.
_ENDLESS = re.compile(r"/v1/jobs/[^/]+/events")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
# What is served belongs to whoever serves it: no crawler keeps it and none trains on it, unless the operator lets it.
_UNINDEXED = (b"x-robots-tag", b"noindex, nofollow, noarchive, noimageindex, noai, noimageai")
_CLOSED = b"default-src 'none'; frame-ancestors 'none'; sandbox"


class TooLarge(Exception):
    """The body of a request passed its bound while it was read."""


class NoRoom(Exception):
    """Bodies that are being read take all the memory that they may."""


class Gate:
    """The middleware around all routes."""

    def __init__(self, app: ASGI, settings: Settings, observe: Callable[[str, int, float], None]) -> None:
        self._app, self._settings, self._observe = app, settings, observe
        self._busy = self._held = 0
        self._rates = Rates(settings.limits.per_minute)
        self._hosts = {host.lower() for host in (*settings.hosts, settings.host, "localhost", "127.0.0.1", "[::1]")}
        self._headers = _HEADERS if settings.indexable else [*_HEADERS, _UNINDEXED]
        self._any_host = not is_loopback(settings.host) and not settings.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes the start of the server on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        client = self.client_of(scope, headers)
        scope.setdefault("state", {})["client"] = client
        start, status = time.perf_counter(), 500

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _value in message["headers"]}
                extra = [*self._headers, (b"content-security-policy", _CLOSED)]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in given)]
            await send(message)

        refusal = self._refusal(scope, headers, client)
        if refusal is not None:
            await response_of(*refusal)(scope, receive, send_with_headers)
        else:
            await self._answer(scope, receive, send_with_headers, client)
        # The route's own path: one that was refused or is nobody's could be anything, and fill the memory.
        route = getattr(scope.get("route"), "path", "unknown")
        self._observe(route, status, time.perf_counter() - start)

    def client_of(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """Returns the address of the client; a proxy's word is taken only from the proxies that are trusted."""
        peer = str((scope.get("client") or ("unknown", 0))[0])
        if peer in self._settings.trusted_proxies:
            # From the right, the first address that is not a trusted proxy: what stands before it anybody may write.
            for hop in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
                address = _plain_address(hop.strip())
                if address and address not in self._settings.trusted_proxies:
                    return address
        return peer

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], client: str) -> tuple[Any, ...] | None:
        """Returns status, code, detail and headers of a refusal, None where the request may pass."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if not self._any_host and name not in self._hosts and scope["path"] not in _PROBED:
            return 421, "wrong_host", "This service is not known by that host name. Add it with --known-host NAME."
        origin = headers.get(b"origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD"):
            if origin.decode("latin-1").lower().partition("://")[2] != host:
                return 403, "forbidden", "Requests of other sites' pages are refused. Ask from the service's own page."
        if scope["path"] in _UNCOUNTED:
            return None
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > self._settings.limits.body:
            return 413, "too_large", f"A request may have {self._settings.limits.body:,} bytes. Send less."
        wait = self._rates.take(network_of(client))
        if wait > 0:
            seconds = str(int(wait) + 1)
            detail = f"One client may ask {self._settings.limits.per_minute} times a minute. Ask again in {seconds} s."
            return 429, "too_many_requests", detail, {"Retry-After": seconds}
        if self._busy >= self._settings.limits.concurrent:
            return (
                503,
                "busy",
                f"{self._busy} requests are being answered. Ask again in a second.",
                {"Retry-After": "1"},
            )
        return None

    async def _answer(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        limits, held, begun = self._settings.limits, 0, False
        whole = asyncio.Event()

        async def counted() -> MutableMapping[str, Any]:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            held, self._held = held + size, self._held + size
            if held > limits.body:
                raise TooLarge
            if self._held > limits.bodies:
                raise NoRoom
            if not message.get("more_body", False):
                whole.set()
            return message

        async def started(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        refusal: tuple[Any, ...] | None = None
        self._busy += 1
        try:
            seconds = None if _ENDLESS.fullmatch(scope["path"]) else limits.seconds
            await _while_wanted(self._app(scope, counted, started), receive, whole, seconds)
        except TooLarge:
            refusal = 413, "too_large", f"A request may have {limits.body:,} bytes. Send less."
        except NoRoom:
            refusal = 503, "busy", "Too much is being sent at once. Ask again in a second.", {"Retry-After": "1"}
        except asyncio.TimeoutError:
            detail = f"The answer took more than {limits.seconds:g} s. Ask for less, or again later."
            refusal = 503, "busy", detail, {"Retry-After": "2"}
        except Exception:
            # The trace goes to the operator's log; the client learns that it was not their fault.
            log.log(logging.ERROR, "a request failed", exc_info=True)
            refusal = 500, "failed", "The service failed at this request. It is in the operator's log."
        finally:
            self._busy -= 1
            self._held -= held
        if refusal is not None and not begun:
            await response_of(*refusal)(scope, receive, send)


async def _while_wanted(work: Awaitable[None], receive: Receive, whole: asyncio.Event, seconds: float | None) -> None:
    """Waits for `work` until its time is over, or nobody waits for its answer any more: then it is cancelled.

    Raises:
        asyncio.TimeoutError: its time is over.
    """

    async def left() -> None:
        # What comes after the whole body can only be that the client has gone.
        await whole.wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        elif not gone.done():
            raise asyncio.TimeoutError
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _plain_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
