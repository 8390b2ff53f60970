"""What an operator decides of the service, and the limits that hold whoever asks.

Entry points: `Settings`, `Limits`, `check_settings`.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babelclip.errors import BabelclipError, shown


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request, one client and all of them together may ask for.

    Attributes:
        body: bytes of a request.
        bodies: bytes of all requests that are being read or answered; the next one gets 503.
        picture: bytes of one picture, before it is decoded.
        pixels: of one picture; more is an error before anything is decoded.
        json_depth: objects and arrays within each other.
        text: characters of one query text.
        terms: of one query.
        batch: texts, pictures or labels of one `/v1/embed` or `/v1/zero-shot`.
        k: rows of one answer.
        depth: rows that scrolling may reach; the cursor ends there.
        filter_parts: conditions of one filter.
        per_minute: requests of one key, and of one address, in one process; 0 sets no bound.
        concurrent: requests being answered at once; the next one gets 503.
        queue: queries that wait for the encoder; the next one gets 503.
        seconds: that one request may take.
        decode_queue: pictures that wait for the decoder; the next one gets 503.
        decode_seconds: that decoding one picture may take.
        decode_memory: bytes of address space that a decoder may take beyond its start.
    """

    body: int = 16 << 20
    bodies: int = 256 << 20
    picture: int = 10 << 20
    pixels: int = 50_000_000
    json_depth: int = 24
    text: int = 2000
    terms: int = 16
    batch: int = 64
    k: int = 200
    depth: int = 10_000
    filter_parts: int = 32
    per_minute: int = 1200
    concurrent: int = 128
    queue: int = 256
    seconds: float = 20.0
    decode_queue: int = 64
    decode_seconds: float = 5.0
    decode_memory: int = 1 << 30


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    Attributes:
        collections: name -> address of a collection, as `open_collection` takes it.
        models: that encode queries; a collection is asked by the first of its space.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        token_file: keys, hashed (see `tokens.py`); "" for none.
        allow_open: listen on other than loopback without keys. Said loudly in the log.
        hosts: further names by which the service is called; others are refused, which keeps a page that rebinds its
            name to this address out.
        workers: processes.
        trusted_proxies: addresses whose `X-Forwarded-For` and `user_header` are believed.
        user_header: header in which a trusted proxy names the person it let in (OIDC and the like); "" for none. Such a
            person may read; without the header a key is needed.
        secret_file: secret that signs cursors and addresses, which replicas on several machines share; made where there
            is none; "" for one of this run.
        space: of clip-retrieval folders, which do not say it themselves.
        state: folder that the processes of one service share; "" for a single process.
        show_paths: answer with the path of a picture, relative to its source.
        full_pictures: give the picture itself (re-encoded, at most 2048 pixels), not only its thumbnail.
        fetch: `off`, `public` (any public address) or host names, separated by commas, to fetch pictures from.
        fetch_proxy: `HOST:PORT` through which they are fetched; "" for none. The environment's proxies are not used.
        ignore_opt_outs: fetch from sites too whose robots.txt or X-Robots-Tag keep their pictures back.
        indexable: let crawlers in; off, robots.txt and X-Robots-Tag keep them out.
        metrics_at: `HOST:PORT` or a port of this machine, where the figures are told instead of beside the other
            routes; "" for there.
        ignore_safety: let clip-retrieval's clients ask for its safety models where the collection has no such column.
            Off, such a request is refused: a filter that does not work must not look as if it did.
        log_queries: `off`, `hashed` or `plain`.
        cache: query vectors kept.
        wait: seconds that the encoder waits for more queries to form a batch.
        batch: queries the encoder takes at once.
        threads: of torch; 0 leaves its choice.
        refresh: seconds after which a collection is read anew.
        fast: answer from a graph in memory (`faiss_fast.py`), made of each collection at the start and again in the
            background when its rows change; until it is ready the collection itself answers.
        limits: see `Limits`.
    """

    collections: dict[str, str]
    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str = ""
    allow_open: bool = False
    hosts: tuple[str, ...] = ()
    workers: int = 1
    trusted_proxies: tuple[str, ...] = ()
    user_header: str = ""
    secret_file: str = ""
    space: str = ""
    state: str = ""
    show_paths: bool = False
    full_pictures: bool = True
    fetch: str = "off"
    fetch_proxy: str = ""
    ignore_opt_outs: bool = False
    indexable: bool = False
    metrics_at: str = ""
    ignore_safety: bool = False
    log_queries: str = "off"
    cache: int = 10_000
    wait: float = 0.003
    batch: int = 32
    threads: int = 0
    refresh: float = 2.0
    fast: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def protected(self) -> bool:
        """Whether reading needs a key, or a person that a proxy let in."""
        return bool(self.token_file or self.user_header)

    def to_json(self) -> str:
        """Returns the settings as JSON, for the processes of the service."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Returns the settings that `to_json` gave."""
        content: dict[str, Any] = json.loads(text)
        limits = Limits(**content.pop("limits"))
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**given, limits=limits)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a service that listens on `host`."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def address_of(text: str, option: str) -> tuple[str, int]:
    """Returns host and port of `HOST:PORT`, `[IPV6]:PORT` or `PORT`, which is one of this machine.

    Raises:
        BabelclipError: it is none of these.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 <= int(port) < 65536) or (":" in host and not host.endswith("]")):
        raise BabelclipError(f"{option} is {text!r}; it must be HOST:PORT or PORT, as 127.0.0.1:9100. Correct it.")
    return host.strip("[]") or "127.0.0.1", int(port)


def check_settings(settings: Settings) -> None:
    """Does nothing where the service may start so.

    Raises:
        BabelclipError: other machines could reach it without a key, or a value is none of those allowed.
    """
    if not is_loopback(settings.host) and not settings.protected and not settings.allow_open:
        raise BabelclipError(
            f"--host {settings.host} lets other machines in, and there are no keys. Listen on 127.0.0.1, or make a key "
            "(babelclip serve --make-key NAME --token-file keys.txt) and give --token-file keys.txt; "
            "--allow-open serves everybody without one."
        )
    if settings.metrics_at:
        host = address_of(settings.metrics_at, "--metrics-at")[0]
        if not is_loopback(host) and not settings.token_file and not settings.allow_open:
            raise BabelclipError(
                f"--metrics-at {settings.metrics_at} shows the figures to other machines, and there are no keys. "
                "Take 127.0.0.1, or give --token-file keys.txt; --allow-open shows them to everybody."
            )
    if settings.fetch_proxy:
        address_of(settings.fetch_proxy, "--fetch-proxy")
    for proxy in settings.trusted_proxies:
        if not _is_address(proxy):
            raise BabelclipError(
                f"--trusted-proxy {shown(proxy)} is no address, and requests come from addresses: nothing would match "
                "it. Give the proxy's, such as 10.0.0.5."
            )
    if settings.user_header and not settings.trusted_proxies:
        raise BabelclipError(
            f"--user-header {settings.user_header} is believed of trusted proxies only, and there are none: anybody "
            "could write it. Give --trusted-proxy ADDRESS."
        )
    if settings.log_queries not in ("off", "hashed", "plain"):
        raise BabelclipError(f"--log-queries is {settings.log_queries!r}; it must be off, hashed or plain. Choose one.")
    if settings.token_file and not Path(settings.token_file).is_file():
        raise BabelclipError(
            f"The key file {settings.token_file} does not exist. "
            "Make a key: babelclip serve --make-key NAME --token-file FILE"
        )
