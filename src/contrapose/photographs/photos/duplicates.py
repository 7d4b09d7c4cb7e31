"""Photographs that were seen before, nearly: same picture, another size, quality or brightness."""

from __future__ import annotations

import itertools
from collections import defaultdict

_BITS = 64


class NearDuplicates:
    """Fingerprints within `distance` bits of an earlier one, found without comparing all.

    Cut into distance + 1 bands, two fingerprints that differ in `distance` bits agree in a whole band at least
    (the pigeonhole principle), so only those that share a band are compared.
    """

    def __init__(self, distance: int = 4):
        assert 0 <= distance < _BITS
        self.distance = distance
        edges = [_BITS * band // (distance + 1) for band in range(distance + 2)]
        self._bands = [(low, (1 << high - low) - 1) for low, high in itertools.pairwise(edges)]
        self._kept: list[tuple[str, int]] = []
        self._by_band: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bands]

    def seen(self, name: str, fingerprint: int) -> str | None:
        """The name of the first that is as near, when there is one; otherwise this one is remembered from now on."""
        places = [
            found[fingerprint >> low & mask] for (low, mask), found in zip(self._bands, self._by_band, strict=True)
        ]
        for place in sorted({place for some in places for place in some}):
            earlier, other = self._kept[place]
            if (fingerprint ^ other).bit_count() <= self.distance:
                return earlier
        for some in places:
            some.append(len(self._kept))
        self._kept.append((name, fingerprint))
        return None
