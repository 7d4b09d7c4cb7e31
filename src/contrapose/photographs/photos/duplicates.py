"""Photographs that were seen before, nearly: same picture, another size, quality or brightness."""

from __future__ import annotations

import itertools
from array import array

_BITS = 64
_MOST_KEYS = 1 << 16  # of a band; more would not make the few that share one fewer, and take memory of their own


class NearDuplicates:
    """Fingerprints within `distance` bits of an earlier one, found without comparing all.

    Both are cut into distance + 1 bands. Two fingerprints that differ in `distance` bits agree in at least one whole
    band (the pigeonhole principle), so only those that share a band are compared. They are kept as plain numbers: with
    the usual distance of 4, a million take 40 MB.
    """

    def __init__(self, distance: int = 4):
        assert 0 <= distance < _BITS
        self.distance = distance
        edges = [_BITS * band // (distance + 1) for band in range(distance + 2)]
        # Of a wide band its lowest bits will do: fingerprints that agree in all of it agree in them.
        self._bands = [(low, min(1 << high - low, _MOST_KEYS) - 1) for low, high in itertools.pairwise(edges)]
        self._numbers = array("q")
        self._fingerprints = array("Q")
        self._by_band: list[dict[int, array[int]]] = [{} for _ in self._bands]  # places in the two above

    def remember(self, number: int, fingerprint: int) -> None:
        """Remember a photograph, by a number of the caller's."""
        place = len(self._numbers)
        self._numbers.append(number)
        self._fingerprints.append(fingerprint)
        for (low, mask), places in zip(self._bands, self._by_band, strict=True):
            key = fingerprint >> low & mask
            if key not in places:
                places[key] = array("I")
            places[key].append(place)

    def first_near(self, fingerprint: int) -> int | None:
        """The number of the earliest remembered photograph within `distance` bits, or None."""
        first = None
        for (low, mask), places in zip(self._bands, self._by_band, strict=True):
            for place in places.get(fingerprint >> low & mask, ()):
                if first is not None and place >= first:  # places ascend, so the rest of this band is later too
                    break
                if (fingerprint ^ self._fingerprints[place]).bit_count() <= self.distance:
                    first = place
        return None if first is None else self._numbers[first]
