"""Orders of any number of rows that are computed and not stored: row i of the order costs the same for any i.

A permutation of 100 million rows as an array takes 800 MB for each epoch and source. A Feistel network is a
permutation of 2^b numbers whatever its round function is (Luby and Rackoff, SIAM J. Comput. 1988); what it maps
outside 0..n-1 is mapped again until it lies inside, which is a permutation of n numbers (cycle walking: Black and
Rogaway, CT-RSA 2002). 2^b is less than 2n, so two rounds of mapping are enough on average.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Four make a Feistel network of strong round functions random; these are weak ones, and two more cost little.
_ROUNDS = 6
# Halves of fewer bits know too few round functions: 5 rows would be visited in a handful of orders.
_FEWEST_BITS = 6
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1

UInts = npt.NDArray[np.uint64]


def mixed_key(*parts: int) -> int:
    """Returns 64 bits that depend on all of the whole numbers `parts` and their order (steps of splitmix64)."""
    key = 0
    for part in parts:
        key = (key + _GOLDEN + (part & _MASK)) & _MASK
        key = ((key ^ (key >> 30)) * _FIRST) & _MASK
        key = ((key ^ (key >> 27)) * _SECOND) & _MASK
        key ^= key >> 31
    return key


def permuted(places: npt.ArrayLike, n: npt.ArrayLike, keys: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns which of n rows stand at `places` of the orders that `keys` name.

    Args:
        places: (B,) whole numbers, 0 <= place < n.
        n: number of rows of each order, 1 or more: one for all, or (B,).
        keys: 64 bits for each order: one for all, or (B,); see `mixed_key` and `mixed_keys`.

    Returns:
        Rows (B,) int64, 0 <= row < n; all n places of one order give every row once.
    """
    values = np.array(places, np.uint64)
    sizes = np.broadcast_to(np.asarray(n, np.uint64), values.shape)
    tweaks = np.broadcast_to(np.asarray(keys, np.uint64), values.shape)
    # The exponent of a number is its count of bits: 2^bits is the next power of 2 from n on.
    bits = np.maximum(np.frexp((sizes - np.uint64(1)).astype(np.float64))[1], _FEWEST_BITS).astype(np.uint64)
    values[:] = _feistel(values, bits, tweaks)
    outside = np.flatnonzero(values >= sizes)
    while len(outside):
        again = _feistel(values[outside], bits[outside], tweaks[outside])
        values[outside] = again
        outside = outside[again >= sizes[outside]]
    return values.astype(np.int64)


def mixed_keys(keys: npt.ArrayLike, numbers: npt.ArrayLike) -> UInts:
    """Returns a key (B,) uint64 for each pair of a key and a whole number from 0 on."""
    return _hash(np.atleast_1d(np.asarray(numbers)).astype(np.uint64), np.atleast_1d(np.asarray(keys, np.uint64)))


def _feistel(values: UInts, bits: UInts, tweaks: UInts) -> UInts:
    """Returns for each value (B,) what a permutation of the numbers of so many bits makes of it."""
    # The halves may differ by one bit: each in turn is changed by what the other one hashes to.
    high_bits = bits >> np.uint64(1)
    low_bits = bits - high_bits
    high_mask, low_mask = _ones(high_bits), _ones(low_bits)
    high, low = values >> low_bits, values & low_mask
    for number in range(_ROUNDS):
        constant = np.uint64(mixed_key(number))
        if number % 2 == 0:
            high ^= _hash(low ^ constant, tweaks) & high_mask
        else:
            low ^= _hash(high ^ constant, tweaks) & low_mask
    joined: UInts = (high << low_bits) | low
    return joined


def _ones(bits: UInts) -> UInts:
    ones: UInts = (np.uint64(1) << bits) - np.uint64(1)
    return ones


def _hash(values: UInts, tweaks: UInts) -> UInts:
    # Arithmetic of unsigned arrays wraps around, as it should here.
    mixed: UInts = values + tweaks
    mixed *= np.uint64(_FIRST)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(_SECOND)
    mixed ^= mixed >> np.uint64(29)
    return mixed
