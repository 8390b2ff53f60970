"""Fetching a picture for a query from the web: off unless the operator turns it on, and then from public hosts only.

The name is resolved once, every address it has is checked, and the connection goes to the very address that was
checked, so a name that changes its mind in between (DNS rebinding) gains nothing; each redirect is checked the same
way. The environment's proxies are not used. Sites that keep their pictures back (robots.txt, X-Robots-Tag) are left
alone. Entry points: `fetch_picture`, `is_public`.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.robotparser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from babelclip import __version__
from babelclip.search.server.problems import Problem

REDIRECTS = 3
_CONNECT, _TOTAL = 5.0, 10.0
_PORTS = {"http": 80, "https": 443}
_AGENT = f"babelclip/{__version__} (picture of a search query)"
# Sites that do not want their pictures used by models say so in this header; see img2dataset's convention.
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")

_MOVED = (301, 302, 303, 307, 308)
# Bytes of a robots.txt; what crawlers of the large search engines read of one.
_ROBOTS = 500_000

# (host, port) -> addresses; replaced in tests.
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True)
class _Asking:
    """What holds for every connection of one fetch.

    Attributes:
        hosts: that may be asked; empty where all public ones may.
        resolve: names to addresses.
        deadline: of `time.monotonic`.
        proxy: `HOST:PORT` or "".
        checked: (host, port) -> the address that was checked, so that no name is looked up twice.
    """

    hosts: frozenset[str]
    resolve: Resolve
    deadline: float
    proxy: str
    checked: dict[tuple[str, int], str] = field(default_factory=dict)


def is_public(address: str) -> bool:
    """Returns whether an IP address is on the public internet: not private, local, shared, multicast or reserved.

    IPv6 forms that carry an IPv4 address (mapped, NAT64, 6to4, Teredo) are judged by that address too.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner: list[ipaddress.IPv4Address] = []
    if isinstance(ip, ipaddress.IPv6Address):
        inner += [part for part in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if part is not None]
        if ip in _NAT64:
            return _global(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        # IPv4-compatible and site-local addresses are long out of use, and still go somewhere in some networks.
        if int(ip) >> 32 == 0 or ip in _LOCAL_NAT64 or ip.is_site_local:
            return False
        if ip.ipv4_mapped is not None:
            return _global(ip.ipv4_mapped)
    return _global(ip) and all(_global(part) for part in inner)


def _global(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_global and not (
        ip.is_multicast or ip.is_private or ip.is_reserved or ip.is_loopback or ip.is_link_local or ip.is_unspecified
    )


def fetch_picture(
    url: str, policy: str, limit: int, resolve: Resolve | None = None, *, opt_outs: bool = True, proxy: str = ""
) -> bytes:
    """Returns the bytes behind an address.

    Args:
        url: http or https, on the usual port, without user name.
        policy: `off`, `public`, or the host names that are allowed, separated by commas.
        limit: bytes.
        resolve: names to addresses; by default the system's.
        opt_outs: leave alone what robots.txt or X-Robots-Tag keep back.
        proxy: `HOST:PORT` that connections go through, "" for none. It is told the checked address, never a name.

    Raises:
        Problem: fetching is off, the address is not allowed, or the other side does not give a picture.
    """
    if policy == "off":
        raise Problem(403, "forbidden", "This service fetches no addresses. Send the picture itself.")
    hosts = frozenset() if policy == "public" else frozenset(name.strip().lower() for name in policy.split(","))
    asking = _Asking(hosts, resolve or _resolve, time.monotonic() + _TOTAL, proxy)
    for _turn in range(REDIRECTS + 1):
        if opt_outs and not _robots_allow(url, asking):
            raise _unwanted()
        with _opened(url, asking) as answer:
            if answer.status in _MOVED:
                url = urllib.parse.urljoin(url, answer.getheader("Location") or "")
                continue
            if answer.status != 200:
                raise Problem(400, "bad_request", "The address does not answer with a picture. Check it.")
            if opt_outs and opts_out(answer.getheader("X-Robots-Tag") or ""):
                raise _unwanted()
            return _read(answer, limit, asking.deadline)
    raise Problem(400, "bad_request", f"The address redirects more than {REDIRECTS} times. Give the final one.")


def _unwanted() -> Problem:
    return Problem(403, "forbidden", "That site does not want its pictures used so. Send the picture itself.")


def _robots_allow(url: str, asking: _Asking) -> bool:
    """Returns whether the site's robots.txt lets us ask for `url` (RFC 9309): what is not there forbids nothing."""
    scheme, host, _port, _target = _parts(url)
    place = f"{scheme}://{f'[{host}]' if ':' in host else host}/robots.txt"
    for _turn in range(REDIRECTS + 1):
        with _opened(place, asking) as answer:
            if answer.status in _MOVED:
                place = urllib.parse.urljoin(place, answer.getheader("Location") or "")
            elif answer.status == 200:
                rules = urllib.robotparser.RobotFileParser()
                rules.parse(_read(answer, _ROBOTS, asking.deadline).decode("utf-8", "replace").splitlines())
                return rules.can_fetch(_AGENT, url)
            else:
                return 400 <= answer.status < 500
    return True


@contextlib.contextmanager
def _opened(url: str, asking: _Asking) -> Iterator[http.client.HTTPResponse]:
    """Gives the head of an answer; the connection ends with the block, and at the deadline."""
    scheme, host, port, target = _parts(url)
    if asking.hosts and host.lower() not in asking.hosts:
        raise Problem(403, "forbidden", "Pictures are not fetched from that host. Send the picture itself.")
    connection = _Pinned(scheme, host, port, _checked_address(host, port, asking), asking.proxy)
    # Each read has a timeout; this ends an answer whose head drips in a byte at a time.
    cut = threading.Timer(max(asking.deadline - time.monotonic(), 0.001), connection.cut)
    cut.daemon = True
    cut.start()
    try:
        connection.request("GET", target, headers={"User-Agent": _AGENT, "Accept": "image/*, text/plain", "Host": host})
        yield connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise Problem(400, "bad_request", "The address cannot be read. Check it.") from error
    finally:
        cut.cancel()
        connection.close()


def opts_out(said: str) -> bool:
    """Returns whether an X-Robots-Tag says that pictures are not to be used so: by everybody, or by us by name."""
    for word in said.lower().split(","):
        agent, colon, rule = word.partition(":")
        if (rule if colon and agent.strip() == "babelclip" else word).strip() in _OPT_OUTS:
            return True
    return False


def _parts(url: str) -> tuple[str, str, int, str]:
    """Returns scheme, host, port and target of an address that may be fetched."""
    refused = Problem(
        403, "forbidden", "Only http and https addresses on their usual port, without a user name, are fetched."
    )
    if len(url) > 4096 or any(ord(c) <= 32 or ord(c) == 127 or c == "\\" for c in url):
        raise refused
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise refused from None
    host = parts.hostname or ""
    if parts.scheme not in _PORTS or parts.username is not None or parts.password is not None:
        raise refused
    usual = _PORTS[parts.scheme]
    # A literal IPv6 address stands in brackets; every other host is letters, digits, dots and hyphens.
    if port not in (None, usual) or not (_HOST.fullmatch(host) or ":" in host):
        raise refused
    target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return parts.scheme, host, usual, f"{target}?{query}" if query else target


def _resolve(host: str, port: int) -> list[str]:
    return list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def _checked_address(host: str, port: int, asking: _Asking) -> str:
    """Returns the address of a host, which is looked up once a fetch.

    Raises:
        Problem: it has none, or one that is not public.
    """
    if (host, port) not in asking.checked:
        try:
            addresses = asking.resolve(host, port)
        except (OSError, UnicodeError):
            addresses = []
        # One private address among public ones is refused too: which of them answers is not ours to hope.
        if not addresses or not all(is_public(address) for address in addresses):
            raise Problem(403, "forbidden", "That host is not on the public internet. Send the picture itself.")
        asking.checked[host, port] = addresses[0]
    return asking.checked[host, port]


def _read(answer: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    content = bytearray()
    while True:
        if time.monotonic() > deadline:
            raise Problem(400, "bad_request", f"The picture takes more than {_TOTAL:g} s to fetch. Send it instead.")
        part = answer.read1(1 << 16)
        if not part:
            return bytes(content)
        content += part
        if len(content) > limit:
            raise Problem(413, "too_large", f"The picture has more than {limit:,} bytes. Send a smaller one.")


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, speaking to the host by its name."""

    def __init__(self, scheme: str, host: str, port: int, address: str, proxy: str) -> None:
        super().__init__(host, port, timeout=_CONNECT)
        self._scheme, self._address, self._proxy = scheme, address, proxy
        self._cut = False

    def cut(self) -> None:
        """Ends the connection from another thread, also one that is being made."""
        self._cut = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        """Connects to the checked address; TLS checks the certificate of the name."""
        if self._proxy:
            name, _, port = self._proxy.rpartition(":")
            self._hold(socket.create_connection((name.strip("[]"), int(port)), self.timeout))
            self._tunnel_through()
        else:
            self._hold(socket.create_connection((self._address, self.port), self.timeout))
        if self._scheme == "https":
            # The handshake comes once `cut` sees the socket: the other side may drip that in too.
            wrap = ssl.create_default_context().wrap_socket
            secured = wrap(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._hold(secured)
            secured.do_handshake()

    def _hold(self, made: socket.socket) -> None:
        self.sock = made
        if self._cut:  # before there was anything to cut
            raise OSError("the time is over")

    def _tunnel_through(self) -> None:
        """Has the proxy connect to the checked address: it looks up no name, so it cannot be led elsewhere."""
        place = f"[{self._address}]:{self.port}" if ":" in self._address else f"{self._address}:{self.port}"
        self.sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            part = self.sock.recv(4096)
            if not part or len(head) > 16384:
                raise OSError("the proxy does not answer")
            head += part
        if head.split(maxsplit=2)[1:2] != [b"200"]:
            raise OSError("the proxy refuses")
