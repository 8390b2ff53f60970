"""Fixtures of the cluster tests."""

from collections.abc import Iterator

import pytest

from tests.cluster import hosts


@pytest.fixture
def two_hosts() -> Iterator[tuple[hosts.Host, hosts.Host]]:
    """Two hosts in network namespaces (tests/cluster/hosts.py); skipped with the reason where they cannot be made."""
    reason = hosts.why_not()
    if reason:
        pytest.skip(reason)
    with hosts.two_hosts() as pair:
        yield pair
