"""How often one client may ask: a bucket each, filled evenly. Entry points: `Rates`, `network_of`."""

from __future__ import annotations

import collections
import ipaddress
import time

# Clients whose rates are remembered; the oldest are forgotten.
_CLIENTS = 10_000
# Bits of an IPv6 address that one customer of a network has; the rest is theirs to choose for each request.
_IPV6_CUSTOMER = 64


class Rates:
    """Requests a minute of each client, of this process."""

    def __init__(self, per_minute: int) -> None:
        self._bound = per_minute
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, client: str) -> float:
        """Takes one request from the client's bucket; returns the seconds to wait where it is empty, else 0."""
        if not self._bound:
            return 0.0
        now = time.monotonic()
        left, seen = self._buckets.pop(client, (float(self._bound), now))
        left = min(float(self._bound), left + (now - seen) * self._bound / 60)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        while len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) * 60 / self._bound


def network_of(address: str) -> str:
    """Returns what counts as one client: an IPv4 address, or the network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((int(ip), _IPV6_CUSTOMER), strict=False).network_address)
