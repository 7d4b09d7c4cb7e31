"""Dropout on what adapters read, drawn for each training position by itself.

    x'_i = x_i / (1 - p)   where u_i >= p, else 0        u_i = hash(seed of the row, the layer's name, i) / 2^32

torch's own dropout draws for a whole batch at once, so that what a pair sees would depend on which pairs are beside it.
Here u depends on the row's seed, the layer and the element's place in its row alone: micro-batch, number of processes,
resume, a recomputed forward and text that is padded to another length change nothing. Rows of one position (winner
and loser, prompt and degraded prompt) have one mask, as they have one noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from contrapose.errors import UserError
from contrapose.seeds import seed_of

_WORD = 31  # bits of a seed that go into the hash at a time


def words_of(seeds: Sequence[int]) -> Tensor:
    """Seeds of 62 bits [b] as two words each [b, 2]."""
    return torch.tensor([[seed >> _WORD, seed & (2**_WORD - 1)] for seed in seeds], dtype=torch.int32)


class SeededRows:
    """Whose rows the network is asked about; without seeds nothing is dropped, as in held-out measurements."""

    def __init__(self) -> None:
        self.seeds: Tensor | None = None
        """Words [b, 2], a row a position; the rows of a call are these again and again."""
        self.count = 0
        """Rows of the latest call of the network."""

    @contextmanager
    def of(self, words: Tensor) -> Iterator[None]:
        """Drop out inside the block, by these seeds, one a group, as `words_of` gives them."""
        self.seeds = words
        try:
            yield
        finally:
            self.seeds = None


class DropoutByPosition(nn.Module):
    """Dropout of one layer's input [rows, ...]."""

    def __init__(self, share: float, layer: str, rows: SeededRows):
        super().__init__()
        self._share = share
        self._layer = layer
        self._rows = rows
        seed = seed_of("dropout", layer, bits=2 * _WORD)
        self._words = (seed >> _WORD, seed & (2**_WORD - 1))

    def forward(self, x: Tensor) -> Tensor:
        seeds = self._rows.seeds
        if seeds is None:
            return x
        if len(x) != self._rows.count or len(x) % len(seeds):
            raise UserError(
                f"lora_dropout: {self._layer} does not read the rows of a batch one by one; leave that layer out of "
                "lora_targets, or the dropout"
            )
        of_rows = seeds.repeat(len(x) // len(seeds), 1)[:, :, None]
        places = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device)
        mixed = _hashed(places ^ of_rows[:, 0] ^ self._words[0])
        mixed = _hashed(mixed ^ of_rows[:, 1] ^ self._words[1])
        # whole numbers from -2^31 on, of which a share is dropped
        dropped = mixed < round(self._share * 2**32) - 2**31
        return x.masked_fill(dropped.view(x.shape), 0) / (1 - self._share)


def _hashed(words: Tensor) -> Tensor:
    """A good mixing of 32 bits, by Wellons' search (lowbias32): every bit of the input changes half of the output's."""
    words = (words ^ ((words >> 16) & 0xFFFF)) * 0x7FEB352D
    words = (words ^ ((words >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)
    return words ^ ((words >> 16) & 0xFFFF)
